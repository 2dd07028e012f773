"""A damaged file is refused by one error that names the page and the reason, within the bounds of its size."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest

from kube_rewrap.config.errors import SourceError
from kube_rewrap.worker.backups import bbolt
from kube_rewrap.worker.backups.bbolt import fnv1a
from kube_rewrap.worker.backups.snapshot import State, open_snapshot
from kube_rewrap.worker.errors import BackupError
from tests.fakes.bolt_file import BRANCH, LEAF, PAGE, BoltFile, branch, etcd_file, key_value, leaf, revision, tombstone

KEY = b"/registry/secrets/default/a"
REVISIONS = [(revision(main), key_value(b"%s%d" % (KEY, main % 10), b"v%d" % main, main)) for main in range(2, 62)]


def states(file: Path) -> list[State]:
    with open_snapshot(str(file)) as snapshot:
        return list(snapshot.states())


def whole() -> BoltFile:
    """Sixty revisions, in fifteen leaves below three levels of branch pages."""
    return etcd_file(REVISIONS)


def test_a_whole_file_is_read(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(whole().data())
    found = states(tmp_path / "db")
    assert [one.mod_revision for one in found] == list(range(61, 1, -1))
    assert [one.mod_revision for one in found if one.is_newest] == list(range(61, 51, -1))


def loop(file: BoltFile) -> None:
    """The last child of the lowest branch page is the root of the tree."""
    file.child(file.branches[0], 0, file.branches[-1])


def twice(file: BoltFile) -> None:
    file.child(file.branches[0], 0, file.leaves[1])


def meta_as_leaf(file: BoltFile) -> None:
    file.child(file.branches[0], 0, 1)


def outside(file: BoltFile) -> None:
    file.child(file.branches[0], 0, len(file.pages))


def far_outside(file: BoltFile) -> None:
    file.child(file.branches[0], 0, 2**64 - 1)


def overflow_past_the_end(file: BoltFile) -> None:
    file.header(file.leaves[0], "overflow", 2**32 - 1)


def overflow_over_the_next(file: BoltFile) -> None:
    file.header(file.leaves[0], "overflow", 1)


def branch_with_overflow(file: BoltFile) -> None:
    file.pages += [bytearray(PAGE) for _ in range(100)]
    file.header(file.branches[-1], "overflow", 100)


def another_number(file: BoltFile) -> None:
    file.header(file.leaves[3], "number", 2)


def unknown_flags(file: BoltFile) -> None:
    file.header(file.leaves[3], "flags", 0x8)


def two_flags(file: BoltFile) -> None:
    file.header(file.leaves[3], "flags", BRANCH | LEAF)


def too_many_keys(file: BoltFile) -> None:
    file.header(file.leaves[3], "count", 65_535)


def too_many_children(file: BoltFile) -> None:
    file.header(file.branches[0], "count", 65_535)


def no_key(file: BoltFile) -> None:
    file.header(file.leaves[3], "count", 0)


def no_child(file: BoltFile) -> None:
    file.header(file.branches[0], "count", 0)


def long_key(file: BoltFile) -> None:
    file.element(file.leaves[3], 3, "key size", PAGE)


def long_value(file: BoltFile) -> None:
    file.element(file.leaves[3], 3, "value size", 2**32 - 1)


def overlapping_values(file: BoltFile) -> None:
    file.element(file.leaves[3], 1, "position", 16)


def empty_key(file: BoltFile) -> None:
    file.element(file.leaves[3], 0, "key size", 0)


def bucket_among_revisions(file: BoltFile) -> None:
    file.element(file.leaves[3], 0, "flags", 1)


def swapped_leaves(file: BoltFile) -> None:
    one, other = file.leaves[1], file.leaves[2]
    file.pages[one], file.pages[other] = file.pages[other], file.pages[one]
    file.header(one, "number", one)
    file.header(other, "number", other)


def thinner_leaf(file: BoltFile) -> None:
    """As after a compaction that this tree knows nothing of."""
    rest = [*REVISIONS[5:8]]
    page = file.leaves[1]
    file.pages[page][16:] = leaf(rest).ljust(PAGE - 16, b"\0")
    file.header(page, "count", len(rest))


def missing_revision(file: BoltFile) -> None:
    rest = [REVISIONS[4], REVISIONS[5], REVISIONS[7]]
    page = file.leaves[1]
    file.pages[page][16:] = leaf(rest).ljust(PAGE - 16, b"\0")
    file.header(page, "count", len(rest))


DAMAGES: dict[str, tuple[Callable[[BoltFile], None], str]] = {
    "a branch page names one above it": (loop, "named twice"),
    "a leaf is named twice": (twice, "named twice"),
    "a meta page is named as a leaf": (meta_as_leaf, "outside"),
    "a page just past the end": (outside, "outside"),
    "a page far past the end": (far_outside, "outside"),
    "overflow pages past the end": (overflow_past_the_end, "reach past"),
    "overflow pages over the next leaf": (overflow_over_the_next, "named twice, or lies in another"),
    "a branch page of 100 pages": (branch_with_overflow, "too many"),
    "a page with the number of another": (another_number, "says that it is page 2"),
    "a page of unknown kind": (unknown_flags, "has the flags 0x8"),
    "a page of two kinds": (two_flags, "has the flags 0x3"),
    "65,535 keys in a leaf": (too_many_keys, "do not fit"),
    "65,535 children in a branch page": (too_many_children, "do not fit"),
    "a leaf without a key": (no_key, "without a key"),
    "a branch page without a child": (no_child, "do not fit"),
    "a key past the end of its page": (long_key, "reaches past its end"),
    "a value of 4 GiB": (long_value, "reaches past its end"),
    "values that overlap": (overlapping_values, "overlaps"),
    "an empty key": (empty_key, "empty"),
    "a bucket among the revisions": (bucket_among_revisions, "holds a bucket"),
    "two leaves are swapped": (swapped_leaves, "outside the range"),
    "a leaf lacks its first key": (thinner_leaf, "first key"),
    "a revision is missing": (missing_revision, "the revisions from 8 to 8 are missing"),
}


@pytest.mark.parametrize(("damage", "reason"), DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_page_is_named_with_the_reason(
    tmp_path: Path, damage: Callable[[BoltFile], None], reason: str
) -> None:
    file = whole()
    damage(file)
    (tmp_path / "db").write_bytes(file.data())
    with pytest.raises(BackupError, match=rf"db: page \d+: .*{reason}"):
        states(tmp_path / "db")


def test_a_tree_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    file = BoltFile()
    page = file.add_tree(REVISIONS[:1], 1, 2)
    for _ in range(40):
        page = file.add(BRANCH, branch([(REVISIONS[0][0], page)]), 1)
    file.root = file.add(LEAF, leaf([(b"key", struct.pack("<QQ", page, 0))], flags=1), 1)
    (tmp_path / "db").write_bytes(file.data())
    with pytest.raises(BackupError, match="too deep"):
        states(tmp_path / "db")


@pytest.mark.parametrize("sealed", [True, False], ids=["snapshot", "copy"])
def test_a_file_that_is_cut_off_at_any_page_is_refused(tmp_path: Path, sealed: bool) -> None:
    data = whole().data(sealed=sealed)
    for size in [*range(0, len(data) - PAGE, PAGE), *range(1, len(data) - PAGE, 997), len(data) - PAGE - 31]:
        (tmp_path / "db").write_bytes(data[:size])
        with pytest.raises(BackupError, match=r"db: .*(truncated|too short|empty)"):
            states(tmp_path / "db")


def test_a_snapshot_without_its_hash_is_read_as_a_copy(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(whole().data(sealed=True)[:-32])
    with open_snapshot(str(tmp_path / "db")) as snapshot:
        assert not snapshot.has_hash
        assert len(list(snapshot.states())) == len(REVISIONS)


@pytest.mark.parametrize("place", [0, 30, 5_000, -40, -1])
def test_any_other_byte_in_a_snapshot_breaks_its_hash(tmp_path: Path, place: int) -> None:
    data = bytearray(whole().data(sealed=True))
    data[place] ^= 1
    (tmp_path / "db").write_bytes(data)
    with pytest.raises(BackupError, match="SHA-256"):
        states(tmp_path / "db")


@pytest.mark.parametrize("bad", [0, 1])
def test_one_wrong_meta_is_no_harm(tmp_path: Path, bad: int) -> None:
    data = bytearray(whole().data(txids=(7, 7)))
    data[bad * PAGE + 16 + 60] ^= 1
    (tmp_path / "db").write_bytes(data)
    assert len(states(tmp_path / "db")) == len(REVISIONS)


def test_two_wrong_metas_are_refused(tmp_path: Path) -> None:
    data = bytearray(whole().data())
    for number in (0, 1):
        data[number * PAGE + 16 + 60] ^= 1
    (tmp_path / "db").write_bytes(data)
    with pytest.raises(BackupError, match="its checksum is wrong"):
        states(tmp_path / "db")


def test_the_newer_meta_wins(tmp_path: Path) -> None:
    file = whole()
    data = bytearray(file.data(txids=(7, 8)))
    # The older one has another root, and a right checksum.
    body = data[16 : 16 + 56]
    struct.pack_into("<Q", body, 16, 999)
    data[16 : 16 + 64] = body + struct.pack("<Q", fnv1a(bytes(body)))
    (tmp_path / "db").write_bytes(data)
    assert len(states(tmp_path / "db")) == len(REVISIONS)


def test_a_page_that_is_free_and_in_use_is_refused(tmp_path: Path) -> None:
    file = etcd_file(REVISIONS, free=3)
    (tmp_path / "db").write_bytes(file.data())
    assert len(states(tmp_path / "db")) == len(REVISIONS)
    struct.pack_into("<Q", file.pages[file.freelist], 16, file.leaves[0])
    (tmp_path / "db").write_bytes(file.data())
    with pytest.raises(BackupError, match=rf"page {file.leaves[0]}: .*freelist has it"):
        states(tmp_path / "db")


def test_a_long_freelist_is_read_in_chunks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bbolt, "_CHUNK", 64)
    file = etcd_file(REVISIONS, free=200)
    (tmp_path / "db").write_bytes(file.data())
    assert len(states(tmp_path / "db")) == len(REVISIONS)
    # The last of 200, in the second page of the freelist.
    struct.pack_into("<Q", file.pages[file.freelist + 1], 16 + 199 * 8 - PAGE, file.leaves[0])
    (tmp_path / "db").write_bytes(file.data())
    with pytest.raises(BackupError, match=rf"page {file.leaves[0]}: .*freelist has it"):
        states(tmp_path / "db")


def test_another_bbolt_database_is_none_of_etcd(tmp_path: Path) -> None:
    file = BoltFile()
    file.root = file.add(LEAF, leaf([(b"other", struct.pack("<QQ", 0, 0))], flags=1), 1)
    (tmp_path / "db").write_bytes(file.data())
    with pytest.raises(BackupError, match="no bucket `key`"):
        states(tmp_path / "db")


@pytest.mark.parametrize("key", [revision(2).replace(b"_", b"-"), revision(2) + b"x", b"a"])
def test_a_key_that_is_no_revision_is_refused(tmp_path: Path, key: bytes) -> None:
    (tmp_path / "db").write_bytes(etcd_file([(key, key_value(KEY, b"v", 2))]).data())
    with pytest.raises(BackupError, match=r"page \d+: it holds a key that is no revision"):
        states(tmp_path / "db")


@pytest.mark.parametrize(
    "value",
    [
        b"\xff\xff",
        key_value(b"", b"v", 2),
        key_value(KEY, b"v", 3),
    ],
    ids=["no protobuf", "no key", "of another revision"],
)
def test_a_value_that_is_not_of_its_revision_is_refused(tmp_path: Path, value: bytes) -> None:
    (tmp_path / "db").write_bytes(etcd_file([(revision(2), value)]).data())
    with pytest.raises(BackupError, match="the value of revision 2"):
        states(tmp_path / "db")


@pytest.mark.parametrize("main", [0, 1 << 63, (1 << 64) - 1])
@pytest.mark.parametrize("is_tombstone", [True, False])
def test_a_revision_that_etcd_does_not_read_is_refused(tmp_path: Path, main: int, is_tombstone: bool) -> None:
    """Else a tombstone past etcd's last revision would hide an object that a restored etcd has."""
    value = tombstone(KEY) if is_tombstone else b""
    pairs = sorted([(revision(2), key_value(KEY, b"v", 2)), (revision(main, is_tombstone=is_tombstone), value)])
    (tmp_path / "db").write_bytes(etcd_file(pairs).data(sealed=True))
    with pytest.raises(BackupError, match=rf"it holds the revision {main}, which etcd does not read"):
        states(tmp_path / "db")


@pytest.mark.parametrize(
    ("scheduled", "finished", "compacted", "is_compacting"),
    [
        (9, 9, 9, False),
        (9, 4, 9, True),
        (9, None, 9, True),
        (4, 9, 9, False),
        (1 << 63, 9, 9, False),
        ((1 << 64) - 5, None, 0, False),
        (None, 1 << 63, 0, False),
        (None, None, 0, False),
    ],
)
def test_a_compaction_counts_as_etcd_counts_it(
    tmp_path: Path, scheduled: int | None, finished: int | None, compacted: int, is_compacting: bool
) -> None:
    marks = {b"scheduledCompactRev": scheduled, b"finishedCompactRev": finished}
    meta = {name: revision(main) for name, main in marks.items() if main is not None}
    (tmp_path / "db").write_bytes(etcd_file(REVISIONS, meta=meta).data())
    with open_snapshot(str(tmp_path / "db")) as snapshot:
        assert (snapshot.compacted, snapshot.is_compacting) == (compacted, is_compacting)


@pytest.mark.parametrize("mark", [b"scheduledCompactRev", b"finishedCompactRev"])
@pytest.mark.parametrize("size", [0, 7, 8, 16])
def test_a_compaction_on_which_etcd_panics_is_refused(tmp_path: Path, mark: bytes, size: int) -> None:
    (tmp_path / "db").write_bytes(etcd_file(REVISIONS, meta={mark: revision(9)[:size]}).data())
    with (
        pytest.raises(BackupError, match=f"its record {mark.decode()} in the bucket `meta` is no revision"),
        open_snapshot(str(tmp_path / "db")),
    ):
        pass


def test_a_compaction_beyond_the_newest_revision_shows_a_torn_copy(tmp_path: Path) -> None:
    file = whole()
    stray = leaf([(b"scheduledCompactRev", revision(99))])
    file.add(LEAF, stray, 1)
    (tmp_path / "db").write_bytes(file.data())
    with pytest.raises(BackupError, match="it records a compaction at 99, and the newest revision is 61"):
        states(tmp_path / "db")
    # Not in a snapshot, which one transaction saw, and not in an object that only says so.
    (tmp_path / "db").write_bytes(file.data(sealed=True))
    assert len(states(tmp_path / "db")) == len(REVISIONS)
    said = key_value(KEY, b"scheduledCompactRev" + revision(99), 2)
    (tmp_path / "db").write_bytes(etcd_file([(revision(2), said)]).data())
    assert len(states(tmp_path / "db")) == 1


def test_a_compaction_in_the_tree_beyond_its_newest_revision_shows_a_torn_copy(tmp_path: Path) -> None:
    """The page of the buckets is newer than those that it names. In a snapshot, the newest keys were deleted."""
    file = etcd_file(REVISIONS, meta={b"scheduledCompactRev": revision(99), b"finishedCompactRev": revision(99)})
    (tmp_path / "db").write_bytes(file.data())
    with pytest.raises(BackupError, match="it records a compaction at 99, and the newest revision is 61"):
        states(tmp_path / "db")
    (tmp_path / "db").write_bytes(file.data(sealed=True))
    assert len(states(tmp_path / "db")) == len(REVISIONS)


def test_what_is_below_the_compaction_may_have_gaps(tmp_path: Path) -> None:
    kept = [REVISIONS[3], REVISIONS[9], *REVISIONS[20:]]
    meta = {b"scheduledCompactRev": revision(21), b"finishedCompactRev": revision(21)}
    (tmp_path / "db").write_bytes(etcd_file(kept, meta=meta).data())
    assert len(states(tmp_path / "db")) == len(kept)
    meta = {b"scheduledCompactRev": revision(20), b"finishedCompactRev": revision(20)}
    (tmp_path / "db").write_bytes(etcd_file(kept, meta=meta).data())
    with pytest.raises(BackupError, match="from 21 to 21 are missing"):
        states(tmp_path / "db")


def test_a_deleted_key_has_no_newest_state(tmp_path: Path) -> None:
    pairs = [*REVISIONS[:1], (revision(3, is_tombstone=True), tombstone(KEY + b"2"))]
    (tmp_path / "db").write_bytes(etcd_file(pairs).data())
    with open_snapshot(str(tmp_path / "db")) as snapshot:
        assert [one.is_newest for one in snapshot.states()] == [False]
        assert (snapshot.revision, snapshot.tombstones) == (3, 1)


@pytest.mark.parametrize(("root", "reason"), [(9_999, "outside"), (0, "cut off"), (2, "named twice")])
def test_a_bucket_of_leases_that_etcd_could_not_read_is_refused(tmp_path: Path, root: int, reason: str) -> None:
    file = BoltFile()
    buckets = [
        (b"key", struct.pack("<QQ", file.add_tree(REVISIONS[:2], 4, 3), 0)),
        (b"lease", struct.pack("<QQ", root, 0)),
    ]
    file.root = file.add(LEAF, leaf(buckets, flags=1), 2)
    (tmp_path / "db").write_bytes(file.data())
    with pytest.raises(BackupError, match=rf"page \d+: .*{reason}"):
        states(tmp_path / "db")


def test_a_revision_without_a_value_only_raises_the_revision(tmp_path: Path) -> None:
    bumped = (revision(1_000_061), b"")
    meta = {b"scheduledCompactRev": bumped[0]}
    (tmp_path / "db").write_bytes(etcd_file([*REVISIONS, bumped], meta=meta).data())
    with open_snapshot(str(tmp_path / "db")) as snapshot:
        assert len(list(snapshot.states())) == len(REVISIONS)
        assert snapshot.revision == 1_000_061
    (tmp_path / "db").write_bytes(etcd_file([*REVISIONS, bumped]).data())
    with pytest.raises(BackupError, match="the revisions from 62 to 1000060 are missing"):
        states(tmp_path / "db")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(whole().data())
    with open_snapshot(str(tmp_path / "db")) as snapshot:
        found = snapshot.states()
        next(found)
        with (tmp_path / "db").open("ab") as file:
            file.write(bytes(PAGE))
        with pytest.raises(BackupError, match="it changed while"):
            list(found)


def test_a_file_that_is_truncated_while_it_is_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(whole().data())
    with open_snapshot(str(tmp_path / "db")) as snapshot:
        found = snapshot.states()
        next(found)
        (tmp_path / "db").write_bytes(b"")
        with pytest.raises(BackupError, match="truncated"):
            list(found)


@pytest.mark.parametrize("name", ["missing", "", "a\0b"])
def test_a_path_that_names_no_file_is_the_operators_fault(tmp_path: Path, name: str) -> None:
    with pytest.raises(SourceError, match=r"can't be read|not a regular file"):
        states(tmp_path / name)


def test_a_hostile_file_takes_no_memory_beyond_its_longest_page(tmp_path: Path) -> None:
    file = whole()
    for page in file.leaves:
        file.header(page, "count", 65_535)
    (tmp_path / "db").write_bytes(file.data())
    tracemalloc.start()
    try:
        with pytest.raises(BackupError):
            states(tmp_path / "db")
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()
