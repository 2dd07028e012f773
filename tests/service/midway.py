"""A service in the middle of a campaign, and what must hold at its end whatever happened in between."""

from __future__ import annotations

from tests.service.harness import NEW, OLD, Service

OBJECTS = 900


def begin(cluster: Service, workers: int = 2) -> None:
    """Brings a service to the middle of a campaign: slow enough to hit it there."""
    cluster.variables["REWRAP_RATE"] = "150"
    cluster.fill(OBJECTS)
    cluster.configure(NEW, OLD)
    cluster.start("scheduler")
    for _ in range(workers):
        cluster.start("worker")
    cluster.wait(lambda: cluster.opened_by(NEW) > 0, "the first swap")


def assert_ended_well(cluster: Service) -> None:
    """Every campaign ended once, all is under the new key, and no use of it is missing from its budget."""
    ended = cluster.finished()
    assert [line["state"] for line in ended] == ["complete"] * len(ended)
    assert len({line["campaign"] for line in ended}) == len(ended)
    assert cluster.opened_by(NEW) == OBJECTS
    cluster.wait_observed(NEW, OBJECTS)
    budgets = {row["names"][0]: row for row in cluster.run("keys").document["keys"]}
    assert budgets["new-key"]["used"] >= budgets["new-key"]["observed"] >= OBJECTS
    assert budgets["new-key"]["reserved"] >= sum(line["encryptions"] for line in ended)
    assert cluster.run("audit-log", "verify").code == 0
