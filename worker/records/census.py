"""How many objects of a resource each namespace holds, and at which keys a batch may begin, as a scan counts them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kube_rewrap.worker.etcd.ranges import KeyRange, key_text
from kube_rewrap.worker.etcd.store import Item

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
    """A resource, the range that was counted, and its namespaces in key order."""

    resource: str
    range: KeyRange
    namespaces: tuple[NamespaceCount, ...]


class Census:
    """Counts the objects of a range in key order. `root` is the path of their resource."""

    def __init__(self, root: bytes) -> None:
        self._root = root
        self._start = b""
        self._objects = 0
        self._cuts: list[bytes] = []
        self._ended: list[NamespaceCount] = []

    def add(self, items: Iterable[Item]) -> None:
        """Count the next objects."""
        for item in items:
            if not self._objects or not self._is_beside(item.key):
                self._end()
                name, slash, _ = item.key[len(self._root) :].partition(b"/")
                self._start = self._root + name + slash
            elif self._objects % BATCH_OBJECTS == 0:
                self._cuts.append(item.key)
            self._objects += 1

    def namespaces(self) -> tuple[NamespaceCount, ...]:
        """Return the counts of the objects so far."""
        self._end()
        return tuple(self._ended)

    def _is_beside(self, key: bytes) -> bool:
        """Whether a key is of the namespace of the one before it, or both are of cluster scope."""
        if self._start.endswith(b"/") and self._start != self._root:
            return key.startswith(self._start)
        return b"/" not in key[len(self._root) :]

    def _end(self) -> None:
        if self._objects:
            name = self._start[len(self._root) :]
            namespace = key_text(name[:-1]) if name.endswith(b"/") else ""
            self._ended.append(NamespaceCount(namespace, self._start, self._objects, tuple(self._cuts)))
        self._objects, self._cuts = 0, []
