"""A proof scan in parts: each part counts some ranges at one revision; together they are an inventory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kube_rewrap.worker.etcd.ranges import KeyRange, key_bytes, key_text
from kube_rewrap.worker.fields import MOST_BATCHES, Fields, count_of, members_of, text_of
from kube_rewrap.worker.records.inventory import Inventory, KeyTally, ResourceRange, ResourceTally, Unreadable, merged
from kube_rewrap.worker.verdict import KeyRef, Reason, recorded_reason

_LISTED = 100
"""Unreadable objects that a part names: its record must stay far below what etcd takes."""


@dataclass(frozen=True, slots=True)
class ProofPart:
    """What one worker scans, and (`found`) what it saw.

    `of` is how many parts the proof has. `partial` is what was counted of the keys below `cursor`, where whoever
    takes the part up next goes on. `compacted`: it can't be finished, for the revision is gone; all begin again.
    """

    campaign: str
    number: int
    revision: int
    generation: str
    ranges: tuple[ResourceRange, ...]
    found: Inventory | None = None
    compacted: bool = False
    of: int = 0
    cursor: bytes = b""
    partial: Inventory | None = None

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to scan."""
        return self.found is not None or self.compacted

    @property
    def rest(self) -> tuple[ResourceRange, ...]:
        """What is still to be scanned. Ranges lie in the order of their keys."""
        ranges = (ResourceRange(one.resource, one.range.since(self.cursor)) for one in self.ranges)
        return tuple(one for one in ranges if not one.range.is_empty)

    def advanced(self, counted: Inventory, cursor: bytes | None) -> ProofPart:
        """Return the part after one more slice of time; no cursor: it is at its end."""
        total = added([*([self.partial] if self.partial else []), counted], self.revision)
        if cursor is None:
            return replace(self, found=total, partial=None, cursor=b"")
        return replace(self, partial=total, cursor=cursor)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {
            "campaign": self.campaign,
            "number": self.number,
            "revision": self.revision,
            "generation": self.generation,
            "ranges": [[one.resource, *one.range.to_json()] for one in self.ranges],
            "found": _inventory_json(self.found),
            "compacted": self.compacted,
            "of": self.of,
            "cursor": key_text(self.cursor),
            "partial": _inventory_json(self.partial),
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> ProofPart:
        """Read the JSON form. Raises ValueError where it is not one."""
        fields = Fields.of(value)
        revision = fields.count("revision")
        found, partial = (
            Inventory(revision, fields.each(field, _tally)) if fields.has(field) else None
            for field in ("found", "partial")
        )
        return cls(
            fields.name("campaign"),
            fields.count("number", most=MOST_BATCHES),
            revision,
            fields.text("generation"),
            fields.each("ranges", _range),
            found,
            fields.flag("compacted"),
            # Absent in the records of an earlier version, whose proofs begin again: no proof has 0 parts.
            fields.count("of", most=MOST_BATCHES) if fields.has("of") else 0,
            fields.key("cursor") if fields.has("cursor") else b"",
            partial,
        )


def whole(parts: Iterable[ProofPart], unknown: tuple[str, ...]) -> Inventory:
    """Add up parts of one revision that are all done."""
    done = list(parts)
    found = [part.found for part in done if part.found is not None]
    return replace(added(found, max((part.revision for part in done), default=0)), unknown=unknown)


def added(inventories: Iterable[Inventory], revision: int) -> Inventory:
    """Add up what was found at one revision."""
    return Inventory(revision, merged(tally for one in inventories for tally in one.resources))


def is_whole(parts: Sequence[ProofPart]) -> bool:
    """Whether parts, in their order, are all that a proof was planned with."""
    return bool(parts) and all((part.number, part.of) == (place, len(parts)) for place, part in enumerate(parts))


def _inventory_json(found: Inventory | None) -> list[dict[str, object]] | None:
    return None if found is None else [_tally_json(tally) for tally in found.resources]


def _range(value: object) -> ResourceRange:
    resource, *keys = members_of(value, "a range of a proof", 3)
    return ResourceRange(text_of(resource, "a range of a proof"), KeyRange.from_json(keys))


def _tally_json(tally: ResourceTally) -> dict[str, object]:
    return {
        "resource": tally.resource,
        "primary": tally.primary.to_json(),
        "configured": [key.to_json() for key in tally.configured],
        "keys": [[key.to_json(), one.objects, one.bytes, one.versions] for key, one in tally.keys.items()],
        "claimed": [[key.to_json(), count] for key, count in tally.claimed.items()],
        "unreadable": tally.unreadable,
        "listed": [[key_text(one.key), one.reason.value, one.detail] for one in tally.listed[:_LISTED]],
        "reasons": [[reason.value, count] for reason, count in tally.reasons.items()],
    }


def _tally(value: object) -> ResourceTally:
    fields = Fields.of(value)
    return ResourceTally(
        fields.text("resource"),
        fields.one("primary", KeyRef.from_json),
        fields.each("configured", KeyRef.from_json),
        dict(fields.each("keys", _key_tally)),
        dict(fields.each("claimed", _claim)),
        fields.count("unreadable"),
        list(fields.each("listed", _unreadable)),
        dict(fields.each("reasons", _counted)) if fields.has("reasons") else {},  # a record of before has none
    )


def _key_tally(value: object) -> tuple[KeyRef, KeyTally]:
    key, *counts = members_of(value, "the count of a key", 4)
    return KeyRef.from_json(key), KeyTally(*(count_of(one, "the count of a key") for one in counts))


def _claim(value: object) -> tuple[KeyRef, int]:
    key, count = members_of(value, "the count of a key's prefix", 2)
    return KeyRef.from_json(key), count_of(count, "the count of a key's prefix")


def _counted(value: object) -> tuple[Reason, int]:
    reason, count = members_of(value, "the count of a reason", 2)
    return Reason(text_of(reason, "a reason")), count_of(count, "the count of a reason")


def _unreadable(value: object) -> Unreadable:
    key, reason, detail = (text_of(one, "an unreadable object") for one in members_of(value, "one", 3))
    return Unreadable(key_bytes(key), *recorded_reason(reason, detail))
