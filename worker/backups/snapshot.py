"""etcd's buckets in a backup: revisions, members and alarms (etcd: server/mvcc, server/etcdserver/api/membership).

Two kinds of files are read. `etcdctl snapshot save` writes a database as one transaction saw it, and appends its
SHA-256: that is verified, and nothing more can be torn. A copy of `member/snap/db` has no such hash. It is whole if
etcd did not run, or was killed; if etcd wrote to it during the copy, some pages may be newer than those that name them.
Such a copy is read as far as it is consistent, and refused by the first of these signs:

1. a page is not what the page above says (`bbolt`);
2. a revision is missing above the compaction: etcd numbers its writes without a gap;
3. a compaction is on record, in the tree or in a page that is in none, beyond the newest revision in the tree. A copy
   of a stopped etcd that deleted its newest keys, and compacted at that deletion, is refused with it.

A copy during which etcd compacted a revision that is newer than all in the copy, and that shows no sign of it, is not
noticed. It takes a copy that lasts longer than kube-apiserver's 5 minutes before it compacts.
"""

from __future__ import annotations

import hashlib
import json
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple, Protocol, cast

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from kube_rewrap.worker.backups.backup_file import BackupFile, open_backup
from kube_rewrap.worker.backups.bbolt import Bucket, Database, newest_meta
from kube_rewrap.worker.backups.seen import SeenKeys
from kube_rewrap.worker.errors import BackupError

_DIGEST = 32
_SECTOR = 512
"""A database is a multiple of it: etcd takes a file with 32 bytes more for one with a SHA-256 (etcdutl restore)."""
_LONGEST_TAIL = 1 << 30
"""Bytes after a database's last page: bbolt enlarges its file by 16 MiB more than a transaction needs."""
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\0": "xz",
    b"BZh": "bzip2",
    b"\x04\x22\x4d\x18": "lz4",
    b"PK\x03\x04": "zip",
}
"""The first bytes of files in which backups are stored."""
_CHUNK = 1 << 20

_REVISION, _TOMBSTONE = 17, 18
_MAIN = struct.Struct(">Q")
_LAST_REVISION = (1 << 63) - 1
"""Revisions are signed numbers to etcd, and it reads those from 1 on."""
_SCHEDULED = re.compile(rb"scheduledCompactRev(.{8})_.{8}", re.DOTALL)
_READ = frozenset((b"key", b"meta", b"cluster", b"members", b"alarm"))
"""The buckets whose content matters here."""
_MOST_MARKS = 100_000
_MOST_LISTED = 1_000
"""Members and alarms of a backup that are listed."""
_LONGEST_RECORD = 4 << 10
"""Bytes of a member, an alarm or a record of the bucket `meta` that are read: etcd writes a few hundred."""
_MOST_URLS = 20
_ALARMS = {1: "NOSPACE", 2: "CORRUPT"}

Progress = Callable[[int], None]
"""Called with the number of bytes that were read since the last call."""
PASSES = 2
"""How often a byte of a file is read: for the hash, and as a page that is in use."""


class State(NamedTuple):
    """What one revision made of a key. `is_newest`: no later revision of the file wrote or deleted the key."""

    key: bytes
    value: bytes
    mod_revision: int
    version: int
    lease: int
    is_newest: bool


@dataclass(frozen=True, slots=True)
class Member:
    """A member of the cluster, as the backup records it. `id` is in hex digits; without a name, it never started."""

    id: str
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "id": self.id,
            "name": self.name,
            "peer_urls": list(self.peer_urls),
            "client_urls": list(self.client_urls),
        }


@dataclass(frozen=True, slots=True)
class Alarm:
    """An alarm that a member has raised: `NOSPACE`, `CORRUPT`, or its number."""

    member: str
    alarm: str

    def to_json(self) -> dict[str, str]:
        """Return the JSON form."""
        return {"member": self.member, "alarm": self.alarm}


class Snapshot:
    """See the module's docstring; made by `open_snapshot`, which has verified the hash."""

    def __init__(self, file: BackupFile, hashed: _Hashed, progress: Progress) -> None:
        self.file = file
        self.sha256 = hashed.sha256
        """Of the whole file, as `sha256sum` prints it."""
        self.has_hash = hashed.has_hash
        """Whether the file ends with the SHA-256 that `etcdctl snapshot save` appends; it is right, then."""
        self._marks = hashed.marks
        size = file.size - _DIGEST if self.has_hash else file.size
        self._database = Database(file, size, is_strict=not self.has_hash, on_page=progress)
        if b"key" not in self._database.buckets:
            raise file.refused("it is a bbolt database, but has no bucket `key`: it is not one of etcd")
        meta = self._small(b"meta")
        self.consistent_index = int.from_bytes(meta.get(b"consistent_index", b"")[:8], "big")
        """The raft index of the last entry that etcd had applied."""
        begun, finished = (self._compaction(meta, name) for name in (b"scheduledCompactRev", b"finishedCompactRev"))
        self.compacted = max(begun, finished)
        """The revision up to which etcd has compacted, or has begun to; 0 = none."""
        self.is_compacting = begun > finished
        """Whether that compaction had not ended: some of what it deletes is still there. etcd resumes it at its start.

        One beyond the newest revision raises the store's revision in etcd 3.5; etcd 3.4 ignores it.
        """
        self.cluster_version = _word(self._small(b"cluster").get(b"clusterVersion", b""))
        self.members = tuple(_member(*pair) for pair in self._listed(b"members"))
        self.alarms = tuple(_alarm(key) for key, _ in self._listed(b"alarm"))
        self.revision = 0
        """The store's revision, as a restored etcd has it; known once `states` has ended."""
        self.tombstones = 0
        """Revisions that deleted a key; counted by `states`."""

    def states(self) -> Iterator[State]:
        """Yield what each revision made of each key, the newest revision first; deletions are only counted.

        May be called once. Holds at most 64 bytes a key. Raises BackupError for a damaged or torn file, at its end,
        too: what was yielded counts only once the iterator has ended.
        """
        parse = _key_value().FromString
        is_new = SeenKeys().add
        newest, above = 0, -1
        for page, pairs in self._database.leaves_from_the_end(self._bucket(b"key")):
            for revision, value in pairs:
                is_tombstone = len(revision) == _TOMBSTONE and revision[17] == 0x74
                if (len(revision) != _REVISION and not is_tombstone) or revision[8] != 0x5F:
                    raise self._damaged(page, "it holds a key that is no revision")
                [main] = _MAIN.unpack_from(revision)
                if main != above:
                    self._check_revision(page, main, above)
                    newest = newest or main
                    above = main
                if not value and not is_tombstone:
                    # `etcdutl snapshot restore --bump-revision` raises the store's revision so; it writes no object.
                    continue
                try:
                    state = cast("_KeyValue", parse(value))
                except DecodeError:
                    raise self._damaged(page, f"the value of revision {main} is no KeyValue of etcd") from None
                key = state.key
                if not key or (state.mod_revision != main and not is_tombstone):
                    raise self._damaged(page, f"the value of revision {main} says that it is another one's")
                is_newest = is_new(key)
                if is_tombstone:
                    self.tombstones += 1
                else:
                    yield State(key, state.value, main, state.version, state.lease, is_newest)
        if not self.has_hash:
            self._check_ends(newest, above)
        self.revision = max(newest, self.compacted, 1)
        self._require_whole()

    def _check_revision(self, page: int, main: int, above: int) -> None:
        """Raise BackupError for a revision that etcd does not read, and for a gap between it and the one `above` it."""
        if not 0 < main <= _LAST_REVISION:
            raise self._damaged(page, f"it holds the revision {main}, which etcd does not read")
        if main + 1 < above and above > self.compacted + 1 and not self.has_hash:
            raise self._damaged(page, f"{_gap(max(main, self.compacted) + 1, above - 1)}{_TORN}")

    def _check_ends(self, newest: int, oldest: int) -> None:
        """Raise BackupError if revisions are missing before the oldest one, or a compaction was after the newest."""
        if oldest > self.compacted + 1 and oldest > 2:
            raise self.file.refused(f"{_gap(max(self.compacted + 1, 2), oldest - 1)}{_TORN}")
        if self.compacted > newest:
            raise self.file.refused(_beyond(self.compacted, newest))

    def _require_whole(self) -> None:
        for name in self._database.buckets.keys() - _READ:
            # etcd reads them, too: leases, users and roles.
            for _ in self._database.leaves_from_the_end(self._bucket(name)):
                pass
        self.file.require_unchanged()
        if self.has_hash:
            return
        page_size = self._database.meta.page_size
        for offset, compacted in self._marks:
            page = offset // page_size
            if compacted > self.revision and not self._database.is_in_use(page):
                raise self._damaged(page, _beyond(compacted, self.revision))

    def _compaction(self, meta: Mapping[bytes, bytes], name: bytes) -> int:
        """Return the revision of a compaction, 0 if there is none. etcd ends with a panic on a record that is short."""
        record = meta.get(name)
        if record is None:
            return 0
        if len(record) < _REVISION:
            raise self.file.refused(f"its record {name.decode()} in the bucket `meta` is no revision")
        return max(0, int.from_bytes(record[:8], "big", signed=True))

    def _bucket(self, name: bytes) -> Bucket | None:
        return self._database.buckets.get(name)

    def _listed(self, name: bytes) -> list[tuple[bytes, bytes]]:
        return sorted(self._small(name).items())

    def _small(self, name: bytes) -> dict[bytes, bytes]:
        """Return the keys of a bucket that holds few, without those that are longer than etcd writes one."""
        found: dict[bytes, bytes] = {}
        for leaf in self._database.leaves_from_the_end(self._bucket(name)):
            found.update(pair for pair in leaf.pairs if sum(map(len, pair)) <= _LONGEST_RECORD)
            if len(found) > _MOST_LISTED:
                raise self._damaged(leaf.page, f"its bucket {name.decode()} holds more than {_MOST_LISTED:,} keys")
        return found

    def _damaged(self, page: int, reason: str) -> BackupError:
        return self.file.refused(f"page {page}: {reason}")


_TORN = "; was the file copied while etcd wrote to it? `etcdctl snapshot save` makes a whole one"


def _gap(first: int, last: int) -> str:
    return f"the revisions from {first} to {last} are missing"


def _beyond(compacted: int, newest: int) -> str:
    return f"it records a compaction at {compacted}, and the newest revision is {newest}{_TORN}"


@contextmanager
def open_snapshot(path: str, progress: Progress = lambda _: None) -> Iterator[Snapshot]:
    """Open a backup, verify its hash, and yield it.

    Raises SourceError for a path that names no file, BackupError for a file that is damaged or no backup of etcd.
    """
    with open_backup(path) as file:
        # Before the hash, which reads the file to its end.
        _require_database(file)
        yield Snapshot(file, _hash(file, progress), progress)


def _require_database(file: BackupFile) -> None:
    """Raise BackupError unless the file begins with a database, and is as long as it, with a SHA-256 or a tail."""
    head = file.read(0, min(file.size, max(map(len, _PACKED))))
    if not head:
        raise file.refused("it is empty")
    packed = next((name for magic, name in _PACKED.items() if head.startswith(magic)), None)
    if packed:
        raise file.refused(f"it is compressed with {packed}; unpack it")
    meta = newest_meta(file, file.size)
    database = meta.pages * meta.page_size
    tail = file.size - database
    if file.size % _SECTOR == _DIGEST:
        if tail != _DIGEST:
            raise file.refused(f"{tail} bytes follow the last page of its database, not just a SHA-256 of {_DIGEST}")
    elif file.size % _SECTOR:
        raise file.refused(
            f"{tail} bytes follow the last page of its database: neither a SHA-256 of {_DIGEST} nor whole pages; "
            "is it truncated?"
        )
    elif tail > _LONGEST_TAIL:
        raise file.refused(f"it has {file.size} bytes, but its database ends at byte {database}")


@dataclass(frozen=True, slots=True)
class _Hashed:
    """What one pass over the bytes found. `marks`: the offsets of recorded compactions, and their revisions."""

    sha256: str
    has_hash: bool
    marks: tuple[tuple[int, int], ...]


def _hash(file: BackupFile, progress: Progress) -> _Hashed:
    """Return the file's SHA-256. Raises BackupError if it ends with one of its content that is wrong."""
    has_hash = file.size % _SECTOR == _DIGEST
    size = file.size - _DIGEST if has_hash else file.size
    digest = hashlib.sha256()
    marks: list[tuple[int, int]] = []
    for offset in range(0, size, _CHUNK):
        chunk = file.read(offset, min(_CHUNK, size - offset))
        digest.update(chunk)
        if not has_hash and b"scheduledCompactRev" in chunk:  # in half the time that the expression takes
            found = _SCHEDULED.finditer(chunk)
            marks += [(offset + one.start(), int.from_bytes(one[1], "big")) for one in found]
            if len(marks) > _MOST_MARKS:
                raise file.refused(f"it records more than {_MOST_MARKS:,} compactions: it is not a database of etcd")
        progress(len(chunk))
    if has_hash:
        said = file.read(size, _DIGEST)
        if said != digest.digest():
            raise file.refused("the SHA-256 at its end is not that of its content: it is damaged or truncated")
        digest.update(said)
    return _Hashed(digest.hexdigest(), has_hash, tuple(marks))


def _word(value: bytes) -> str | None:
    text = value.decode("utf-8", "replace")
    return text if re.fullmatch(r"[0-9.]{1,32}", text) else None


def _member(key: bytes, value: bytes) -> Member:
    """Read a member's record tolerantly: what is not as etcd writes it is left out."""
    try:
        document = json.loads(value)
    except (ValueError, RecursionError):
        document = None
    read = document if isinstance(document, dict) else {}
    name = read.get("name")
    return Member(
        key.decode("ascii", "replace")[:16],
        name if isinstance(name, str) else "",
        _texts(read.get("peerURLs")),
        _texts(read.get("clientURLs")),
    )


def _texts(value: object) -> tuple[str, ...]:
    return tuple(one for one in value[:_MOST_URLS] if isinstance(one, str)) if isinstance(value, list) else ()


def _alarm(key: bytes) -> Alarm:
    """Read the key of an alarm: an AlarmMember (member id 1, alarm 2)."""
    try:
        read = cast("_AlarmMember", _message("AlarmMember").FromString(key))
    except DecodeError:
        return Alarm("", "unknown")
    return Alarm(f"{read.member:x}", _ALARMS.get(read.alarm, str(read.alarm)))


# etcd: api/mvccpb/kv.proto, api/etcdserverpb/rpc.proto.
_PROTO: dict[str, tuple[tuple[str, int, str], ...]] = {
    "KeyValue": (
        ("key", 1, "bytes"),
        ("create_revision", 2, "int64"),
        ("mod_revision", 3, "int64"),
        ("version", 4, "int64"),
        ("value", 5, "bytes"),
        ("lease", 6, "int64"),
    ),
    "AlarmMember": (("member", 1, "uint64"), ("alarm", 2, "int64")),
}


class _KeyValue(Protocol):
    key: bytes
    mod_revision: int
    version: int
    value: bytes
    lease: int


class _AlarmMember(Protocol):
    member: int
    alarm: int


def _key_value() -> type[Message]:
    return _message("KeyValue")


@cache
def _message(name: str) -> type[Message]:
    """Build the class of a message in a descriptor pool of its own."""
    types = descriptor_pb2.FieldDescriptorProto
    kinds = {"bytes": types.TYPE_BYTES, "int64": types.TYPE_INT64, "uint64": types.TYPE_UINT64}
    file = descriptor_pb2.FileDescriptorProto(name="kube_rewrap/backup.proto", package="backup", syntax="proto3")
    entry = file.message_type.add(name=name)
    for field, number, kind in _PROTO[name]:
        entry.field.add(name=field, number=number, label=types.LABEL_OPTIONAL, type=kinds[kind])
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"backup.{name}"))
