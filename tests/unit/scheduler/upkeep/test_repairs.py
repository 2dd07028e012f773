"""Drift is repaired soon, then later and later: a writer that never stops costs a few repairs an hour."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_rewrap.scheduler.upkeep.repairs import (
    FIRST_PAUSE,
    LONGEST_PAUSE,
    MOST_REPAIRS,
    Drift,
    Repair,
    Repaired,
    due_at,
)
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.report import BatchReport

HOUR = 3_600.0


def repaired(times: Iterator[tuple[float, str]]) -> list[Repair]:
    """The repairs of a writer that drifts at these times in these namespaces."""
    drift, history = Drift(), list[Repair]()
    for now, namespace in times:
        drift.add("secrets", namespace)
        history += drift.due(history, now)
    return history


def test_the_pause_doubles_up_to_an_hour_while_it_goes_on() -> None:
    history = repaired((float(now), "a") for now in range(12 * 3_600))
    pauses = [after.at - before.at for before, after in pairwise(history)]
    assert pauses == [15, 30, 60, 120, 240, 480, 960, 1_920, *[3_600] * 10]


def test_after_a_calm_time_the_next_repair_is_the_first_again() -> None:
    history = [Repair(0.0, "secrets", ("a",)), Repair(FIRST_PAUSE, "secrets", ("a",))]
    calm = FIRST_PAUSE + 2 * FIRST_PAUSE + LONGEST_PAUSE + 1
    history.append(Repair(calm, "secrets", ("a",)))
    assert due_at(history, "secrets", "a", calm) == calm + FIRST_PAUSE


def test_a_place_does_not_wait_for_others_and_a_repair_of_all_is_one_of_each() -> None:
    history = [Repair(100.0, "secrets", ("a",)), Repair(100.0, "pods")]
    assert due_at(history, "secrets", "b", 101.0) <= 101.0
    assert due_at(history, "secrets", "a", 101.0) == 100.0 + FIRST_PAUSE
    assert due_at(history, "pods", "b", 101.0) == 100.0 + FIRST_PAUSE


def test_a_repair_that_has_yet_to_come_by_another_leaders_clock_does_not_count() -> None:
    assert due_at([Repair(10_000_000.0, "secrets", ("a",))], "secrets", "a", 100.0) <= 100.0


@settings(max_examples=30)
@given(st.integers(1, 12), st.floats(1.0, 90.0), st.integers(0, 1_000))
def test_however_a_writer_drifts_an_hour_has_few_repairs(namespaces: int, every: float, seed: int) -> None:
    random = Random(seed)
    names = [f"n{number}" for number in range(namespaces)]
    history = repaired((step * every, random.choice(names)) for step in range(int(3 * HOUR / every)))
    for first in history:
        assert sum(0 <= one.at - first.at < HOUR for one in history) <= MOST_REPAIRS + 1


def test_drift_in_ever_new_namespaces_is_collected_and_takes_no_room() -> None:
    history = repaired((float(now), f"n{now}") for now in range(0, 4 * 3_600, 2))
    assert len(history) <= 4 * (MOST_REPAIRS + 1)
    assert history[-1].namespaces == ()


@pytest.mark.parametrize("name", ["Team_A", "a/b", "", "a" * 64])
def test_what_is_no_namespace_stands_for_its_resource(name: str) -> None:
    drift = Drift()
    drift.add("secrets", name)
    assert drift.due([], 0.0) == [Repair(0.0, "secrets")]
    assert drift.due([], 0.0) == []


def test_the_audit_log_gets_the_first_repair_and_then_a_sum_an_hour() -> None:
    repaired, sums = Repaired(), []
    for number in range(50):
        state = CampaignState.INCOMPLETE if number == 1 else CampaignState.COMPLETE
        campaign = Campaign(
            id="c",
            state=state,
            generation="sha256:0",
            scope=Scope((f"r{number % 2}",)),
            batches=1,
            planned_at="",
            because="",
        )
        repaired.add(campaign, BatchReport(rewritten=2))
        now = 1_000_000.0 + number * 120
        if (detail := repaired.summary(now)) is not None:
            sums.append(detail)
            repaired.reset(now)
    assert sums == [
        {"campaigns": 1, "incomplete": 0, "rewritten": 2, "resources": "r0"},
        {"campaigns": 30, "incomplete": 1, "rewritten": 60, "resources": "r0, r1"},
    ]
    assert repaired.summary(1_000_000.0 + 2 * HOUR) == {
        "campaigns": 19,
        "incomplete": 0,
        "rewritten": 38,
        "resources": "r0, r1",
    }
