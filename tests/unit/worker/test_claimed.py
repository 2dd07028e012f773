"""The child's side of `rewrap run --processes N`: how it answers, and when it ends."""

from __future__ import annotations

import asyncio
import io
import json

import pytest

from kube_rewrap.worker import claimed
from kube_rewrap.worker.claimed import ClaimingWorker, Job, serve
from kube_rewrap.worker.errors import SealError, StoppedError
from kube_rewrap.worker.rate.brake import Brake
from tests.fakes.objects import NEW
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.campaigns.harness import new_cluster

pytestmark = pytest.mark.timeout(30)


async def answers_to(lines: asyncio.StreamReader, brake: Brake) -> list[dict[str, object]]:
    said = io.StringIO()
    await serve(new_cluster(MemoryStore(), NEW).engine, lines, said, "campaign", brake)
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
    monkeypatch.setattr(claimed, "_ALIVE_SECONDS", 0.01)
    brake = Brake()
    asyncio.get_running_loop().call_later(0.2, brake.pull, StoppedError("a signal"))
    answers = await answers_to(asyncio.StreamReader(), brake)
    assert len(answers) > 2
    assert not any(answers)
