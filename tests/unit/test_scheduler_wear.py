"""When a key is due, what is said of it and how often, and when its limit will be reached."""

from __future__ import annotations

import pytest

from scheduler.wear import Said, judge_wear, reached_at, to_rotate, to_say
from worker.model.budget import Budget, BudgetState
from worker.model.generation import GenerationRecord
from worker.model.verdict import KeyRef

LIMIT = 1_000
A, B, OLD = (KeyRef("aesgcm", name, name[0] * 16) for name in ("a-key", "b-key", "old-key"))
BOX = KeyRef("secretbox", "box", "c" * 16)
GENERATION = GenerationRecord("sha256:0", (("secrets", (A, OLD)), ("events", (B, BOX)), ("pods", (A,))))


def budget(key: KeyRef, used: int, *, restored: bool = False) -> Budget:
    return Budget(key.fingerprint, key.provider, (key.name,), reserved=used, restored=restored)


@pytest.mark.parametrize(
    ("used", "state"),
    [(0, None), (799, None), (800, BudgetState.DUE), (999, BudgetState.DUE), (1_000, BudgetState.EXHAUSTED)],
)
def test_a_key_is_due_from_its_share_on_and_exhausted_at_its_limit(used: int, state: BudgetState | None) -> None:
    found = judge_wear([budget(A, used)], GENERATION, LIMIT, 0.8)
    assert [one.state for one in found] == ([state] if state else [])


def test_a_restored_budget_is_worn_out_whatever_it_says() -> None:
    [worn] = judge_wear([budget(A, 1, restored=True)], GENERATION, LIMIT, 0.8)
    assert (worn.state, worn.is_exhausted) == (BudgetState.RESTORED, True)
    assert "how often it has encrypted is not known" in worn.because(LIMIT)


def test_what_has_no_limit_or_is_not_configured_is_not_spoken_of() -> None:
    gone = KeyRef("aesgcm", "gone", "9" * 16)
    assert judge_wear([budget(BOX, 10**9), budget(gone, 5_000)], GENERATION, LIMIT, 0.8) == ()


def test_the_resources_are_those_that_are_written_with_it() -> None:
    by_name = {
        one.budget.names[0]: one.resources
        for one in judge_wear([budget(A, 900), budget(B, 950), budget(OLD, 990)], GENERATION, LIMIT, 0.8)
    }
    assert by_name == {"a-key": ("secrets", "pods"), "b-key": ("events",), "old-key": ()}


def test_the_most_used_key_that_writes_is_rotated_first_and_one_that_only_reads_never() -> None:
    worn = judge_wear([budget(A, 900), budget(B, 950), budget(OLD, 999)], GENERATION, LIMIT, 0.8)
    assert to_rotate(worn) == ("events",)
    assert to_rotate(judge_wear([budget(OLD, 1_000)], GENERATION, LIMIT, 0.8)) == ()


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
def test_how_often_it_is_said(key: KeyRef, used: int, before: BudgetState | None, after: float, *, says: bool) -> None:
    said = {key.fingerprint: Said(before, 100.0)} if before else {}
    worn = judge_wear([budget(key, used)], GENERATION, LIMIT, 0.8)
    assert bool(to_say(worn, said, 100.0 + after)) is says


NOW = 1_000_000.0


@pytest.mark.parametrize(
    ("one", "since", "at"),
    [
        pytest.param(Budget("f", "aesgcm", observed=500), NOW - 1_000, NOW + 1_000, id="half in a thousand seconds"),
        pytest.param(Budget("f", "aesgcm", observed=2_000), NOW - 1_000, NOW, id="it is reached"),
        pytest.param(
            Budget("f", "aesgcm", reserved=400, committed=400, observed=500),
            NOW - 1_000,
            NOW + 5_000,
            id="our own swaps",
        ),
        pytest.param(Budget("f", "aesgcm", observed=500), 0, None, id="nobody watches"),
        pytest.param(Budget("f", "aesgcm", observed=500), NOW - 30, None, id="for half a minute only"),
        pytest.param(Budget("f", "aesgcm", observed=0), NOW - 1_000, None, id="nobody writes"),
        pytest.param(Budget("f", "secretbox", observed=500), NOW - 1_000, None, id="no limit"),
    ],
)
def test_when_the_limit_will_be_reached(one: Budget, since: float, at: float | None) -> None:
    assert reached_at(one, LIMIT, int(since), NOW) == at
