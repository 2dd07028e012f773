"""How far a campaign is, by its batches' records."""

from __future__ import annotations

import itertools
import time
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from kube_rewrap.scheduler.campaigns.progress import Progress
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause, Scope
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.standing import Standing

CAMPAIGN = Campaign(
    id="c",
    state=CampaignState.RUNNING,
    generation="sha256:0",
    scope=Scope(("secrets",)),
    batches=2,
    planned_at="2026-01-01T00:00:00+00:00",
    because="3 of 9 objects",
)


def batch(number: int, planned: int, state: BatchState, sweep: int = 1, **counts: int) -> Checkpoint:
    spec = BatchSpec(
        campaign="c",
        number=number,
        resource="secrets",
        range=KeyRange(b"a", b"b"),
        generation="sha256:0",
        namespaces=(("default", planned),),
        sweep=sweep,
    )
    return Checkpoint(spec=spec, state=state, report=BatchReport.of(counts))


RUNNING, DONE, PARKED, PENDING = BatchState.RUNNING, BatchState.DONE, BatchState.PARKED, BatchState.PENDING


@pytest.mark.parametrize(
    ("batches", "sweeps", "expected"),
    [
        pytest.param([], 1, (0, 0, 100.0, 0), id="no batch => nothing is left"),
        pytest.param([batch(0, 10, PENDING)], 1, (0, 10, 0.0, 1), id="nothing is done"),
        pytest.param([batch(0, 0, PENDING)], 1, (0, 0, 0.0, 1), id="an empty range is still to be looked at"),
        pytest.param(
            [batch(0, 10, DONE, rewritten=4, current=3), batch(1, 6, RUNNING, rewritten=2)],
            1,
            (9, 13, 69.2, 1),
            id="deleted objects of a done batch are not awaited",
        ),
        pytest.param(
            [batch(0, 10, RUNNING, current=12), batch(1, 6, DONE, current=6)],
            1,
            (18, 18, 99.9, 1),
            id="more objects than planned: not 100 % before the batch is done",
        ),
        pytest.param([batch(0, 10, PARKED, current=4)], 1, (4, 4, 100.0, 0), id="a parked batch is not awaited"),
        pytest.param(
            [batch(0, 10, DONE, rewritten=10), batch(1, 6, RUNNING, sweep=2, rewritten=6, current=2)],
            2,
            (2, 16, 12.5, 2),
            id="a second sweep looks at all of it again",
        ),
    ],
)
def test_how_far(batches: list[Checkpoint], sweeps: int, expected: tuple[int, int, float, int]) -> None:
    found = Standing.of(batches, sweeps)
    assert (found.done, found.total, found.percent, found.batches_left) == expected


def test_rate_and_end_are_those_of_the_last_minute_and_a_pause_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = itertools.count(0, 10)
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    progress = Progress(30.0, set())
    paused = CAMPAIGN.paused(Pause.OPERATOR, "paused")
    with capture_logs() as logs:
        for done in (0, 100, 200, 300):
            progress.watch(CAMPAIGN, Standing(BatchReport.of({"rewritten": done}), done, 1000 - done, 1))
        assert (progress.rate, progress.seconds_left) == (10.0, 70.0)
        for _ in range(100):
            progress.watch(paused, Standing(BatchReport.of({"rewritten": 300}), 300, 700, 1))
        assert progress.rate == 0.0
        for done in (300, 350, 400):
            progress.watch(CAMPAIGN, Standing(BatchReport.of({"rewritten": done}), done, 1000 - done, 1))
        assert (progress.rate, progress.seconds_left) == (5.0, 120.0)
    [first, second] = logs
    assert (first["done"], first["total"], first["percent"], first["eta_seconds"]) == (200, 1000, 20.0, 80)
    assert (second["done"], second["rate"], second["eta_seconds"]) == (400, 5.0, 120)
    assert {line["event"] for line in logs} == {"campaign.progress"}


def test_duration_is_from_the_plan_to_the_end() -> None:
    assert CAMPAIGN.seconds is None
    assert replace(CAMPAIGN, ended_at="2026-01-01T01:01:02+00:00").seconds == 3662
    assert replace(CAMPAIGN, ended_at="2025-01-01T00:00:00+00:00").seconds == 0
