"""Counts the objects of a resource by namespace, and notes the keys at which a batch may begin. Reads keys only."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from kube_rewrap.worker.etcd.pages import read_keys
from kube_rewrap.worker.etcd.ranges import KeyRange, key_text
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.inventory import ResourceRange

BATCH_OBJECTS = 2_000
"""Target size of a batch in objects: minutes of work at most, and enough to be worth a record."""


@dataclass(frozen=True, slots=True)
class NamespaceCount:
    """A namespace of a resource ("" = cluster scope), where it begins, and how many objects it holds.

    `cuts` are keys inside it, one every `BATCH_OBJECTS` objects, where a batch may begin.
    """

    namespace: str
    start: bytes
    objects: int
    cuts: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class ResourceCensus:
    """A resource, the range to cover, and its namespaces in key order."""

    covered: ResourceRange
    namespaces: tuple[NamespaceCount, ...]

    @property
    def objects(self) -> int:
        """The objects of all namespaces."""
        return sum(namespace.objects for namespace in self.namespaces)


async def take_census(store: Store, wanted: ResourceRange, namespace: str | None = None) -> ResourceCensus:
    """Count the objects of one resource by namespace; with `namespace`, cover only that one."""
    root = wanted.range.start
    covered = wanted
    if namespace is not None:
        covered = ResourceRange(wanted.resource, KeyRange.of_prefix(root + namespace.encode() + b"/"))
    counts = [count async for count in _namespaces(store, root, covered.range)]
    return ResourceCensus(covered, tuple(counts))


async def _namespaces(store: Store, root: bytes, keys: KeyRange) -> AsyncIterator[NamespaceCount]:
    """Count the keys of each namespace, and note where a batch may begin in a large one."""
    first, objects, cuts = b"", 0, list[bytes]()
    async with aclosing(read_keys(store, keys)) as looks:
        async for look in looks:
            for key in look:
                start = _start(root, key)
                if objects and not _belong_together(root, first, start):
                    yield NamespaceCount(_namespace(root, first), first, objects, tuple(cuts))
                    objects, cuts = 0, []
                if not objects:
                    first = start
                elif objects % BATCH_OBJECTS == 0:
                    cuts.append(key)
                objects += 1
    if objects:
        yield NamespaceCount(_namespace(root, first), first, objects, tuple(cuts))


def _start(root: bytes, key: bytes) -> bytes:
    """Return where a key's namespace begins; the key itself if it has none."""
    name, slash, _ = key[len(root) :].partition(b"/")
    return root + name + slash


def _belong_together(root: bytes, first: bytes, second: bytes) -> bool:
    """Whether two spans are of one namespace, or both of cluster scope."""
    return first == second or not any(b"/" in start[len(root) :] for start in (first, second))


def _namespace(root: bytes, start: bytes) -> str:
    name, slash, _ = start[len(root) :].partition(b"/")
    return key_text(name) if slash else ""
