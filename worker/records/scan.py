"""The last scan of everything, as a record: its counts, and the configuration that they belong to.

A new leader reads what the last one wrote. The record is hostile input: a value out of bounds makes it damaged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kube_rewrap.worker.fields import Fields, count_of, members_of, text_of
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.verdict import Reason, reason_of

_LISTED = 1_000
"""Counts of unreadable objects that a record keeps; with as many it stays far below etcd's request limit."""

_LONGEST_NAME = 400


@dataclass(frozen=True, slots=True)
class UnreadableCount:
    """How many objects of a resource are unreadable for one reason."""

    resource: str
    reason: Reason
    objects: int


@dataclass(frozen=True, slots=True)
class Scan:
    """The counts of a scan of everything under one generation. Times are in seconds since 1970.

    `is_clean`: every object was readable and under its primary key, and every path belonged to a known resource.
    `proven_at` is the time of the last clean scan under this generation, 0 = there was none.
    """

    generation: str
    revision: int
    at: float
    objects: int
    stale: int
    is_clean: bool
    proven_at: float = 0.0
    unreadable: tuple[UnreadableCount, ...] = ()

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
            generation,
            found.revision,
            at,
            found.objects,
            found.stale,
            found.is_clean,
            at if found.is_clean else proven,
            tuple(sorted(counts, key=lambda one: -one.objects)[:_LISTED]),
        )

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {
            "generation": self.generation,
            "revision": self.revision,
            "at": self.at,
            "objects": self.objects,
            "stale": self.stale,
            "is_clean": self.is_clean,
            "proven_at": self.proven_at,
            "unreadable": [[one.resource, one.reason.value, one.objects] for one in self.unreadable],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Scan:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        return cls(
            fields.text("generation", _LONGEST_NAME),
            fields.count("revision"),
            fields.number("at"),
            fields.count("objects"),
            fields.count("stale"),
            fields.flag("is_clean"),
            fields.number("proven_at"),
            fields.each("unreadable", _unreadable, _LISTED),
        )


def _unreadable(value: object) -> UnreadableCount:
    resource, reason, objects = members_of(value, "the count of a reason", 3)
    name = text_of(resource, "a resource", _LONGEST_NAME)
    if not name.isprintable():  # the metrics use it as a label
        raise ValueError("a resource is no name")
    return UnreadableCount(name, reason_of(text_of(reason, "a reason")), count_of(objects, "the count of a reason"))
