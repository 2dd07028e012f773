"""Reads bbolt's file format (go.etcd.io/bbolt: page.go, db.go, node.go), in which etcd keeps its database.

A file is a sequence of pages. Pages 0 and 1 hold a meta each; the valid one with the higher transaction id names the
root page of a B+ tree of buckets, and each bucket is a B+ tree of its own, or lies inline in its parent's page. All
numbers are little endian.

The file is hostile. Each page is read once at most; what it says is checked before it is followed, and a page that
fails a check raises BackupError, which names the page and the reason. So time grows with the size of the file, and
memory with its longest value (`_LONGEST_VALUE`) and the number of its pages (one byte each).

Not handled: writing, and buckets inside buckets, which etcd does not make.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kube_rewrap.worker.backups.backup_file import BackupFile
from kube_rewrap.worker.errors import BackupError

_MAGIC = 0xED0CDAED
_VERSION = 2
_PAGE_SIZES = tuple(1024 << shift for shift in range(7))
"""The sizes in which bbolt looks for the second meta page when the first one is damaged, up to 64 KiB."""

_BRANCH, _LEAF, _FREELIST = 0x01, 0x02, 0x10
_IS_BUCKET = 0x01

_HEADER = struct.Struct("<QHHI")  # page number, flags, count, overflow
_META = struct.Struct(
    "<IIIIQQQQQQ"
)  # magic, version, page size, flags, root, sequence, freelist, pages, txid, checksum
_LEAF_ELEMENT = struct.Struct("<IIII")  # flags, position of the key after the element's start, key size, value size
_BRANCH_ELEMENT = struct.Struct("<IIQ")  # position, key size, page
_FREE_PAGE = struct.Struct("<Q")
_BUCKET = struct.Struct("<QQ")  # root page, sequence

_DEEPEST = 24
_LONGEST_BRANCH = 64 << 10
"""Bytes of a branch page: etcd's keys have 18 bytes at most, so that bbolt fills one page with them."""
_LONGEST_LEAF = 64 << 20
"""Bytes of a leaf page with its overflow pages: bbolt splits it where it has more than four keys."""
_LONGEST_VALUE = 16 << 20
"""etcd's limit of a request is 1.5 MiB by default, and it warns of one above 10 MiB."""
_LONGEST_KEYS = 1 << 20
"""Bytes of the keys of one leaf page: four of bbolt's longest, of 32 KiB, or many that fit one page of 64 KiB."""
_WHOLE = 1 << 20
"""Bytes of a page that are read at once; the values of a longer one are read one by one."""
_MOST_BUCKETS = 1_000
_LONGEST_NAME = 1_024
_MOST_PAGES = 1 << 26
"""Pages of a file; each takes one byte of memory."""
_LARGEST = 256 << 30
"""Bytes of a database, so many pages of 4 KiB; etcd advises 8 GiB at most. A sparse file may claim any number."""
_CHUNK = 1 << 20
"""Bytes of the freelist that are read at once; it may name every page."""
_NO_FREELIST = 0xFFFF_FFFF_FFFF_FFFF
_COUNT_IN_BODY = 0xFFFF

_IN_USE, _FREE = 1, 2


class Pairs(NamedTuple):
    """The keys and values of one leaf page, the highest key first; to be read before the next page."""

    page: int
    pairs: Iterable[tuple[bytes, bytes]]


class _LongPage:
    """The bytes of a page that is not read at once: a slice of it is read when it is taken."""

    def __init__(self, file: BackupFile, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, part: slice) -> bytes:
        return self._file.read(self._start + part.start, part.stop - part.start)


_Content = bytes | _LongPage


_Element = tuple[int, bytes, int, int]
"""A key of a leaf page: whether it is a bucket, the key, and where its value begins and ends in the page."""


@dataclass(frozen=True, slots=True)
class Meta:
    """A valid meta page. `pages` is the number of pages that the tree may use."""

    page_size: int
    root: int
    freelist: int
    pages: int
    txid: int


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket: the root page of its tree, or its one page inline (root 0), which lies in page `page`."""

    page: int
    root: int
    inline: bytes = field(default=b"", repr=False)


class Database:
    """See the module's docstring.

    `size`: how many bytes of the file are the database. `is_strict`: whether the key with which a branch page names a
    child must be the child's first key. bbolt writes it so; in a copy that was made while etcd wrote, a page may be
    newer than the page that names it. `on_page` is called with the bytes of each page that was read.
    """

    def __init__(
        self, file: BackupFile, size: int, *, is_strict: bool, on_page: Callable[[int], None] = lambda _: None
    ) -> None:
        self._file = file
        self._is_strict = is_strict
        self._on_page = on_page
        self.meta = newest_meta(file, size)
        self._uses = bytearray(self.meta.pages)
        self._uses[:2] = bytes((_IN_USE, _IN_USE))
        if self.meta.freelist != _NO_FREELIST:
            self._read_freelist()
        self.buckets = self._read_buckets()

    def is_in_use(self, page: int) -> bool:
        """Whether a page is a meta page, or one of those that were read so far."""
        return page < len(self._uses) and self._uses[page] == _IN_USE

    def leaves_from_the_end(self, bucket: Bucket | None) -> Iterator[Pairs]:
        """Yield the leaf pages of a bucket, the one with the highest keys first; none for None. Can be done once."""
        if bucket is None:
            return
        for page, data, elements in self._leaves(bucket):
            for is_bucket, _, _, _ in elements:
                if is_bucket:
                    raise self._damaged(page, "it holds a bucket, where etcd keeps none")
            yield Pairs(page, ((key, data[start:end]) for _, key, start, end in reversed(elements)))

    def _read_buckets(self) -> Mapping[bytes, Bucket]:
        found: dict[bytes, Bucket] = {}
        for page, data, elements in self._leaves(Bucket(0, self.meta.root)):
            for is_bucket, name, start, end in elements:
                if not is_bucket or end - start < _BUCKET.size:
                    raise self._damaged(page, "it holds something else than buckets")
                if len(name) > _LONGEST_NAME or end - start > self.meta.page_size:
                    raise self._damaged(page, "a bucket in it has too long a name, or more content than fits a page")
                value = data[start:end]
                root, _ = _BUCKET.unpack_from(value)
                found[name] = Bucket(page, root, value[_BUCKET.size :] if root == 0 else b"")
                if len(found) > _MOST_BUCKETS:
                    raise self._damaged(page, f"it is one of those with more than {_MOST_BUCKETS:,} buckets")
        return found

    def _leaves(self, bucket: Bucket) -> Iterator[tuple[int, _Content, Sequence[_Element]]]:
        """Yield the number, content and elements of each leaf page, the one with the highest keys first."""
        if bucket.root == 0:
            yield bucket.page, bucket.inline, self._inline(bucket)
            return
        stack: list[tuple[int, int, bytes, bytes | None]] = [(bucket.root, 1, b"", None)]
        while stack:
            page, depth, lower, upper = stack.pop()
            flags, count, data = self._read(page)
            if flags == _BRANCH:
                if depth >= _DEEPEST:
                    raise self._damaged(page, f"it is a branch page at depth {depth}: the tree is too deep")
                children = self._children(page, data[0 : len(data)], count)
                keys = [key for key, _ in children]
                self._check_order(page, keys, lower, upper)
                uppers = [*keys[1:], upper]
                below = zip(children, uppers, strict=True)
                stack += [(child, depth + 1, key, until) for (key, child), until in below]
            elif flags == _LEAF:
                elements = self._elements(page, data, count)
                if not elements and depth > 1:
                    raise self._damaged(page, "it is a leaf page without a key")
                self._check_order(page, [key for _, key, _, _ in elements], lower, upper)
                yield page, data, elements
            else:
                raise self._damaged(page, f"it is named as a part of a tree, and has the flags {flags:#x}")

    def _inline(self, bucket: Bucket) -> Sequence[_Element]:
        if len(bucket.inline) < _HEADER.size:
            raise self._damaged(bucket.page, "a bucket in it is cut off")
        _, flags, count, overflow = _HEADER.unpack_from(bucket.inline)
        if flags != _LEAF or overflow:
            raise self._damaged(bucket.page, "a bucket in it is not a leaf page")
        elements = self._elements(bucket.page, bucket.inline, count)
        self._check_order(bucket.page, [key for _, key, _, _ in elements], b"", None)
        return elements

    def _read(self, page: int) -> tuple[int, int, _Content]:
        """Return the flags of a page, the number of its elements, and it with its overflow pages.

        Raises BackupError for one outside the file, or read before.
        """
        data, size = self._claim(page)
        _, flags, count, _ = _HEADER.unpack_from(data)
        self._on_page(size)
        if size == len(data):
            return flags, count, data
        start = page * self.meta.page_size
        return flags, count, self._file.read(start, size) if size <= _WHOLE else _LongPage(self._file, start, size)

    def _claim(self, page: int) -> tuple[bytes, int]:
        """Return a page without its overflow pages, and its bytes with them. Raises as `_read`."""
        meta = self.meta
        if not 2 <= page < meta.pages:
            raise self._damaged(page, f"it is named as a part of a tree, and lies outside the {meta.pages} pages")
        data = self._file.read(page * meta.page_size, meta.page_size)
        number, flags, _, overflow = _HEADER.unpack_from(data)
        if number != page:
            raise self._damaged(page, f"its header says that it is page {number}")
        self._take(page, overflow, flags)
        return data, (1 + overflow) * meta.page_size

    def _take(self, page: int, overflow: int, flags: int) -> None:
        end = page + 1 + overflow
        if end > self.meta.pages:
            raise self._damaged(page, f"its {overflow} overflow pages reach past the {self.meta.pages} pages")
        longest = {_LEAF: _LONGEST_LEAF, _FREELIST: len(self._uses) * 8 + self.meta.page_size}
        if (1 + overflow) * self.meta.page_size > max(longest.get(flags, _LONGEST_BRANCH), self.meta.page_size):
            raise self._damaged(page, f"its {overflow} overflow pages are too many")
        if any(self._uses[page:end]):
            free = self._uses.find(_FREE, page, end)
            reason = "the freelist has it, too" if free >= 0 else "it is named twice, or lies in another one"
            raise self._damaged(page, f"it is named as a part of a tree, and {reason}")
        self._uses[page:end] = bytes((_IN_USE,)) * (end - page)

    def _read_freelist(self) -> None:
        page = self.meta.freelist
        data, size = self._claim(page)
        self._on_page(size)
        _, flags, count, _ = _HEADER.unpack_from(data)
        if flags != _FREELIST:
            raise self._damaged(page, f"it is named as the freelist, and has the flags {flags:#x}")
        start = _HEADER.size
        if count == _COUNT_IN_BODY:
            count, start = int.from_bytes(data[start : start + 8], "little"), start + 8
        if start + 8 * count > size:
            raise self._damaged(page, f"its {count} free pages reach past its end")
        start += page * self.meta.page_size
        for first in range(start, start + 8 * count, _CHUNK):
            for (one,) in _FREE_PAGE.iter_unpack(self._file.read(first, min(_CHUNK, start + 8 * count - first))):
                if not 2 <= one < self.meta.pages or self._uses[one]:
                    raise self._damaged(page, f"it names page {one} as free, which is in use, free twice, or outside")
                self._uses[one] = _FREE

    def _children(self, page: int, data: bytes, count: int) -> list[tuple[bytes, int]]:
        end = _HEADER.size + count * _BRANCH_ELEMENT.size
        if not count or end > len(data):
            raise self._damaged(page, f"it is a branch page of {count} children, which do not fit into it")
        children = []
        start = _HEADER.size
        for position, key_size, child in _BRANCH_ELEMENT.iter_unpack(data[start:end]):
            first = start + position
            if first < end or first + key_size > len(data):
                raise self._damaged(page, "a key in it overlaps another one, or reaches past its end")
            end = first + key_size
            children.append((data[first:end], child))
            start += _BRANCH_ELEMENT.size
        return children

    def _elements(self, page: int, data: _Content, count: int) -> Sequence[_Element]:
        """Return the elements of a leaf page. They may not overlap: together they fit into the page."""
        size = len(data)
        end = _HEADER.size + count * _LEAF_ELEMENT.size
        if end > size:
            raise self._damaged(page, f"it is a leaf page of {count} keys, which do not fit into it")
        heads = data[_HEADER.size : end]
        if size > _WHOLE:
            self._check_lengths(page, heads)
        elements = []
        start = _HEADER.size
        for flags, position, key_size, value_size in _LEAF_ELEMENT.iter_unpack(heads):
            first = start + position
            middle = first + key_size
            if first < end or middle + value_size > size or not key_size:
                raise self._damaged(page, "a key or value in it is empty, overlaps another, or reaches past its end")
            end = middle + value_size
            elements.append((flags & _IS_BUCKET, data[first:middle], middle, end))
            start += _LEAF_ELEMENT.size
        return elements

    def _check_lengths(self, page: int, heads: bytes) -> None:
        sizes = [(key_size, value_size) for _, _, key_size, value_size in _LEAF_ELEMENT.iter_unpack(heads)]
        if (
            sum(key for key, _ in sizes) > _LONGEST_KEYS
            or max((value for _, value in sizes), default=0) > _LONGEST_VALUE
        ):
            raise self._damaged(page, "a key or value in it is longer than etcd writes one")

    def _check_order(self, page: int, keys: list[bytes], lower: bytes, upper: bytes | None) -> None:
        """Raise BackupError unless the keys ascend, from `lower` to before `upper`, which the branch page says."""
        if not keys:
            return
        before = keys[0]
        for key in keys[1:]:
            if key <= before:
                raise self._damaged(page, "its keys are not in order")
            before = key
        if keys[0] < lower or (upper is not None and before >= upper):
            raise self._damaged(page, f"its keys lie outside the range that the page above gives it{self._torn}")
        if self._is_strict and lower not in {b"", keys[0]}:
            raise self._damaged(page, f"its first key is not that by which the page above names it{self._torn}")

    @property
    def _torn(self) -> str:
        return (
            "; was the file copied while etcd wrote to it? `etcdctl snapshot save` makes a whole one"
            if self._is_strict
            else ""
        )

    def _damaged(self, page: int, reason: str) -> BackupError:
        return self._file.refused(f"page {page}: {reason}")


def newest_meta(file: BackupFile, size: int) -> Meta:
    """Return the valid meta with the higher transaction id.

    Raises BackupError if neither is valid, and if a database of `size` bytes can't have the pages that it says.
    """
    first = _meta_at(file, 0, size)
    if isinstance(first, Meta):
        places = [first.page_size]
    else:
        places = [one for one in _PAGE_SIZES if one + _HEADER.size + _META.size <= size]
    others = [meta for place in places if isinstance(meta := _meta_at(file, place, size), Meta)]
    found = [meta for meta in (first, *others) if isinstance(meta, Meta)]
    if not found:
        raise file.refused(f"page 0: {first}, and page 1 is no better: it is not a database of etcd, or it is damaged")
    meta = max(found, key=lambda meta: meta.txid)
    if meta.pages * meta.page_size > size:
        there = size // meta.page_size
        raise file.refused(f"page {there}: the file ends before it, of {meta.pages} pages: it is truncated")
    most = min(_MOST_PAGES, _LARGEST // meta.page_size)
    if meta.pages > most:
        raise file.refused(f"page {most}: a database of so many pages is too large")
    return meta


def _meta_at(file: BackupFile, offset: int, size: int) -> Meta | str:
    """Return the meta in the page that begins at `offset`, or why it is not valid."""
    if offset + _HEADER.size + _META.size > size:
        return "the file is too short"
    body = file.read(offset + _HEADER.size, _META.size)
    magic, version, page_size, _, root, _, freelist, pages, txid, checksum = _META.unpack(body)
    if magic != _MAGIC or version != _VERSION:
        return "it has not bbolt's magic number and version"
    if checksum != fnv1a(body[:-8]):
        return "its checksum is wrong"
    # Behind a right checksum, still: anyone can compute one.
    if page_size not in _PAGE_SIZES or offset not in {0, page_size}:
        return f"its page size is {page_size}"
    return Meta(page_size, root, freelist, pages, txid)


def fnv1a(data: bytes) -> int:
    """Return the 64-bit FNV-1a hash of some bytes."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 & 0xFFFF_FFFF_FFFF_FFFF
    return value
