"""Plans batches from the counts of objects by namespace. Pure.

Batches tile the scope: each begins where the one before it ends, so that an object created between planning and
reading falls into one of them. Namespaces are kept whole where they fit, small neighbours share a batch, and a big
namespace is cut at keys that the census found in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.records.batch import BatchSpec
from kube_rewrap.worker.records.census import BATCH_OBJECTS, NamespaceCount, ResourceCensus

BATCH_NAMESPACES = 100
"""Most namespaces in a batch, so that its record stays small."""


def plan_batches(campaign: str, generation: str, census: Iterable[ResourceCensus]) -> list[BatchSpec]:
    """Return the batches of a campaign in the order in which they are worked on."""
    batches: list[BatchSpec] = []
    for covered in census:
        # A resource without objects has a batch, too: a sweep must find objects that are written later.
        pieces = list(_pieces(covered.namespaces)) or [[]]
        starts = [covered.range.start, *(piece[0].start for piece in pieces[1:])]
        ends = [*starts[1:], covered.range.end]
        for start, end, piece in zip(starts, ends, pieces, strict=True):
            counts = tuple((part.namespace, part.objects) for part in piece)
            batches.append(
                BatchSpec(
                    campaign=campaign,
                    number=len(batches),
                    resource=covered.resource,
                    range=KeyRange(start, end),
                    generation=generation,
                    namespaces=counts,
                )
            )
    return batches


def _pieces(namespaces: Sequence[NamespaceCount]) -> Iterator[list[NamespaceCount]]:
    """Group small neighbouring namespaces, and cut big ones."""
    group: list[NamespaceCount] = []
    for namespace in namespaces:
        parts = _parts(namespace)
        grouped = sum(part.objects for part in group) + namespace.objects
        if group and (len(parts) > 1 or grouped > BATCH_OBJECTS or len(group) >= BATCH_NAMESPACES):
            yield group
            group = []
        if len(parts) > 1:
            yield from ([part] for part in parts)
        else:
            group.append(namespace)
    if group:
        yield group


def _parts(namespace: NamespaceCount) -> list[NamespaceCount]:
    """Cut a namespace at its cuts, every part with its share of the objects."""
    if not namespace.cuts:
        return [namespace]
    starts = (namespace.start, *namespace.cuts)
    last = namespace.objects - BATCH_OBJECTS * len(namespace.cuts)
    sizes = [BATCH_OBJECTS] * len(namespace.cuts) + [max(0, last)]
    return [replace(namespace, start=start, objects=size, cuts=()) for start, size in zip(starts, sizes, strict=True)]
