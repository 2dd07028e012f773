"""The steps of a campaign, and what a scan lets us say of its end: scenarios."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from kube_rewrap.scheduler.campaigns.transition import (
    MAX_SWEEPS,
    Finish,
    Halt,
    Park,
    Prove,
    Rest,
    Step,
    Sweep,
    Work,
    advance,
)
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause, QuarantineLimit, Scope, new_id
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.proof_counts import ProofCounts
from kube_rewrap.worker.records.report import BatchReport
from tests.unit.scheduler.inventories import CLEAN, NEW, ONE_STALE, ONE_UNREADABLE, proof, tally

CAMPAIGN = Campaign(
    id="c",
    state=CampaignState.RUNNING,
    generation="sha256:0",
    scope=Scope(("secrets",)),
    batches=2,
    planned_at="2024-01-01T00:00:00+00:00",
    because="why",
)


def batch(number: int, state: BatchState = BatchState.DONE, *, stuck: int = 0, sweep: int = 1) -> Checkpoint:
    spec = BatchSpec(
        campaign="c", number=number, resource="secrets", range=KeyRange(b"a", b"b"), generation="sha256:0", sweep=sweep
    )
    return Checkpoint(spec=spec, state=state, report=BatchReport(quarantined=stuck, stuck=stuck))


DONE = (batch(0), batch(1))


STILL_STALE = (
    "at revision 77, 1 objects are not under their primary key (in quarantine, or a kube-apiserver still "
    "writes with another key)"
)

# ---------------------------------------------------------------------------------------------------------- campaign


@pytest.mark.parametrize(
    ("batches", "scan", "action", "because"),
    [
        pytest.param(
            (batch(0, BatchState.PENDING), batch(1)),
            None,
            Work((batch(0).spec,)),
            "1 of 2 batches are not done",
            id="a batch is pending => work",
        ),
        pytest.param(
            (batch(0, BatchState.RUNNING), batch(1, BatchState.PENDING)),
            CLEAN,
            Work((batch(0).spec, batch(1).spec)),
            "2 of 2 batches are not done",
            id="a batch runs => work, whatever an earlier scan said",
        ),
        pytest.param(DONE, None, Prove(), "all batches are done, which proves nothing yet", id="all done => prove it"),
        pytest.param((), None, Prove(), "all batches are done, which proves nothing yet", id="no batches => prove it"),
        pytest.param(
            DONE, ONE_STALE, Sweep(), "1 objects were written under another key while the batches were at work",
            id="one object was written with the old key behind us => sweep",
        ),
    ],
)  # fmt: skip
def test_the_next_step(
    batches: tuple[Checkpoint, ...], scan: Inventory | None, action: Work | Prove | Sweep, because: str
) -> None:
    step = advance(CAMPAIGN, batches, scan, frozenset(), 0)
    assert (step.action, step.because) == (action, because)


@pytest.mark.parametrize(
    ("batches", "scan", "sweeps", "state", "because"),
    [
        pytest.param(
            DONE, CLEAN, 1, CampaignState.COMPLETE, "a scan at revision 77 read all 5 objects with their primary key",
            id="every object under the primary => complete",
        ),
        pytest.param(
            (), proof(tally({})), 1, CampaignState.COMPLETE,
            "a scan at revision 77 read all 0 objects with their primary key", id="nothing to do => complete",
        ),
        pytest.param(
            DONE, ONE_UNREADABLE, 1, CampaignState.INCOMPLETE,
            "at revision 77, 1 objects can't be read", id="one object unreadable => incomplete",
        ),
        pytest.param(
            (batch(0, stuck=1), batch(1)), ONE_STALE, 1, CampaignState.INCOMPLETE,
            STILL_STALE, id="one object too large to rewrite => incomplete",
        ),
        pytest.param(
            (batch(0, sweep=MAX_SWEEPS), batch(1, sweep=MAX_SWEEPS)), ONE_STALE, MAX_SWEEPS, CampaignState.INCOMPLETE,
            STILL_STALE, id="a late writer outlasts the sweeps => incomplete",
        ),
        pytest.param(
            DONE, proof(tally({NEW: 5}), unknown=("/registry/strange/",)), 1, CampaignState.INCOMPLETE,
            "at revision 77, no resource is known for the objects under /registry/strange/",
            id="a path of no known resource => incomplete",
        ),
        pytest.param(
            (), ONE_STALE, 1, CampaignState.INCOMPLETE,
            STILL_STALE.replace("77, ", "77, the records of 2 batches are missing or can't be read; "),
            id="stale without a batch to sweep => incomplete",
        ),
    ],
)  # fmt: skip
def test_the_end(
    batches: tuple[Checkpoint, ...], scan: Inventory, sweeps: int, state: CampaignState, because: str
) -> None:
    step = advance(replace(CAMPAIGN, sweeps=sweeps), batches, scan, frozenset(), 0)
    assert step.because == because
    ended = replace(CAMPAIGN, sweeps=sweeps, state=state, because=because, proof_revision=77)
    assert step.action == Finish(replace(ended, proof_counts=ProofCounts.of(scan)))


@pytest.mark.parametrize("state", [CampaignState.RUNNING, CampaignState.PROVING])
@pytest.mark.parametrize(
    ("most", "fresh", "halted"),
    [
        pytest.param(None, 9_000, False, id="an operator asked for it => it goes on"),
        pytest.param(10, 10, False, id="no more than it may => it goes on"),
        pytest.param(10, 11, True, id="more than it may, over all batches => rest and alarm"),
    ],
)
def test_a_quarantine_that_grows(most: int | None, fresh: int, halted: bool, state: CampaignState) -> None:
    campaign = replace(CAMPAIGN, state=state, quarantine_limit=QuarantineLimit(5, 7, most))
    batches = [
        replace(batch(n), report=BatchReport(quarantined=fresh, fresh=part)) for n, part in ((0, 4), (1, fresh - 4))
    ]
    step = advance(campaign, batches, None, frozenset(), 0)
    if not halted:
        assert step.action == Prove()
        return
    assert isinstance(step.action, Halt)
    assert step.action.campaign == campaign.paused(Pause.QUARANTINE, step.because)
    assert step.because.startswith("11 objects that no key opens were written since the last campaign")


def test_a_new_sweep_opens_every_batch_again() -> None:
    step = advance(replace(CAMPAIGN, sweeps=2), (batch(0, sweep=2), batch(1)), None, frozenset(), 0)
    assert step.action == Work((batch(1, sweep=2).spec,))


def test_an_attempt_of_a_later_sweep_begins_at_the_start_and_keeps_what_was_done() -> None:
    before = replace(batch(0), cursor=b"az", report=BatchReport(objects=3, rewritten=1, current=1, quarantined=1))
    begun = before.begun(replace(before.spec, sweep=2), 7.0)
    assert (begun.state, begun.cursor, begun.spec.sweep, begun.attempts) == (BatchState.RUNNING, b"", 2, 1)
    assert begun.report == BatchReport(objects=1, rewritten=1)


# ------------------------------------------------------------------------------------------------- failures and rests


def tried(number: int, stalled: int, at: float = 100.0, because: str = "") -> Checkpoint:
    known = replace(batch(number), state=BatchState.RUNNING)
    return replace(known, stalled=stalled, tried_at=at, because=because)


@pytest.mark.parametrize(
    ("stalled", "now", "is_due"),
    [
        pytest.param(0, 100.0, True, id="never failed => at once"),
        pytest.param(1, 100.0, True, id="failed once => at once"),
        pytest.param(2, 100.9, False, id="failed twice => a second later"),
        pytest.param(2, 101.0, True, id="failed twice, a second ago => again"),
        pytest.param(4, 103.9, False, id="failed again and again => later and later"),
        pytest.param(4, 104.0, True, id="in the end it is tried again"),
    ],
)
def test_a_batch_that_fails_is_tried_later_and_later(stalled: int, now: float, is_due: bool) -> None:
    step = advance(CAMPAIGN, (tried(0, stalled),), None, frozenset(), now)
    assert step.action == Work((tried(0, stalled).spec,) if is_due else ())


@pytest.mark.parametrize("stalled", [0, 1])
@pytest.mark.parametrize(("now", "is_due"), [(101.9, False), (102.0, True)])
def test_a_batch_that_failed_for_a_passing_reason_is_not_tried_again_at_once(
    stalled: int, now: float, is_due: bool
) -> None:
    failed = tried(0, stalled, because="the plugin does not answer")
    step = advance(CAMPAIGN, (failed,), None, frozenset(), now)
    assert step.action == Work((failed.spec,) if is_due else ())


def test_a_batch_that_comes_no_further_is_parked_with_its_reason() -> None:
    spent = tried(0, 5, because="it broke")
    step = advance(CAMPAIGN, (spent, tried(1, 0)), None, frozenset(), 1000.0)
    assert step.action == Park(replace(spent, state=BatchState.PARKED))
    assert step.because == "it failed again: it broke"


def test_a_batch_that_kills_whoever_works_on_it_is_parked_too() -> None:
    step = advance(CAMPAIGN, (tried(0, 5),), None, frozenset(), 1000.0)
    assert isinstance(step.action, Park)
    assert step.action.checkpoint.because == "the workers that claimed it ended without a report"


def test_a_batch_at_which_somebody_works_is_neither_parked_nor_given_out() -> None:
    step = advance(CAMPAIGN, (tried(0, 5), tried(1, 0)), None, frozenset({0}), 1000.0)
    assert step.action == Work((tried(1, 0).spec,))


def test_a_parked_batch_blocks_nothing_and_the_campaign_is_not_complete() -> None:
    parked = replace(tried(0, 5, because="it broke"), state=BatchState.PARKED)
    assert advance(CAMPAIGN, (parked, batch(1)), None, frozenset(), 0).action == Prove()
    step = advance(CAMPAIGN, (parked, batch(1)), ONE_STALE, frozenset(), 0)
    assert isinstance(step.action, Finish)
    assert step.action.campaign.state is CampaignState.INCOMPLETE
    assert "batch 0 is parked: it broke" in step.because


def test_a_parked_batch_is_opened_by_the_next_sweep() -> None:
    parked = replace(tried(0, 5), state=BatchState.PARKED)
    step = advance(replace(CAMPAIGN, sweeps=2), (parked,), None, frozenset(), 0)
    assert step.action == Work((replace(parked.spec, sweep=2),))


def test_a_paused_campaign_rests_whatever_is_open() -> None:
    paused = CAMPAIGN.paused(Pause.OPERATOR, "by hand")
    assert advance(paused, (tried(0, 0),), None, frozenset(), 0) == Step(Rest(), "by hand")


def test_an_attempt_without_progress_counts_until_a_page_is_done() -> None:
    begun = batch(0).begun(batch(0).spec, 7.0).begun(batch(0).spec, 8.0)
    assert (begun.stalled, begun.tried_at, begun.attempts) == (2, 8.0, 2)
    assert begun.advanced(b"b", BatchReport()).stalled == 0
    assert begun.failed("the world", counts=False).stalled == 1
    assert begun.failed("its own", counts=True) == replace(begun, because="its own")


@pytest.mark.parametrize("state", CampaignState)
def test_four_states_are_ends(state: CampaignState) -> None:
    ends = {CampaignState.COMPLETE, CampaignState.INCOMPLETE, CampaignState.SUPERSEDED, CampaignState.CANCELLED}
    assert state.is_end is (state in ends)


def test_names_of_campaigns_sort_by_time_within_a_second() -> None:
    moments = [datetime(2026, 1, 1, 0, 0, 0, micros, UTC) for micros in (0, 300, 5_000, 999_000)]
    names = [new_id(now, chance) for now, chance in zip(moments, (b"\xff\xff", b"\x00\x00") * 2, strict=True)]
    assert names == sorted(set(names))
    assert {len(name) for name in names} == {len("20260101-000000-abcdef")}
