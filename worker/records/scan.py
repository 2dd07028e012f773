"""The last scan of everything, as a record: its counts, and the configuration that they belong to.

A new leader reads the record of the last leader. It is hostile input: a value out of bounds makes it damaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from kube_rewrap.worker.fields import text_of
from kube_rewrap.worker.records.form import Count, Form, Most, Row, Time, within
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.verdict import Reason

_LISTED = 1_000
"""Counts of unreadable objects that a record keeps; with as many it stays far below etcd's request limit."""

_LONGEST_NAME = 400


def _label(value: object, what: str) -> str:
    name = text_of(value, what, _LONGEST_NAME)
    if not name.isprintable():  # the metrics use it as a label
        raise ValueError(f"{what} is no name")
    return name


@dataclass(frozen=True, slots=True)
class UnreadableCount(Row):
    """How many objects of a resource are unreadable for one reason."""

    resource: Annotated[str, _label]
    reason: Reason
    objects: Count


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan(Form):
    """The counts of a scan of everything under one generation. Times are in seconds since 1970.

    `is_clean`: every object was readable and under its primary key, and every path belonged to a known resource.
    `proven_at` is the time of the last clean scan under this generation, 0 = there was none.
    """

    generation: Annotated[str, within(most=_LONGEST_NAME)]
    revision: Count
    at: Time
    objects: Count
    stale: Count
    is_clean: bool
    proven_at: Time = 0.0
    unreadable: Annotated[tuple[UnreadableCount, ...], Most(_LISTED)] = ()

    @classmethod
    def of(cls, found: Inventory, generation: str, at: float, before: Scan | None) -> Scan:
        """Return the record of an inventory of everything; `before` is the previous record, for its `proven_at`."""
        proven = before.proven_at if before is not None and before.generation == generation else 0.0
        counts = tuple(
            UnreadableCount(tally.resource, reason, tally.reasons[reason])
            for tally in found.resources
            for reason in sorted(tally.reasons)
        )
        return cls(
            generation=generation,
            revision=found.revision,
            at=at,
            objects=found.objects,
            stale=found.stale,
            is_clean=found.is_clean,
            proven_at=at if found.is_clean else proven,
            unreadable=tuple(sorted(counts, key=lambda one: -one.objects)[:_LISTED]),
        )
