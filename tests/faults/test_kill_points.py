"""SIGKILL before and after every effect on etcd. The next run ends as if nothing had happened, and redoes little."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.faults.harness import POINTS
from tests.faults.registry import POISON, Registry, prepare
from tests.servers.etcd import EtcdCluster

# How often a run passes each effect at the least.
PASSES = {
    "group": 8,
    "swap": 60,
    "ledger": 6,
    "batches": 12,
    "claims": 2,
    "campaigns": 3,
    "quarantine": 2,
    "owner": 1,
    "grant": 1,
    "revoke": 1,
}
REACHED = [point for point in POINTS if point.partition(".")[0] in PASSES]
SEED = int(os.environ.get("CHAOS_SEED", "20261123"))


def passes(point: str) -> int:
    return PASSES[point.partition(".")[0]]


@pytest.fixture
def registry(etcd: EtcdCluster, tmp_path: Path) -> Registry:
    return prepare(etcd, tmp_path)


def crash_and_finish(registry: Registry, point: str) -> None:
    registry.crash(point)
    ended = registry.finish()
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()
    if point in {"campaigns.after:3", "revoke.before:1", "revoke.after:1"}:
        # The campaign had ended; this was another one, with nothing to do.
        assert (ended.document["rewritten"], ended.document["encryptions"]) == (0, 0)
    else:
        registry.assert_redone(ended, crashes=1)


@pytest.mark.parametrize("point", REACHED)
def test_a_kill_loses_nothing(registry: Registry, point: str) -> None:
    times = random.Random(f"{SEED} {point}").randint(1, passes(point))
    crash_and_finish(registry, f"{point}:{times}")


@pytest.mark.chaos
@pytest.mark.parametrize(
    "order", [f"{point}:{times}" for point in REACHED for times in range(1, passes(point) + 1) if passes(point) < 20]
)
def test_a_kill_at_any_pass_loses_nothing(registry: Registry, order: str) -> None:
    crash_and_finish(registry, order)


def test_a_process_that_dies_again_and_again_comes_to_the_end(registry: Registry) -> None:
    """Every run gets three swaps further; all of them together spend what they wrote, and a block each."""
    crashes = 8
    for _ in range(crashes):
        registry.crash("swap.after:5")
    ended = registry.finish()
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()
    registry.assert_redone(ended, crashes)
    assert len(registry.records("campaigns")) == 1


@pytest.mark.parametrize("point", ["sweep.before:1", "sweep.after:1"])
def test_a_kill_when_a_sweep_begins_forgets_no_quarantined_object(
    etcd: EtcdCluster, tmp_path: Path, point: str
) -> None:
    # After three pages of eight, four seconds are left for the late write.
    registry = prepare(etcd, tmp_path, rate="12")
    late = "/registry/events/default/e0"
    with registry.killed_at(point).start("run", "-o", "json") as running:
        running.wait_for_event("batch.page", times=3)
        registry.gateway.put(late, registry.old.seal(late, registry.plaintexts[late]), registry.lease)
        assert running.end().code == -9
    registry.end_lock()
    ended = registry.finish()
    registry.assert_ended_well()
    assert {one["key"] for one in ended.document["quarantined"]} == set(POISON)
