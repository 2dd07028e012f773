"""etcd is killed while a run writes, and comes back with what it had made durable."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.faults.registry import prepare
from tests.servers.etcd import EtcdCluster, EtcdOptions, EtcdVersion

NewEtcd = Callable[[EtcdOptions], EtcdCluster]


def test_etcd_that_is_killed_and_started_again(new_etcd: NewEtcd, tmp_path: Path) -> None:
    cluster = new_etcd(EtcdOptions(version=EtcdVersion.V3_4, fsync=True))
    registry = prepare(cluster, tmp_path, 300, rate="150")
    member = cluster.members[0]
    with registry.command.start("run", "-o", "json") as running:
        for page in (3, 10):
            running.wait_for_event("batch.page", times=page)
            member.kill()
            member.start()
        ended = running.end()
    assert ended.code == 3, ended.stdout + ended.stderr
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()
    registry.assert_redone(ended, crashes=0)


def test_both_are_killed(new_etcd: NewEtcd, tmp_path: Path) -> None:
    cluster = new_etcd(EtcdOptions(version=EtcdVersion.V3_4, fsync=True))
    registry = prepare(cluster, tmp_path, 100)
    registry.crash("swap.after:40")
    cluster.members[0].kill()
    cluster.members[0].start()
    ended = registry.finish()
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()
    registry.assert_redone(ended, crashes=1)
