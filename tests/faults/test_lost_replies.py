"""etcd does what it is asked and the reply gets lost: the run finds out by reading, and writes nothing twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.registry import Registry, prepare
from tests.servers.etcd import EtcdCluster
from tests.servers.proxy import Proxy

# What only the request for this write holds, and how often it is written.
WRITES = {
    "a swap": (b"k8s:enc:aesgcm:v1:new:", 5),
    "the lock": (b'"command"', 1),
    "a campaign": (b'"planned_at"', 3),
    # Both batches are recorded in one transaction, which is tried five times; an attempt may end at a lost connection.
    "a checkpoint": (b'"cursor"', 2),
    "a reservation": (b'"reserved"', 5),
    "an entry of the quarantine": (b'"reason"', 2),
}


@pytest.fixture
def registry(etcd: EtcdCluster, tmp_path: Path) -> Registry:
    return prepare(etcd, tmp_path)


@pytest.mark.parametrize(("marker", "times"), WRITES.values(), ids=WRITES)
def test_the_lost_reply_of(registry: Registry, marker: bytes, times: int) -> None:
    with Proxy(registry.cluster.endpoints[0]) as proxy:
        proxy.swallow_replies(to=marker, times=times)
        with registry.through(proxy.endpoint).command.start("run", "-o", "json") as running:
            proxy.wait_until_swallowed()
            ended = running.end()
    assert ended.code == 3, ended.stdout + ended.stderr
    assert ended.document["rewritten"] == len(registry.plaintexts)
    assert ended.document["unknown"] >= (times if marker.startswith(b"k8s") else 0)
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()
    assert [record["reserved"] >= record["committed"] for record in registry.records("ledger")] == [True, True]
    # A count whose own answer was lost with the connection is left out: that errs upwards.
    assert max(record["committed"] for record in registry.records("ledger")) <= len(registry.plaintexts)


def test_connections_that_are_cut_again_and_again(etcd: EtcdCluster, tmp_path: Path) -> None:
    registry = prepare(etcd, tmp_path, 200, rate="100")
    with (
        Proxy(etcd.endpoints[0]) as proxy,
        registry.through(proxy.endpoint).command.start("run", "-o", "json") as running,
    ):
        for page in range(1, 15):
            running.wait_for_event("batch.page", times=page)
            proxy.cut()
        ended = running.end()
    assert ended.code == 3, ended.stdout + ended.stderr
    assert ended.document["rewritten"] == len(registry.plaintexts)
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()


def test_replies_that_are_slow(etcd: EtcdCluster, tmp_path: Path) -> None:
    registry = prepare(etcd, tmp_path)
    with Proxy(etcd.endpoints[0]) as proxy:
        proxy.delay_replies(0.02)
        ended = registry.through(proxy.endpoint).finish()
    assert ended.document["rewritten"] == len(registry.plaintexts)
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()
