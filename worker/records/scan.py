"""The last scan of everything, as a record: what its figures are, and which configuration they belong to.

It outlives the leader that made it. It is read as hostile input: a value out of its bounds makes it no record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kube_rewrap.worker.fields import Fields, count_of, members_of, text_of
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.verdict import Reason

_LISTED = 1_000
"""Counts of unreadable objects that are kept; a record with as many is far below what etcd takes."""

_LONGEST_NAME = 400


@dataclass(frozen=True, slots=True)
class UnreadableCount:
    """How many objects of a resource can't be read, for one reason."""

    resource: str
    reason: Reason
    objects: int


@dataclass(frozen=True, slots=True)
class Scan:
    """What a scan of everything found under one generation. Times are in seconds since 1970.

    `is_clean`: all was readable and under its primary key, and nothing was left out. `proven_at` is when a
    scan under this generation was last clean, 0 = never.
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
        """Return the record of an inventory of everything; `before` is the one that it follows."""
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
        """Read the JSON form. Raises ValueError where it is not one."""
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
    if not name.isprintable():  # it becomes a label
        raise ValueError("a resource is no name")
    return UnreadableCount(name, Reason(text_of(reason, "a reason")), count_of(objects, "the count of a reason"))
