"""Tasks beside a block end with it, and none fails in silence."""

from __future__ import annotations

import asyncio

import pytest

from kube_rewrap.worker.background import background
from kube_rewrap.worker.errors import SpaceError, WorkerError

pytestmark = pytest.mark.timeout(20)


async def fails_with(error: Exception) -> WorkerError:
    """What is told of a task that fails so."""
    told: asyncio.Future[WorkerError] = asyncio.get_running_loop().create_future()

    async def work() -> None:
        raise error

    async with background(told.set_result) as begin:
        begin("the space guard", work)
        return await told


async def test_an_error_of_ours_is_passed_on_as_it_is() -> None:
    full = SpaceError("etcd is full")
    assert await fails_with(full) is full


async def test_any_other_error_is_passed_on_by_the_task_and_its_kind_and_never_by_its_words() -> None:
    assert str(await fails_with(KeyError("secret words"))) == "the space guard failed: KeyError"


async def test_tasks_are_cancelled_and_waited_for_when_the_block_ends() -> None:
    ended: list[str] = []
    told: list[WorkerError] = []
    started = asyncio.Event()

    async def work() -> None:
        started.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("closed")

    async with background(told.append) as begin:
        begin("the supervisor", work)
        await started.wait()
    assert (ended, told) == (["closed"], [])
