"""How many objects of a resource each namespace holds, and at which keys a batch may begin. Pure."""

from __future__ import annotations

from dataclasses import dataclass

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
