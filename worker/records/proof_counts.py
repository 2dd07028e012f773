"""What the scan of a proof counted, as the records of campaigns and rotations keep it after the scan's parts are gone.

The size depends on keys and resources, not on objects, and is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated

from kube_rewrap.worker.records.form import Count, Form, Most, Row, Text
from kube_rewrap.worker.records.inventory import Inventory, KeyState
from kube_rewrap.worker.verdict import KeyRef

MOST_KEYS = 200
"""Counts by key that a record keeps; each has some hundred bytes, and an operator's list reads every campaign."""


@dataclass(frozen=True, slots=True)
class KeyCount(Row):
    """The objects of a resource under one key."""

    resource: Text
    key: KeyRef
    state: KeyState
    objects: Count


@dataclass(frozen=True, slots=True)
class ProofCounts(Form):
    """The counts of one scan. `stale` includes objects of which it is undetermined, as Inventory.stale does.

    `keys` are the first `MOST_KEYS` counts by resource and key; `total` is the number of all.
    """

    objects: Count
    stale: Count
    unreadable: Count
    total: Count
    keys: Annotated[tuple[KeyCount, ...], Most(MOST_KEYS)]

    @classmethod
    def of(cls, found: Inventory) -> ProofCounts:
        """Return the counts of a scan."""
        rows = tuple(key_counts(found))
        return cls(found.objects, found.stale, found.unreadable, len(rows), rows[:MOST_KEYS])


def key_counts(found: Inventory) -> Iterator[KeyCount]:
    """Yield the counts of a scan by resource and key."""
    for tally in found.resources:
        for key, under in sorted(tally.keys.items()):
            yield KeyCount(tally.resource, key, tally.state_of(key), under.objects)
