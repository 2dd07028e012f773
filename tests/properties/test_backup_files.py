"""Backups as trees of pages: any that bbolt may write is read exactly; any damage to one is read or refused."""

from __future__ import annotations

import tempfile
from pathlib import Path

from hypothesis import example, given, settings
from hypothesis import strategies as st

from kube_rewrap.worker.backups.snapshot import State, open_snapshot
from kube_rewrap.worker.errors import BackupError
from tests.fakes.bolt_file import PAGE, BoltFile, etcd_file, key_value, revision, tombstone

Write = tuple[bytes, bytes | None]
"""A key, and what was written to it; None deleted it."""

keys = st.binary(min_size=1, max_size=3) | st.sampled_from([b"/registry/secrets/a", b"/registry/secrets/b", b"\xff"])
values = st.binary(max_size=40) | st.integers(1_000, 5_000).map(lambda size: b"x" * size)
writes = st.lists(st.tuples(keys, st.none() | values), max_size=60)
shapes = st.tuples(st.integers(1, 6), st.integers(2, 5))


def file_of(written: list[Write], shape: tuple[int, int], free: int | None = None) -> BoltFile:
    """A database of one transaction for each write, the first at revision 2, as etcd's is."""
    pairs = []
    for main, (key, value) in enumerate(written, 2):
        if value is None:
            pairs.append((revision(main, is_tombstone=True), tombstone(key)))
        else:
            pairs.append((revision(main), key_value(key, value, main)))
    return etcd_file(pairs, per_leaf=shape[0], per_branch=shape[1], free=free)


def states_of(data: bytes) -> list[State]:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "db"
        file.write_bytes(data)
        with open_snapshot(str(file)) as snapshot:
            return list(snapshot.states())


@given(written=writes, shape=shapes, free=st.none() | st.integers(0, 3), sealed=st.booleans())
def test_every_state_is_read_and_the_newest_ones_are_those_of_the_writes(
    written: list[Write], shape: tuple[int, int], free: int | None, sealed: bool
) -> None:
    found = states_of(file_of(written, shape, free).data(sealed=sealed))
    expected = [(main, key, value) for main, (key, value) in enumerate(written, 2) if value is not None]
    assert [(one.mod_revision, one.key, one.value) for one in found] == expected[::-1]
    newest = {key: value for key, value in dict(written).items() if value is not None}
    assert {one.key: one.value for one in found if one.is_newest} == newest
    assert sum(one.is_newest for one in found) == len(newest)


interesting = st.sampled_from([0, 1, 2, 3, 16, PAGE, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])


@settings(max_examples=300)
@given(
    written=st.lists(st.tuples(keys, st.none() | values), min_size=1, max_size=60),
    shape=shapes,
    damages=st.lists(
        st.tuples(st.integers(0), st.integers(0, 10), interesting | st.integers(0, 60), st.sampled_from([1, 2, 4, 8])),
        min_size=1,
        max_size=4,
    ),
)
@example(written=[(b"a", b"v")], shape=(1, 2), damages=[(0, 0, 2**64 - 1, 8)])
def test_damage_to_the_structure_of_pages_is_read_within_bounds_or_refused_by_one_error(
    written: list[Write], shape: tuple[int, int], damages: list[tuple[int, int, int, int]]
) -> None:
    file = file_of(written, shape)
    file.data()
    for page, place, value, size in damages:
        target = file.pages[page % len(file.pages)]
        start = place * size % (PAGE - 8)
        target[start : start + size] = (value % 2 ** (8 * size)).to_bytes(size, "little")
    data = b"".join(file.pages)
    try:
        found = states_of(data)
    except BackupError as error:
        assert "/db: " in str(error)  # noqa: PT017 - most examples are refused, and some are read
        return
    # No byte of the file is given out twice.
    assert sum(len(one.key) + len(one.value) for one in found) <= len(data)


@settings(max_examples=200)
@given(written=writes, shape=shapes, place=st.integers(0), flip=st.integers(1, 255))
def test_no_changed_byte_of_a_snapshot_passes(
    written: list[Write], shape: tuple[int, int], place: int, flip: int
) -> None:
    data = bytearray(file_of(written, shape).data(sealed=True))
    data[place % len(data)] ^= flip
    try:
        states_of(bytes(data))
    except BackupError as error:
        assert "SHA-256" in str(error)  # noqa: PT017 - the next line says what `raises` would
        return
    raise AssertionError("a changed snapshot was read")


@given(written=writes, shape=shapes, cut=st.integers(1), sealed=st.booleans())
def test_no_truncated_file_passes(written: list[Write], shape: tuple[int, int], cut: int, sealed: bool) -> None:
    data = file_of(written, shape).data(sealed=sealed)
    size = len(data) - 1 - 32 * sealed - cut % (len(data) - 32)
    try:
        states_of(data[: max(0, size)])
    except BackupError:
        return
    raise AssertionError("a truncated file was read")


@settings(max_examples=200)
@given(data=st.binary(max_size=3_000))
def test_any_bytes_are_refused_by_one_error(data: bytes) -> None:
    try:
        states_of(data)
    except BackupError:
        return
    raise AssertionError("random bytes were read as a backup")
