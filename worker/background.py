"""Background tasks of a code block: each has a name, passes its failure on, and is cancelled when the block ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from kube_rewrap.worker.errors import WorkerError

Work = Callable[[], Coroutine[object, object, object]]
"""Creates the coroutine when the task starts; a task that is cancelled before its start creates none."""

Begin = Callable[[str, Work], Callable[[], object]]
"""Starts a task under a name, and returns a function that cancels it before the block ends."""


@asynccontextmanager
async def background(fail: Callable[[WorkerError], None]) -> AsyncIterator[Begin]:
    """Yield a function that starts tasks beside the block; they are cancelled, and awaited, when the block ends.

    A task that fails calls `fail`, mostly the `pull` of a brake. For an exception that is no WorkerError, `fail` gets a
    WorkerError that names the task and the exception's type.
    """
    tasks: list[asyncio.Task[None]] = []

    async def guarded(name: str, work: Work) -> None:
        try:
            await work()
        except WorkerError as error:
            fail(error)
        except Exception as error:  # noqa: BLE001 - the top of a task: `fail` stops the block
            fail(WorkerError(f"{name} failed: {type(error).__name__}"))

    def begin(name: str, work: Work) -> Callable[[], object]:
        task = asyncio.create_task(guarded(name, work), name=name)
        tasks.append(task)
        return task.cancel

    try:
        yield begin
    finally:
        await cancel_all(*tasks)


async def cancel_all(*tasks: asyncio.Future[Any]) -> None:
    """Cancel tasks, and wait until they have ended, whatever their result."""
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def uninterrupted(work: Coroutine[object, object, None]) -> None:
    """Await work that must not stop halfway: a cancellation waits until it has ended."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
