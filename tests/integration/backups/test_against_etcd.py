"""A backup is read as etcd reads it: object by object, at the newest revision and over history."""

from __future__ import annotations

import base64
import hashlib
import os
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.backups.truth import everything_written, range_of, read
from tests.integration.golden_registry import load
from tests.servers.etcd import EtcdCluster, EtcdOptions, EtcdVersion
from tests.servers.gateway import Gateway, GatewayError

NewEtcd = Callable[[EtcdOptions], EtcdCluster]
LARGE = 1_572_700
"""Bytes of a value that etcd's default limit of a request, 1.5 MiB, leaves room for."""


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def put(gateway: Gateway, key: bytes, value: bytes, lease: int = 0) -> None:
    gateway.call("/v3/kv/put", {"key": encoded(key), "value": encoded(value), "lease": str(lease)})


def fill(gateway: Gateway) -> None:
    """The golden keyspace, leases, raw bytes as keys, empty and large values, and long keys."""
    load(gateway)
    lease = gateway.grant_lease(3_600)
    for byte in (0, 0x2F, 0x7F, 0x80, 0xFE, 0xFF):
        put(gateway, bytes([byte]), b"a key of one byte")
        put(gateway, b"/registry/secrets/" + bytes([byte]) * 3, os.urandom(50), lease)
    for name in (b"/", b"//", b"/registry//", b"/registry/secrets/", b"/registry/secrets//", b"/registry/secrets//a/"):
        put(gateway, name, b"a key with an empty part", lease)
    put(gateway, b"\xff" * 300, b"the last key")
    put(gateway, b"/registry/secrets/default/empty", b"")
    put(gateway, b"/registry/configmaps/default/" + b"long" * 500, b"a long key")
    for number in range(3):
        put(gateway, f"/registry/secrets/default/large-{number}".encode(), os.urandom(LARGE))


def overwrite(gateway: Gateway) -> None:
    for number in range(40):
        put(gateway, f"/registry/configmaps/default/busy-{number % 7}".encode(), os.urandom(900))
    put(gateway, b"/registry/secrets/default/large-0", os.urandom(LARGE))


def delete(gateway: Gateway) -> None:
    """Deletions, of a range, too; one key comes back, a transaction of several writes."""
    for number in range(3):
        gateway.delete(f"/registry/configmaps/default/busy-{number}")
    put(gateway, b"/registry/configmaps/default/busy-1", b"again")
    keys = {
        "key": encoded(b"/registry/secrets/default/large-"),
        "range_end": encoded(b"/registry/secrets/default/large-2"),
    }
    gateway.call("/v3/kv/deleterange", keys)
    together = [
        {"requestDeleteRange": {"key": encoded(b"/registry/configmaps/default/busy-3")}},
        {"requestPut": {"key": encoded(b"/registry/configmaps/default/busy-4"), "value": encoded(b"together")}},
        {"requestPut": {"key": encoded(b"/registry/other"), "value": encoded(b"together")}},
    ]
    gateway.call("/v3/kv/txn", {"success": together})


def fill_up(gateway: Gateway) -> None:
    for number in range(20):
        put(gateway, f"/registry/secrets/default/{number}".encode(), os.urandom(LARGE))


def compact(gateway: Gateway) -> None:
    gateway.compact(gateway.revision() - 3)


STEPS = (fill, overwrite, delete, compact)


@pytest.mark.parametrize("version", EtcdVersion, ids=lambda one: f"etcd-{one.value}")
def test_every_state_in_a_snapshot_is_what_range_says(new_etcd: NewEtcd, tmp_path: Path, version: EtcdVersion) -> None:
    etcd = new_etcd(EtcdOptions(version=version))
    gateway = etcd.admin()
    compacted = 0
    for number, step in enumerate(STEPS):
        step(gateway)
        if step is compact:
            compacted = gateway.revision() - 3
        etcd.save(tmp_path / f"{number}")
        found = read(tmp_path / f"{number}")
        assert found.newest == range_of(gateway), step.__name__
        assert found.all == everything_written(gateway, compacted), step.__name__
        assert (found.snapshot.revision, found.snapshot.compacted) == (gateway.revision(), compacted)
        assert found.snapshot.has_hash
        assert [one.name for one in found.snapshot.members] == ["m0"]
        assert found.snapshot.cluster_version == f"{version.value}.0"
    etcd.etcdctl("defrag")
    etcd.save(tmp_path / "defragmented")
    assert read(tmp_path / "defragmented").all == everything_written(gateway, compacted)


@pytest.mark.parametrize("steps", [3, 4], ids=lambda count: STEPS[count - 1].__name__)
@pytest.mark.parametrize("version", EtcdVersion, ids=lambda one: f"etcd-{one.value}")
def test_a_restored_etcd_has_the_objects_the_history_and_the_revision_that_the_backup_says(
    new_etcd: NewEtcd, tmp_path: Path, version: EtcdVersion, steps: int
) -> None:
    etcd = new_etcd(EtcdOptions(version=version))
    for step in STEPS[:steps]:
        step(etcd.admin())
    etcd.save(tmp_path / "backup")
    found = read(tmp_path / "backup")
    overwrite(etcd.admin())
    etcd.restore(tmp_path / "backup")
    assert range_of(etcd.admin()) == found.newest
    assert everything_written(etcd.admin(), found.snapshot.compacted) == found.all
    assert etcd.admin().revision() == found.snapshot.revision


@pytest.mark.parametrize("version", EtcdVersion, ids=lambda one: f"etcd-{one.value}")
def test_a_restored_etcd_with_users_leases_and_a_deep_tree_has_what_the_backup_says(
    new_etcd: NewEtcd, tmp_path: Path, version: EtcdVersion
) -> None:
    """Twenty thousand writes are three levels of pages; most are compacted, and etcd writes its file anew."""
    etcd = new_etcd(EtcdOptions(version=version, auth=True))
    gateway = etcd.admin()
    for _ in range(2):
        gateway.put_all({f"/registry/secrets/{number % 9}/{number}": os.urandom(60) for number in range(10_000)})
    for number in range(40):
        put(gateway, b"/registry/events/%d" % number, b"an event", gateway.grant_lease(3_600))
    gateway.call(
        "/v3/kv/deleterange", {"key": encoded(b"/registry/secrets/3/"), "range_end": encoded(b"/registry/secrets/4")}
    )
    etcd.save(tmp_path / "whole")
    assert read(tmp_path / "whole").newest == range_of(gateway)
    compacted = gateway.revision() - 45
    gateway.compact(compacted)
    etcd.etcdctl("defrag")
    etcd.save(tmp_path / "backup")
    found = read(tmp_path / "backup")
    etcd.restore(tmp_path / "backup")
    assert (found.snapshot.compacted, found.snapshot.revision) == (compacted, etcd.admin().revision())
    assert range_of(etcd.admin()) == found.newest
    assert everything_written(etcd.admin(), compacted) == found.all
    assert len(found.newest) > 8_000
    assert sum(one.lease != 0 for one in found.newest) == 40


def test_a_backup_of_an_etcd_that_was_restored_with_a_raised_revision_is_read(
    new_etcd: NewEtcd, tmp_path: Path
) -> None:
    """As Kubernetes advises, so that clients see no revision twice; etcdutl writes a revision without a value."""
    etcd = new_etcd(EtcdOptions())
    fill(etcd.admin())
    etcd.save(tmp_path / "backup")
    etcd.restore(tmp_path / "backup", "--bump-revision", "1000000", "--mark-compacted")
    for step in (lambda _: None, overwrite, compact):
        step(etcd.admin())
        etcd.save(tmp_path / "later")
        found = read(tmp_path / "later")
        assert found.newest == range_of(etcd.admin())
        assert found.snapshot.revision == etcd.admin().revision() > 1_000_000


def test_alarms_and_members_are_those_of_the_cluster(new_etcd: NewEtcd, tmp_path: Path) -> None:
    etcd = new_etcd(EtcdOptions(members=3, quota_bytes=4 << 20))
    gateway = etcd.admin()
    with pytest.raises(GatewayError, match="space exceeded"):
        fill_up(gateway)
    deadline = time.monotonic() + 30
    while True:  # each member raises its own alarm when it notices, and the one that is saved learns of it later
        etcd.save(tmp_path / "backup")
        found = read(tmp_path / "backup").snapshot
        said = gateway.call("/v3/maintenance/alarm", {"action": "GET"})["alarms"]
        expected = {(f"{int(one['memberID']):x}", "NOSPACE") for one in said}
        if {(one.member, one.alarm) for one in found.alarms} == expected or time.monotonic() > deadline:
            break
        (tmp_path / "backup").unlink()
    assert sorted(one.name for one in found.members) == ["m0", "m1", "m2"]
    assert {(one.member, one.alarm) for one in found.alarms} == expected != set()


def test_an_empty_etcd_has_revision_1_and_no_object(new_etcd: NewEtcd, tmp_path: Path) -> None:
    etcd = new_etcd(EtcdOptions())
    etcd.save(tmp_path / "backup")
    found = read(tmp_path / "backup")
    assert (found.snapshot.revision, found.all) == (1, set())


def test_a_store_of_which_all_was_compacted_has_the_revision_of_the_compaction(
    new_etcd: NewEtcd, tmp_path: Path
) -> None:
    etcd = new_etcd(EtcdOptions())
    gateway = etcd.admin()
    put(gateway, b"/registry/secrets/default/one", b"a")
    gateway.delete("/registry/secrets/default/one")
    gateway.compact(gateway.revision())
    etcd.save(tmp_path / "backup")
    found = read(tmp_path / "backup")
    assert (found.snapshot.revision, found.newest) == (gateway.revision(), set())


def planted(snapshot: bytes, scheduled: int, finished: int) -> bytes:
    """The same snapshot with other compactions in each version of its bucket `meta`, and the hash of that."""
    data = bytearray(snapshot[:-32])
    for name, main in ((b"scheduledCompactRev", scheduled), (b"finishedCompactRev", finished)):
        places = [one.end() for one in re.finditer(name + rb"(?=.{8}_)", data, re.DOTALL)]
        assert places
        for place in places:
            data[place : place + 8] = main.to_bytes(8, "big", signed=True)
    return bytes(data + hashlib.sha256(data).digest())


@pytest.mark.parametrize("version", EtcdVersion, ids=lambda one: f"etcd-{one.value}")
@pytest.mark.parametrize(
    ("scheduled", "finished"),
    [(1_000, 1_000), (1_000, 20), (20, 1_000), (-5, -5), (-(1 << 63), 20), ((1 << 63) - 1, (1 << 63) - 1)],
)
def test_planted_compactions_change_what_is_said_as_they_change_what_etcd_says(
    new_etcd: NewEtcd, tmp_path: Path, version: EtcdVersion, scheduled: int, finished: int
) -> None:
    etcd = new_etcd(EtcdOptions(version=version))
    for number in range(30):
        put(etcd.admin(), b"/registry/secrets/default/%d" % (number % 7), b"%d" % number)
    etcd.admin().compact(20)
    etcd.save(tmp_path / "backup")
    (tmp_path / "planted").write_bytes(planted((tmp_path / "backup").read_bytes(), scheduled, finished))
    found = read(tmp_path / "planted")
    etcd.restore(tmp_path / "planted")
    assert range_of(etcd.admin()) == found.newest
    is_ignored = version is EtcdVersion.V3_4 and found.snapshot.is_compacting
    assert etcd.admin().revision() == (31 if is_ignored else found.snapshot.revision)
