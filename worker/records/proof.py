"""A proof scan in parts. Each part counts some ranges, all at one revision; together they make an inventory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kube_rewrap.worker.etcd.ranges import KeyRange, key_bytes, key_text
from kube_rewrap.worker.fields import MOST_BATCHES, Fields, count_of, members_of, text_of
from kube_rewrap.worker.records.inventory import Inventory, KeyTally, ResourceRange, ResourceTally, Unreadable, merged
from kube_rewrap.worker.verdict import KeyRef, Reason, recorded_reason

PART_OBJECTS = 10_000
"""Target size of a part in objects: about a second's work."""

_LISTED = 100
"""Unreadable objects that a part lists: its record must stay far below etcd's request limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ProofPart:
    """The ranges that one worker scans, and once they are scanned (`found`) its counts.

    `of` is the number of parts of the proof. `partial` holds the counts of the keys below `cursor`, where the next
    worker continues. `compacted`: etcd compacted the revision before the part was done; the whole proof begins again.
    `because`: the last failure of a KMS plugin since the cursor moved, "" = none.
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
    because: str = ""

    @property
    def is_done(self) -> bool:
        """Whether the part needs no further scan."""
        return self.found is not None or self.compacted

    @property
    def rest(self) -> tuple[ResourceRange, ...]:
        """The ranges, or parts of ranges, from the cursor on. `ranges` are in key order."""
        ranges = (ResourceRange(one.resource, one.range.since(self.cursor)) for one in self.ranges)
        return tuple(one for one in ranges if not one.range.is_empty)

    def advanced(self, counted: Inventory, cursor: bytes | None) -> ProofPart:
        """Return the part with one more slice counted; the next slice begins at `cursor`, None = all is counted."""
        total = added([*([self.partial] if self.partial else []), counted], self.revision)
        if cursor is None:
            return replace(self, found=total, partial=None, cursor=b"", because="")
        return replace(self, partial=total, cursor=cursor, because="")

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
            "because": self.because,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> ProofPart:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        revision = fields.count("revision")
        found, partial = (
            Inventory(revision, fields.each(field, _tally)) if fields.has(field) else None
            for field in ("found", "partial")
        )
        return cls(
            campaign=fields.name("campaign"),
            number=fields.count("number", most=MOST_BATCHES),
            revision=revision,
            generation=fields.text("generation"),
            ranges=fields.each("ranges", _range),
            found=found,
            compacted=fields.flag("compacted"),
            # Absent in the records of earlier versions. 0 is no number of parts, so such a proof begins again.
            of=fields.count("of", most=MOST_BATCHES) if fields.has("of") else 0,
            cursor=fields.key("cursor") if fields.has("cursor") else b"",
            partial=partial,
            because=fields.text("because") if fields.has("because") else "",  # absent in older records
        )


def whole(parts: Iterable[ProofPart], unknown: tuple[str, ...], apart: frozenset[str] = frozenset()) -> Inventory:
    """Return the inventory of parts of one revision that are all done; `unknown` as in Inventory.

    `apart` as in ResourceTally, of all resources.
    """
    done = list(parts)
    found = [part.found for part in done if part.found is not None]
    return replace(added(found, max((part.revision for part in done), default=0), apart), unknown=unknown)


def added(inventories: Iterable[Inventory], revision: int, apart: frozenset[str] = frozenset()) -> Inventory:
    """Return the sum of inventories of one revision; `apart` as in `whole`."""
    tallies = (replace(tally, apart=tally.apart | apart) for one in inventories for tally in one.resources)
    return Inventory(revision, merged(tallies))


def is_whole(parts: Sequence[ProofPart]) -> bool:
    """Whether `parts`, in order, are all parts of a proof as planned."""
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
        "outdated": [tally.outdated, tally.outdated_bytes],
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
        dict(fields.each("reasons", _counted)) if fields.has("reasons") else {},  # absent in older records
        *(fields.one("outdated", _outdated) if fields.has("outdated") else (0, 0)),  # absent in older records
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


def _outdated(value: object) -> tuple[int, int]:
    objects, size = members_of(value, "the count of outdated objects", 2)
    return count_of(objects, "outdated objects"), count_of(size, "bytes of outdated objects")


def _unreadable(value: object) -> Unreadable:
    key, reason, detail = (text_of(one, "an unreadable object") for one in members_of(value, "one", 3))
    return Unreadable(key_bytes(key), *recorded_reason(reason, detail))
