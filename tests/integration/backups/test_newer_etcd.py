"""What etcd 3.6 adds to the schema of its database does not keep a backup from being read.

There is no etcd 3.6 among the tests' servers. A snapshot of etcd 3.5 is written anew with the keys and buckets that
etcd names as new ones in server/storage/schema/schema.go and bucket.go (`storageVersion` since 3.6; `term`,
`confState`, `downgrade` since 3.5), and with some that no version has. etcd 3.5 restores that file, so it is a whole
database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from kube_rewrap.worker.backups.backup_file import open_backup
from kube_rewrap.worker.backups.bbolt import Database
from tests.fakes.bolt_file import file_of
from tests.integration.backups.test_against_etcd import delete, fill, overwrite
from tests.integration.backups.truth import everything_written, range_of, read
from tests.servers.etcd import EtcdCluster, EtcdOptions

NewEtcd = Callable[[EtcdOptions], EtcdCluster]
Buckets = dict[bytes, dict[bytes, bytes]]

LEARNER = b'{"id":9372538179322589801,"peerURLs":["http://10.0.0.9:2380"],"isLearner":true}'
NEWER: Mapping[bytes, Mapping[bytes, bytes]] = {
    b"meta": {
        b"storageVersion": b"3.6.0",
        b"term": (7).to_bytes(8, "big"),
        b"confState": b'{"voters":[10276657743932975437],"auto_leave":false}',
        b"consistent_index": (999).to_bytes(8, "big"),
    },
    b"cluster": {
        b"clusterVersion": b"3.6.0",
        b"downgrade": b'{"target-version":"3.5.0","enabled":true}',
    },
    b"members": {b"8211f1d0f64f3269": LEARNER},
    b"members_removed": {b"91bc3c398fb3c146": b"removed"},
    b"auth": {b"authEnabled": b"\0", b"authRevision": (3).to_bytes(8, "big")},
    b"authUsers": {b"root": b"\x0a\x04root"},
    b"authRoles": {b"root": b"\x0a\x04root"},
    b"a bucket of the future": {bytes([number]): b"x" * number * 40 for number in range(1, 200)},
}


def buckets_of(backup: Path) -> Buckets:
    with open_backup(str(backup)) as file:
        database = Database(file, file.size - 32, is_strict=True)
        return {
            name: {key: value for leaf in database.leaves_from_the_end(bucket) for key, value in leaf.pairs}
            for name, bucket in database.buckets.items()
        }


@pytest.mark.parametrize("is_copy", [False, True], ids=["snapshot", "copy"])
def test_a_backup_with_the_schema_of_etcd_3_6_is_read(new_etcd: NewEtcd, tmp_path: Path, is_copy: bool) -> None:
    etcd = new_etcd(EtcdOptions())
    for step in (fill, overwrite, delete):
        step(etcd.admin())
    etcd.save(tmp_path / "3.5")
    buckets = buckets_of(tmp_path / "3.5")
    for name, added in NEWER.items():
        buckets[name] = {**buckets.get(name, {}), **added}
    file = file_of({name: list(pairs.items()) for name, pairs in buckets.items()})
    (tmp_path / "3.6").write_bytes(file.data(sealed=not is_copy))
    older, newer = read(tmp_path / "3.5"), read(tmp_path / "3.6")
    assert newer.all == older.all == everything_written(etcd.admin(), 0)
    assert newer.newest == older.newest
    assert newer.snapshot.cluster_version == "3.6.0"
    assert newer.snapshot.consistent_index == 999
    assert ("8211f1d0f64f3269", "") in [(one.id, one.name) for one in newer.snapshot.members]
    etcd.restore(tmp_path / "3.6", *(("--skip-hash-check",) if is_copy else ()))
    assert range_of(etcd.admin()) == newer.newest
