"""What is given as a backup and is none: refused at once, in words, whatever its size says."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kube_rewrap.config.errors import SourceError
from kube_rewrap.worker.backups import bbolt
from kube_rewrap.worker.backups.backup_file import BackupFile
from kube_rewrap.worker.backups.snapshot import open_snapshot
from kube_rewrap.worker.errors import BackupError
from tests.fakes.bolt_file import PAGE, etcd_file, file_of, key_value, revision

KEY = b"/registry/secrets/default/a"
MIB = 1 << 20


def database(value: bytes = b"v") -> bytes:
    return etcd_file([(revision(2), key_value(KEY, value, 2))]).data()


def states(file: Path) -> int:
    with open_snapshot(str(file)) as snapshot:
        return len(list(snapshot.states()))


@pytest.mark.parametrize(
    ("packed", "name"),
    [
        (gzip.compress(database()), "gzip"),
        (bz2.compress(database()), "bzip2"),
        (lzma.compress(database()), "xz"),
        (b"\x28\xb5\x2f\xfd" + bytes(100), "zstd"),
        (b"\x04\x22\x4d\x18" + bytes(100), "lz4"),
        (b"PK\x03\x04" + bytes(100), "zip"),
    ],
    ids=["gzip", "bzip2", "xz", "zstd", "lz4", "zip"],
)
def test_a_compressed_backup_is_named_as_such(tmp_path: Path, packed: bytes, name: str) -> None:
    (tmp_path / "db").write_bytes(packed)
    with pytest.raises(BackupError, match=f"db: it is compressed with {name}; unpack it"):
        states(tmp_path / "db")


def test_an_empty_file_is_named_as_such(tmp_path: Path) -> None:
    (tmp_path / "db").touch()
    with pytest.raises(BackupError, match="db: it is empty"):
        states(tmp_path / "db")


def fifo(path: Path) -> None:
    os.mkfifo(path)


def loop(path: Path) -> None:
    path.symlink_to(path)


def zeros(path: Path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("missing"))


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (fifo, "not a regular file"),
        (Path.mkdir, "not a regular file"),
        (zeros, "not a regular file"),
        (loop, "Too many levels of symbolic links"),
        (dangling, "No such file"),
    ],
    ids=["a named pipe", "a directory", "a device", "a loop of links", "a dangling link"],
)
def test_what_is_no_file_is_refused(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    make(tmp_path / "db")
    with pytest.raises(SourceError, match=reason):
        states(tmp_path / "db")


def test_a_sparse_file_is_refused_before_its_hole_is_read(tmp_path: Path) -> None:
    """Four tebibytes of hole after a database, and a database that claims them."""
    (tmp_path / "tail").write_bytes(database())
    claimed = etcd_file([(revision(2), key_value(KEY, b"v", 2))]).data(pages=(4 << 40) // PAGE)
    (tmp_path / "claimed").write_bytes(claimed)
    read: list[int] = []
    for name, reason in (("tail", "its database ends at byte"), ("claimed", "so many pages is too large")):
        os.truncate(tmp_path / name, 4 << 40)
        with pytest.raises(BackupError, match=reason), open_snapshot(str(tmp_path / name), read.append):
            pass
    assert read == []


def test_a_tail_as_bbolt_leaves_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(database() + bytes(16 * MIB))
    assert states(tmp_path / "db") == 1


@pytest.mark.parametrize("left", [1, 31, 33, 512 + 32])
def test_a_snapshot_whose_hash_is_cut_or_misplaced_is_refused(tmp_path: Path, left: int) -> None:
    (tmp_path / "db").write_bytes(database() + bytes(left))
    with pytest.raises(BackupError, match=rf"db: {left} bytes follow the last page of its database"):
        states(tmp_path / "db")


@pytest.mark.parametrize(("written", "year"), [(1 << 38, 9999), (-(1 << 31), 1970), (1_700_000_000, 2023)])
def test_the_time_of_a_file_is_one_that_can_be_shown(written: int, year: int) -> None:
    # In memory: ext4 keeps no time after the year 2446, other file systems do.
    descriptor = os.memfd_create("db")
    try:
        os.utime(descriptor, (written, written))
        assert os.fstat(descriptor).st_mtime == written
        assert datetime.fromtimestamp(BackupFile("db", descriptor).modified, UTC).year == year
    finally:
        os.close(descriptor)


def test_a_long_page_is_read_value_by_value(tmp_path: Path) -> None:
    """bbolt splits no leaf of four keys: with etcd's limit raised to 10 MiB, one has 40 MiB."""
    values = [bytes([number]) * (10 * MIB) for number in range(4)]
    pairs = [(revision(main), key_value(KEY, value, main)) for main, value in enumerate(values, 2)]
    (tmp_path / "db").write_bytes(etcd_file(pairs, per_leaf=4).data())
    del pairs
    tracemalloc.start()
    try:
        with open_snapshot(str(tmp_path / "db")) as snapshot:
            for state, value in zip(snapshot.states(), reversed(values), strict=True):
                assert state.value == value
        # The value as it is stored, as a message, and its copy in the state.
        assert tracemalloc.get_traced_memory()[1] < 45 * MIB
    finally:
        tracemalloc.stop()


def test_a_value_longer_than_etcd_writes_one_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(database(bytes(17 * MIB)))
    with pytest.raises(BackupError, match="a key or value in it is longer than etcd writes one"):
        states(tmp_path / "db")


def test_a_long_page_of_long_keys_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bbolt, "_WHOLE", 2 * PAGE)
    monkeypatch.setattr(bbolt, "_LONGEST_KEYS", 3 * PAGE)
    (tmp_path / "db").write_bytes(etcd_file([(revision(2) + bytes(4 * PAGE), b"v")]).data())
    with pytest.raises(BackupError, match="a key or value in it is longer than etcd writes one"):
        states(tmp_path / "db")


@pytest.mark.parametrize(("others", "is_read"), [(999, True), (1_000, False)])
def test_hundreds_of_other_buckets_are_read(tmp_path: Path, others: int, is_read: bool) -> None:
    buckets = {b"bucket-%d" % number: [(b"a", b"b" * number)] for number in range(others)}
    buckets[b"key"] = [(revision(2), key_value(KEY, b"v", 2))]
    (tmp_path / "db").write_bytes(file_of(buckets).data(sealed=True))
    if is_read:
        assert states(tmp_path / "db") == 1
        return
    with pytest.raises(BackupError, match="more than 1,000 buckets"):
        states(tmp_path / "db")


def test_invented_members_and_records_take_little_memory(tmp_path: Path) -> None:
    urls = b'["' + b'","'.join(b"%d" % number for number in range(4_000)) + b'"]'
    long, short = b'{"name":"m","peerURLs":' + urls + b"}", b'{"name":"m","peerURLs":' + urls[:3_000] + b'"]}'
    members = [(b"%016x" % number, short if number % 2 else long) for number in range(999)]
    records = [(b"%016x" % number, bytes(60_000)) for number in range(999)]
    key = [(revision(2), key_value(KEY, b"v", 2))]
    (tmp_path / "db").write_bytes(file_of({b"key": key, b"members": members, b"meta": records}).data(sealed=True))
    tracemalloc.start()
    try:
        with open_snapshot(str(tmp_path / "db")) as snapshot:
            assert {len(one.peer_urls) for one in snapshot.members} == {20}
            assert len(snapshot.members) == 499
        assert tracemalloc.get_traced_memory()[1] < 20 * MIB
    finally:
        tracemalloc.stop()
