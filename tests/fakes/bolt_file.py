"""Builds files of bbolt, page by page, as bbolt writes them; tests damage them."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

PAGE = 1024
BRANCH, LEAF, META, FREELIST = 0x01, 0x02, 0x04, 0x10
Pairs = Sequence[tuple[bytes, bytes]]


@dataclass
class BoltFile:
    """The pages of a database. `put` and the fields of a page's header are there to be damaged with."""

    pages: list[bytearray] = field(default_factory=lambda: [bytearray(PAGE), bytearray(PAGE)])
    branches: list[int] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    root: int = 0
    freelist: int = 0xFFFF_FFFF_FFFF_FFFF
    overflowing: list[int] = field(default_factory=list)

    def add(self, flags: int, body: bytes, count: int) -> int:
        """Appends a page, with overflow pages as it needs them."""
        number = len(self.pages)
        total = -(-(16 + len(body)) // PAGE)
        data = (struct.pack("<QHHI", number, flags, count, total - 1) + body).ljust(total * PAGE, b"\0")
        self.pages += [bytearray(data[start : start + PAGE]) for start in range(0, len(data), PAGE)]
        if total > 1:
            self.overflowing.append(number)
        return number

    def add_tree(self, pairs: Pairs, per_leaf: int, per_branch: int, *, flags: int = 0) -> int:
        """Appends a tree with so many keys in a leaf; returns its root page."""
        parts = [pairs[start : start + per_leaf] for start in range(0, len(pairs), per_leaf)] or [[]]
        level = [(part[0][0] if part else b"", self.add(LEAF, leaf(part, flags), len(part))) for part in parts]
        self.leaves += [page for _, page in level]
        while len(level) > 1:
            above = [level[start : start + per_branch] for start in range(0, len(level), per_branch)]
            level = [(part[0][0], self.add(BRANCH, branch(part), len(part))) for part in above]
            self.branches += [page for _, page in level]
        return level[0][1]

    def header(self, page: int, place: str, value: int) -> None:
        """Sets a field of a page's header."""
        offset, kind = {"number": (0, "<Q"), "flags": (8, "<H"), "count": (10, "<H"), "overflow": (12, "<I")}[place]
        struct.pack_into(kind, self.pages[page], offset, value)

    def child(self, page: int, index: int, value: int) -> None:
        """Sets the page that an element of a branch page names."""
        struct.pack_into("<Q", self.pages[page], 16 + 16 * index + 8, value)

    def element(self, page: int, index: int, place: str, value: int) -> None:
        """Sets a field of an element of a leaf page."""
        offset = {"flags": 0, "position": 4, "key size": 8, "value size": 12}[place]
        struct.pack_into("<I", self.pages[page], 16 + 16 * index + offset, value)

    def data(self, *, txids: tuple[int, int] = (7, 6), sealed: bool = False, pages: int | None = None) -> bytes:
        """The file, with its metas; `sealed` appends the hash as `etcdctl snapshot save` does."""
        for number, txid in enumerate(txids):
            body = struct.pack(
                "<IIIIQQQQQ", 0xED0CDAED, 2, PAGE, 0, self.root, 0, self.freelist, pages or len(self.pages), txid
            )
            head = struct.pack("<QHHI", number, META, 0, 0)
            self.pages[number][: 16 + 64] = head + body + struct.pack("<Q", fnv1a(body))
        content = b"".join(self.pages)
        return content + hashlib.sha256(content).digest() if sealed else content


def fnv1a(data: bytes) -> int:
    value = 14695981039346656037
    for byte in data:
        value = ((value ^ byte) * 1099511628211) % 2**64
    return value


def leaf(pairs: Pairs, flags: int = 0) -> bytes:
    """The body of a leaf page."""
    heads, tail = bytearray(), bytearray()
    for number, (key, value) in enumerate(pairs):
        position = 16 * (len(pairs) - number) + len(tail)
        heads += struct.pack("<IIII", flags, position, len(key), len(value))
        tail += key + value
    return bytes(heads + tail)


def branch(children: Sequence[tuple[bytes, int]]) -> bytes:
    """The body of a branch page."""
    heads, tail = bytearray(), bytearray()
    for number, (key, page) in enumerate(children):
        position = 16 * (len(children) - number) + len(tail)
        heads += struct.pack("<IIQ", position, len(key), page)
        tail += key
    return bytes(heads + tail)


def inline(pairs: Pairs) -> bytes:
    """The value of a bucket that lies in its parent's page."""
    return struct.pack("<QQQHHI", 0, 0, 0, LEAF, len(pairs), 0) + leaf(pairs)


def etcd_file(
    revisions: Pairs,
    *,
    per_leaf: int = 4,
    per_branch: int = 3,
    meta: Mapping[bytes, bytes] | None = None,
    free: int | None = None,
) -> BoltFile:
    """A database as etcd keeps it: a bucket of revisions, and small ones inline. With `free`, so many free pages."""
    file = BoltFile()
    key = file.add_tree(revisions, per_leaf, per_branch)
    buckets = {
        b"key": struct.pack("<QQ", key, 0),
        b"meta": inline(sorted({b"consistent_index": (9).to_bytes(8, "big"), **(meta or {})}.items())),
        b"members": inline([(b"8e9e05c52164694d", b'{"id":1,"name":"m0","peerURLs":["http://a"]}')]),
        b"cluster": inline([(b"clusterVersion", b"3.5.0")]),
        b"alarm": inline([]),
    }
    file.root = file.add(LEAF, leaf(sorted(buckets.items()), flags=1), len(buckets))
    if free is not None:
        unused = [file.add(LEAF, b"", 0) for _ in range(free)]
        file.freelist = file.add(FREELIST, struct.pack(f"<{free}Q", *unused), free)
    return file


def file_of(buckets: Mapping[bytes, Pairs], *, per_leaf: int = 2, per_branch: int = 30) -> BoltFile:
    """A database of any buckets, each a tree of its own."""
    file = BoltFile()
    roots = {name: file.add_tree(sorted(pairs), per_leaf, per_branch) for name, pairs in buckets.items()}
    heads = [(name, struct.pack("<QQ", root, 0)) for name, root in sorted(roots.items())]
    file.root = file.add_tree(heads, 20, per_branch, flags=1)
    return file


def revision(main: int, sub: int = 0, *, is_tombstone: bool = False) -> bytes:
    """A key of the bucket `key`."""
    return main.to_bytes(8, "big") + b"_" + sub.to_bytes(8, "big") + b"t" * is_tombstone


def key_value(key: bytes, value: bytes, main: int, version: int = 1, lease: int = 0) -> bytes:
    """A KeyValue of etcd, in protobuf."""
    fields = (
        _bytes(1, key),
        _number(2, main),
        _number(3, main),
        _number(4, version),
        _bytes(5, value),
        _number(6, lease),
    )
    return b"".join(fields)


def tombstone(key: bytes) -> bytes:
    """The value of a revision that deleted a key."""
    return _bytes(1, key)


def _bytes(number: int, data: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(data)) + data if data else b""


def _number(number: int, value: int) -> bytes:
    return bytes([number << 3]) + _varint(value) if value else b""


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])
