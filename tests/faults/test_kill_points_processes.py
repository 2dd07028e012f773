"""SIGKILL of a run of several processes, or of one of its children, around every effect on etcd."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.faults.registry import POISON, WIDE, Registry, prepare
from tests.faults.test_kill_points import SEED
from tests.servers.etcd import EtcdCluster

pytestmark = pytest.mark.timeout(300)

# How often the run itself passes each effect at the least, with the work done by its children.
PARENT = {"ledger": 1, "batches": 1, "campaigns": 3, "owner": 1, "grant": 1, "revoke": 1}
# The same of one of four children, which has one of four batches with a few objects each.
CHILD = {"group": 1, "swap": 8, "ledger": 1, "batches": 2, "claims": 1, "grant": 1}


def points(passes: dict[str, int]) -> list[str]:
    return [f"{effect}.{side}" for effect in passes for side in ("before", "after")]


def cases(passes: dict[str, int], quick: tuple[str, int]) -> list[object]:
    """Each point with 2 and with 4 processes; all but one only in the chaos runs."""
    return [
        pytest.param(point, processes, marks=() if (point, processes) == quick else pytest.mark.chaos)
        for point in points(passes)
        for processes in (2, 4)
    ]


@pytest.fixture
def registry(etcd: EtcdCluster, tmp_path: Path) -> Registry:
    return prepare(etcd, tmp_path, resources=WIDE)


def at(point: str, passes: dict[str, int]) -> str:
    return f"{point}:{random.Random(f'{SEED} {point}').randint(1, passes[point.partition('.')[0]])}"


@pytest.mark.parametrize(("point", "processes"), cases(PARENT, ("batches.before", 4)))
def test_a_kill_of_the_run_loses_nothing(registry: Registry, point: str, processes: int) -> None:
    words = ("--processes", str(processes))
    registry.crash(order := at(point, PARENT), *words)
    ended = registry.finish(*words)
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()
    if order in {"campaigns.after:3", "revoke.before:1", "revoke.after:1"}:
        # The campaign had ended; this was another one, with nothing to do.
        assert (ended.document["rewritten"], ended.document["encryptions"]) == (0, 0)
    else:
        registry.assert_redone(ended, crashes=1)


@pytest.mark.parametrize(("point", "processes"), cases(CHILD, ("swap.after", 2)))
def test_a_kill_of_a_child_loses_nothing_and_the_run_ends(registry: Registry, point: str, processes: int) -> None:
    command = registry.command.with_environment(KILL_CHILD_AT=at(point, CHILD))
    ended = command.run("run", "-o", "json", "--processes", str(processes), seconds=150)
    assert ended.code == 3, f"{ended.code}: {ended.stdout}{ended.stderr}"
    assert registry.encryptions.with_suffix(".log.killed").exists()
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()
    registry.assert_redone(ended, crashes=1)
    assert {one["key"] for one in ended.document["quarantined"]} == set(POISON)
