"""When a key is due, what its alert says and how often it is logged, and when the key reaches its limit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kube_rewrap.scheduler.keys.alerts import (
    LoggedAlert,
    choose_key_to_rotate,
    due_alerts,
    find_due_by_rate,
    find_due_keys,
    reached_at,
    rotation_seconds,
)
from kube_rewrap.worker.records.budget import Budget, BudgetState
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.rotation import Passed, Rotation, RotationStep
from kube_rewrap.worker.records.usage import NOTHING, DueByRate, Interval, Sample, Usage, between
from kube_rewrap.worker.verdict import KeyRef

LIMIT = 1_000
A, B, OLD = (KeyRef("aesgcm", name, name[0] * 16) for name in ("a-key", "b-key", "old-key"))
BOX = KeyRef("secretbox", "box", "c" * 16)
GENERATION = GenerationRecord("sha256:0", (("secrets", (A, OLD)), ("events", (B, BOX)), ("pods", (A,))))


def budget(key: KeyRef, used: int, *, restored: bool = False) -> Budget:
    return Budget(
        fingerprint=key.fingerprint, provider=key.provider, names=(key.name,), reserved=used, restored=restored
    )


@pytest.mark.parametrize(
    ("used", "state"),
    [(0, None), (799, None), (800, BudgetState.DUE), (999, BudgetState.DUE), (1_000, BudgetState.EXHAUSTED)],
)
def test_a_key_is_due_from_its_share_on_and_exhausted_at_its_limit(used: int, state: BudgetState | None) -> None:
    found = find_due_keys([budget(A, used)], GENERATION, LIMIT, 0.8)
    assert [one.state for one in found] == ([state] if state else [])


def test_a_restored_budget_counts_as_exhausted_whatever_its_use() -> None:
    [due] = find_due_keys([budget(A, 1, restored=True)], GENERATION, LIMIT, 0.8)
    assert (due.state, due.is_exhausted) == (BudgetState.RESTORED, True)
    assert "the number of its encryptions is unknown" in due.because(LIMIT)


def test_a_key_without_a_limit_or_not_configured_is_never_due() -> None:
    gone = KeyRef("aesgcm", "gone", "9" * 16)
    assert find_due_keys([budget(BOX, 10**9), budget(gone, 5_000)], GENERATION, LIMIT, 0.8) == ()


def test_the_resources_are_those_that_are_written_with_it() -> None:
    by_name = {
        one.budget.names[0]: one.resources
        for one in find_due_keys([budget(A, 900), budget(B, 950), budget(OLD, 990)], GENERATION, LIMIT, 0.8)
    }
    assert by_name == {"a-key": ("secrets", "pods"), "b-key": ("events",), "old-key": ()}


def test_the_most_used_key_that_writes_is_rotated_first_and_one_that_only_reads_never() -> None:
    due = find_due_keys([budget(A, 900), budget(B, 950), budget(OLD, 999)], GENERATION, LIMIT, 0.8)
    found = choose_key_to_rotate(due)
    assert found is not None
    assert found.resources == ("events",)
    assert choose_key_to_rotate(find_due_keys([budget(OLD, 1_000)], GENERATION, LIMIT, 0.8)) is None


@pytest.mark.parametrize(
    ("key", "used", "before", "after", "says"),
    [
        pytest.param(A, 900, None, 0.0, True, id="new"),
        pytest.param(A, 900, BudgetState.DUE, 3_600.0, False, id="due, an hour ago"),
        pytest.param(A, 900, BudgetState.DUE, 86_400.0, True, id="due, a day ago"),
        pytest.param(A, 1_000, BudgetState.DUE, 1.0, True, id="it got worse"),
        pytest.param(A, 1_000, BudgetState.EXHAUSTED, 3_599.0, False, id="exhausted, nearly an hour ago"),
        pytest.param(A, 1_000, BudgetState.EXHAUSTED, 3_600.0, True, id="exhausted, an hour ago"),
        pytest.param(OLD, 1_000, BudgetState.EXHAUSTED, 3_600.0, False, id="exhausted, but nothing writes with it"),
    ],
)
def test_how_often_an_alert_is_logged(
    key: KeyRef, used: int, before: BudgetState | None, after: float, *, says: bool
) -> None:
    said = {key.fingerprint: LoggedAlert(before, 100.0)} if before else {}
    due = find_due_keys([budget(key, used)], GENERATION, LIMIT, 0.8)
    assert bool(due_alerts(due, said, 100.0 + after)) is says


NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("one", "since", "at"),
    [
        pytest.param(
            Budget(fingerprint="f", provider="aesgcm", observed=500),
            NOW - 1_000,
            NOW + 1_000,
            id="half in a thousand seconds",
        ),
        pytest.param(Budget(fingerprint="f", provider="aesgcm", observed=2_000), NOW - 1_000, NOW, id="it is reached"),
        pytest.param(
            Budget(fingerprint="f", provider="aesgcm", reserved=400, committed=400, observed=500),
            NOW - 1_000,
            NOW + 5_000,
            id="our own swaps",
        ),
        pytest.param(Budget(fingerprint="f", provider="aesgcm", observed=500), 0, None, id="no watch"),
        pytest.param(
            Budget(fingerprint="f", provider="aesgcm", observed=500), NOW - 30, None, id="for half a minute only"
        ),
        pytest.param(Budget(fingerprint="f", provider="aesgcm", observed=0), NOW - 1_000, None, id="no other writer"),
        pytest.param(Budget(fingerprint="f", provider="secretbox", observed=500), NOW - 1_000, None, id="no limit"),
    ],
)
def test_when_the_limit_will_be_reached(one: Budget, since: float, at: float | None) -> None:
    assert reached_at(one, LIMIT, int(since), NOW) == at


# ------------------------------------------------------------------------------------------------- due by its rate

HALF_AN_HOUR = 1_800.0


def minutes(count: int, writes: int, *, until: float = NOW) -> Usage:
    """A usage of so many whole minutes, one after the other, with so many writes under A in each."""
    intervals = (Interval(int(until) - 60 * at, 60, {A.fingerprint: writes}) for at in reversed(range(count)))
    return Usage(tuple(intervals))


@pytest.mark.parametrize(
    ("used", "usage", "took", "is_due"),
    [
        pytest.param(100, NOTHING, HALF_AN_HOUR, False, id="nothing was measured => not due"),
        pytest.param(100, minutes(60, 9), HALF_AN_HOUR, False, id="the rest lasts 100 minutes => not due"),
        pytest.param(100, minutes(60, 10), HALF_AN_HOUR, False, id="the rest lasts exactly 90 minutes => not due"),
        pytest.param(100, minutes(60, 11), HALF_AN_HOUR, True, id="the rest lasts 82 minutes => due"),
        pytest.param(100, minutes(60, 11), 600.0, False, id="82 minutes, and a rotation takes 10 => not due"),
        pytest.param(100, minutes(60, 11, until=NOW - 3_600), HALF_AN_HOUR, False, id="an hour ago => not due"),
        pytest.param(100, minutes(60, 11, until=NOW + 7_200), HALF_AN_HOUR, False, id="a clock ahead => not due"),
        pytest.param(100, minutes(1, 90), HALF_AN_HOUR, False, id="a burst in the first minute => as if in ten"),
        pytest.param(100, minutes(1, 110), HALF_AN_HOUR, True, id="a burst that is too much even for ten => due"),
        pytest.param(999, minutes(60, 0), HALF_AN_HOUR, False, id="no writes => not due by rate"),
        pytest.param(1_000, minutes(60, 1), HALF_AN_HOUR, True, id="nothing is left => due"),
    ],
)
def test_a_key_is_due_by_its_rate_when_its_rest_is_less_than_three_rotations(
    used: int, usage: Usage, took: float, *, is_due: bool
) -> None:
    assert (find_due_by_rate(budget(A, used), LIMIT, usage, took, NOW) is not None) is is_due


def test_what_is_due_by_its_rate_stays_due_until_another_key_writes_or_the_limit_is_raised() -> None:
    usage = Usage(due_by_rate={A.fingerprint: DueByRate(LIMIT, 4_000, 1_800)})
    [due] = find_due_keys([budget(A, 100)], GENERATION, LIMIT, 0.8, usage)
    assert (due.state, due.resources) == (BudgetState.DUE, ("secrets", "pods"))
    assert due.because(LIMIT) == (
        "a-key: 100 of 1000 writes are used, and at the rate of the last hour the rest would have lasted 66 min, "
        "less than three times as long as a rotation takes (30 min); it is the primary key of secrets, pods: rotate it"
    )
    assert find_due_keys([budget(A, 100)], GENERATION, 2 * LIMIT, 0.8, usage) == ()
    others = GenerationRecord("sha256:1", (("secrets", (B, A)),))
    assert find_due_keys([budget(A, 100)], others, LIMIT, 0.8, usage) == ()
    assert usage.with_due({}, frozenset({B.fingerprint})).due_by_rate == {}


def test_a_key_that_is_due_for_its_share_says_nothing_of_its_rate() -> None:
    usage = Usage(due_by_rate={A.fingerprint: DueByRate(LIMIT, 4_000, 1_800)})
    [due] = find_due_keys([budget(A, 800)], GENERATION, LIMIT, 0.8, usage)
    assert (due.state, due.by_rate) == (BudgetState.DUE, None)


FIRST = Sample(0.0, {A.fingerprint: 50}, {A.fingerprint: 1_000})


@pytest.mark.parametrize(
    ("last", "writes"),
    [
        pytest.param(Sample(59.0, {A.fingerprint: 90}, {A.fingerprint: 1_000}), None, id="less than a minute"),
        pytest.param(Sample(60.0, {A.fingerprint: 90}, {A.fingerprint: 1_000}), 40, id="others wrote"),
        pytest.param(Sample(60.0, {A.fingerprint: 90}, {A.fingerprint: 1_030}), 10, id="a campaign, too"),
        pytest.param(Sample(60.0, {A.fingerprint: 90}, {A.fingerprint: 1_040}), None, id="only a campaign"),
        pytest.param(Sample(60.0, {A.fingerprint: 50}, {A.fingerprint: 9_000}), None, id="more of ours than was seen"),
        pytest.param(Sample(60.0, {A.fingerprint: 90}, {}), None, id="its record is gone"),
    ],
)
def test_what_others_wrote_between_two_samples(last: Sample, writes: int | None) -> None:
    found = between(FIRST, last, int(NOW))
    assert (found.writes[A.fingerprint] if found else None) == writes


def test_a_key_that_came_between_two_samples_has_no_rate_and_one_that_was_idle_has_a_time() -> None:
    first = Sample(0.0, {}, {A.fingerprint: 0, B.fingerprint: 7})
    new = {OLD.fingerprint: 500}
    found = between(first, Sample(60.0, {A.fingerprint: 5, **new}, {A.fingerprint: 0, B.fingerprint: 7, **new}), 60)
    assert found == Interval(60, 60, {A.fingerprint: 5, B.fingerprint: 0})


def test_the_record_keeps_an_hour_and_nothing_from_a_clock_that_was_ahead() -> None:
    usage = minutes(60, 1, until=NOW - 60)
    later = Usage((*usage.intervals, Interval(int(NOW) + 999, 60, {})))
    followed = later.followed_by(Interval(int(NOW), 60, {A.fingerprint: 1}))
    assert len(followed.intervals) == 60
    assert followed.intervals[-1].ended == int(NOW)
    assert followed.rate(A.fingerprint, NOW) == pytest.approx(1 / 60)


ROTATION = Rotation(
    id="20260101-000000-abcdef",
    step=RotationStep.DONE,
    because="",
    entries=(0,),
    resources=(),
    provider="aesgcm",
    key_name="new",
    retired=(),
    file="",
)


@pytest.mark.parametrize(
    ("rotations", "took"),
    [
        pytest.param([], 1_800, id="none"),
        pytest.param([("2026-01-01T00:10:00+00:00", RotationStep.DONE)], 600, id="one"),
        pytest.param([("2026-01-01T00:10:00+00:00", RotationStep.ABORTED)], 1_800, id="one that was aborted"),
        pytest.param([("2026-01-09T00:00:00+00:00", RotationStep.DONE)], 86_400, id="one that waited for a week"),
        pytest.param([("2025-12-31T00:00:00+00:00", RotationStep.DONE)], 0, id="a clock that was set back"),
        pytest.param([("2026-01-01T00:10:00", RotationStep.DONE)], 1_800, id="no zone"),
        pytest.param([("yesterday", RotationStep.DONE)], 1_800, id="no time"),
    ],
)
def test_how_long_a_rotation_takes(rotations: list[tuple[str, RotationStep]], took: int) -> None:
    found = [replace(ROTATION, step=step, passed=(Passed(RotationStep.CONVERGE, at, ""),)) for at, step in rotations]
    assert rotation_seconds(found) == took


@pytest.mark.parametrize(
    ("writes_a_second", "limit", "by_rate"),
    [
        pytest.param(9, 20_000, True, id="the whole limit lasts 37 minutes => begun at once"),
        pytest.param(3, 20_000, True, id="it lasts two hours => begun early"),
        pytest.param(90, 200_000, True, id="so does a larger one => begun at once"),
        pytest.param(1, 200_000, False, id="it lasts two days => begun at 80 %"),
    ],
)
def test_a_rotation_that_is_begun_when_it_is_due_ends_before_the_limit(
    writes_a_second: int, limit: int, *, by_rate: bool
) -> None:
    """A key that others write with at one rate, looked at each minute; its rotation takes half an hour."""
    usage, used, now, why = NOTHING, 0, 0, None
    while why is None and used < 0.8 * limit:
        now += 60
        used += 60 * writes_a_second
        usage = usage.followed_by(Interval(now, 60, {A.fingerprint: 60 * writes_a_second}))
        why = find_due_by_rate(budget(A, used), limit, usage, HALF_AN_HOUR, now)
    assert used + writes_a_second * HALF_AN_HOUR < limit
    assert (why is not None) is by_rate
