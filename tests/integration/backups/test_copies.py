"""Copies of `member/snap/db`, which no SHA-256 vouches for: of an etcd that stopped, was killed, or still writes."""

from __future__ import annotations

import os
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from kube_rewrap.worker.errors import BackupError
from tests.integration.backups.test_against_etcd import STEPS, put
from tests.integration.backups.truth import Reading, database_of, everything_written, range_of, read
from tests.servers.etcd import EtcdCluster, EtcdOptions, EtcdVersion
from tests.servers.gateway import Gateway

NewEtcd = Callable[[EtcdOptions], EtcdCluster]


@pytest.mark.parametrize("version", EtcdVersion, ids=lambda one: f"etcd-{one.value}")
def test_a_copy_of_a_stopped_database_is_read_whole(new_etcd: NewEtcd, tmp_path: Path, version: EtcdVersion) -> None:
    etcd = new_etcd(EtcdOptions(version=version))
    for step in STEPS:
        step(etcd.admin())
    newest = range_of(etcd.admin())
    every = everything_written(etcd.admin(), etcd.admin().revision() - 3)
    etcd.members[0].stop()
    found = read(database_of(tmp_path))
    assert not found.snapshot.has_hash
    assert (found.newest, found.all) == (newest, every)


@dataclass
class Writer:
    """Writes and deletes in a thread, compacts now and then, and knows what each revision wrote."""

    gateway: Gateway
    compacts: bool
    log: dict[int, tuple[bytes, bytes | None]] = field(default_factory=dict)
    writes: int = 0
    _written: threading.Condition = field(default_factory=threading.Condition)
    _stop: threading.Event = field(default_factory=threading.Event)

    @contextmanager
    def at_work(self) -> Iterator[None]:
        thread = threading.Thread(target=self._work)
        thread.start()
        try:
            yield
        finally:
            self._stop.set()
            thread.join()

    def _work(self) -> None:
        chance = random.Random(7)
        while not self._stop.is_set():
            name = f"/registry/secrets/default/{chance.randrange(400)}"
            if chance.random() < 0.1 and self.gateway.get(name) is not None:
                self.gateway.delete(name)
                self.log[self.gateway.revision()] = (name.encode(), None)
            else:
                value = os.urandom(chance.randrange(3_000))
                self.log[self.gateway.put(name, value)] = (name.encode(), value)
            with self._written:
                self.writes += 1
                self._written.notify()
            if self.compacts and chance.random() < 0.02:
                self.gateway.compact(self.gateway.revision())

    def wait_for_writes(self, count: int) -> None:
        with self._written:
            before = self.writes
            assert self._written.wait_for(lambda: self.writes >= before + count, timeout=30)

    def at(self, revision: int) -> dict[bytes, bytes]:
        """The keys and values at a revision."""
        found: dict[bytes, bytes] = {}
        for made in sorted(self.log):
            key, value = self.log[made]
            if made <= revision:
                found[key] = value or b""
                if value is None:
                    del found[key]
        return found


def torn_copy(source: Path, target: Path, pieces: int, writer: Writer) -> None:
    """Copies piece by piece, as slowly as `cp` does of a file of some GiB; etcd writes meanwhile."""
    size = source.stat().st_size
    piece = max(4096, size // pieces)
    with source.open("rb") as read_from, target.open("wb") as write_to:
        for _ in range(0, size, piece):
            write_to.write(read_from.read(piece))
            writer.wait_for_writes(5)
        write_to.write(read_from.read())


@pytest.mark.parametrize("compacts", [False, True], ids=["no compaction", "compactions"])
def test_a_copy_of_a_database_under_load_is_read_right_or_refused(
    new_etcd: NewEtcd, tmp_path: Path, compacts: bool
) -> None:
    # etcd commits every 5 ms in place of 100, so that a copy spans more commits.
    etcd = new_etcd(EtcdOptions(extra_args=("--backend-batch-interval", "5ms")))
    writer = Writer(etcd.admin(), compacts)
    refused: list[str] = []
    readings: list[Reading] = []
    with writer.at_work():
        for number in range(40):
            copy = tmp_path / "copy"
            torn_copy(database_of(tmp_path), copy, 1 + 20 * (number % 3), writer)
            try:
                readings.append(read(copy))
            except BackupError as error:
                refused.append(str(error))
    assert readings, refused
    for found in readings:
        newest = {one.key: one.value for one in found.newest}
        assert newest == writer.at(found.snapshot.revision), found.snapshot.revision
        first = found.snapshot.compacted + 1
        assert {(one.mod_revision, one.key, one.value) for one in found.all if one.mod_revision >= first} == {
            (made, key, value)
            for made, (key, value) in writer.log.items()
            if first <= made <= found.snapshot.revision and value is not None
        }
    assert refused, "no copy was torn: the test shows nothing"
    assert all(one.startswith(f"{tmp_path / 'copy'}: ") for one in refused)


@pytest.mark.parametrize("number", range(3))
def test_a_database_whose_etcd_was_killed_is_read_right(new_etcd: NewEtcd, tmp_path: Path, number: int) -> None:
    etcd = new_etcd(EtcdOptions())
    writer = Writer(etcd.admin(), compacts=False)
    put(etcd.admin(), b"/registry/first", b"")
    thread = threading.Thread(target=lambda: _until_it_fails(writer))
    thread.start()
    threading.Event().wait(0.7 + 0.13 * number)
    etcd.members[0].kill()
    thread.join()
    copy = tmp_path / "copy"
    shutil.copy(database_of(tmp_path), copy)
    found = read(copy)
    newest = {one.key: one.value for one in found.newest}
    assert newest == {**writer.at(found.snapshot.revision), b"/registry/first": b""}


def _until_it_fails(writer: Writer) -> None:
    try:
        writer._work()
    except OSError:
        return
