"""The child's side of `rewrap run --processes N`: how it answers, and when it ends."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from kube_rewrap.worker import parent as parents
from kube_rewrap.worker.claimed import ClaimingWorker, Job, serve
from kube_rewrap.worker.errors import SealError, StoppedError
from kube_rewrap.worker.parent import Parent, ParentPace, open_parent
from kube_rewrap.worker.rate.brake import Brake
from tests.fakes.objects import NEW
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.campaigns.harness import new_cluster

pytestmark = pytest.mark.timeout(30)


async def answers_to(lines: asyncio.StreamReader, brake: Brake) -> list[dict[str, object]]:
    said = io.StringIO()
    async with open_parent(lines, said, 1) as parent:
        await serve(new_cluster(MemoryStore(), NEW).engine, parent, "campaign", brake)
    return [json.loads(line) for line in said.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("error", "kind", "because"),
    [
        pytest.param(SealError("it failed"), "SealError", "it failed", id="ours => its class and text"),
        pytest.param(ValueError("c2VjcmV0"), "WorkerError", "unexpected ValueError in a child process", id="foreign"),
        pytest.param(SealError("x" * 100_000), "SealError", "x" * 8_000, id="long => cut"),
    ],
)
async def test_an_error_is_answered_without_the_words_of_a_library(
    monkeypatch: pytest.MonkeyPatch, error: Exception, kind: str, because: str
) -> None:
    async def fail(_self: ClaimingWorker, _job: Job, _number: int) -> None:
        raise error

    monkeypatch.setattr(ClaimingWorker, "do", fail)
    lines = asyncio.StreamReader()
    lines.feed_data(b'{"job": "rewrap", "number": 7}\n')
    lines.feed_eof()
    assert await answers_to(lines, Brake()) == [
        {},
        {"job": "rewrap", "number": 7, "error": kind, "because": because},
    ]


async def test_it_says_that_it_lives_until_it_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents, "ALIVE_SECONDS", 0.01)
    brake = Brake()
    asyncio.get_running_loop().call_later(0.2, brake.pull, StoppedError("a signal"))
    answers = await answers_to(asyncio.StreamReader(), brake)
    assert len(answers) > 2
    assert not any(answers)


async def test_it_ends_without_an_answer_when_its_parent_stands_still(monkeypatch: pytest.MonkeyPatch) -> None:
    """A parent that is stopped can't renew its lock. When it goes on, it starts another or finds its lock lost."""
    monkeypatch.setattr(parents, "_SILENT_SECONDS", 0.3)
    stopped = asyncio.Event()

    async def work(worker: ClaimingWorker, _job: Job, _number: int) -> None:
        try:
            await worker._brake.unless_pulled(asyncio.Event().wait())
        finally:
            stopped.set()

    monkeypatch.setattr(ClaimingWorker, "do", work)
    lines = asyncio.StreamReader()
    lines.feed_data(b'{"job": "rewrap", "number": 7}\n')
    brake = Brake()
    answers = await answers_to(lines, brake)
    assert (answers, stopped.is_set(), brake.is_on) == ([{}], True, True)


async def test_signs_of_life_keep_it_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parents, "_SILENT_SECONDS", 1.0)
    lines, brake = asyncio.StreamReader(), Brake()
    serving = asyncio.create_task(answers_to(lines, brake))
    for _ in range(30):
        lines.feed_data(b"{}\n")
        await asyncio.sleep(0.05)
    assert not serving.done()
    lines.feed_eof()
    await serving


async def test_a_window_is_answered_once_it_holds() -> None:
    lines = asyncio.StreamReader()
    lines.feed_data(b'{"window": 64, "sharers": 2}\n')
    lines.feed_eof()
    assert await answers_to(lines, Brake()) == [{}, {"window": 64}]


async def granted(pace: ParentPace, objects: int) -> bool:
    """Whether the pace lets so many objects pass at once."""
    try:
        async with asyncio.timeout(0.2):
            await pace.take(objects)
    except TimeoutError:
        return False
    return True


async def test_a_rate_is_asked_of_the_parent() -> None:
    lines, said = asyncio.StreamReader(), io.StringIO()
    async with open_parent(lines, said, 2) as parent:
        pace = ParentPace(parent, "objects", 1_000)
        assert pace.most == 25
        lines.feed_data(b'{"granted": 0}\n')
        assert await granted(pace, 7)
        assert not await granted(pace, 8)
        assert said.getvalue().splitlines() == [
            '{"take": 0, "of": "objects", "objects": 7}',
            '{"take": 1, "of": "objects", "objects": 8}',
        ]
        assert await granted(ParentPace(parent, "objects", 0), 10**6)


async def test_the_one_that_is_left_takes_larger_groups() -> None:
    lines = asyncio.StreamReader()
    async with open_parent(lines, io.StringIO(), 4) as parent:
        pace = ParentPace(parent, "objects", 1_000)
        assert pace.most == 12
        lines.feed_data(b'{"window": 256, "sharers": 1}\n')
        await parent.next_order()
        assert pace.most == 50


async def test_without_its_parent_it_finishes_at_its_share_of_the_rate() -> None:
    lines = asyncio.StreamReader()
    async with open_parent(lines, io.StringIO(), 2) as parent:
        pace = ParentPace(parent, "objects", 100)
        waiting = asyncio.create_task(pace.take(5))
        await asyncio.sleep(0)
        lines.feed_eof()
        await waiting
        assert await is_gone(parent)
        began = asyncio.get_running_loop().time()
        await pace.take(10)
        assert asyncio.get_running_loop().time() - began > 0.15


async def is_gone(parent: Parent) -> bool:
    return await parent.next_order() is None
