"""A proof scan in parts: each part counts some ranges at one revision; together they are an inventory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from worker.model.fields import MOST_BATCHES, Fields, count_of, members_of, text_of
from worker.model.inventory import Inventory, KeyTally, ResourceRange, ResourceTally, Unreadable, merged
from worker.model.keys import KeyRange, key_bytes, key_text
from worker.model.verdict import KeyRef, Reason

_LISTED = 100
"""Unreadable objects that a part names: its record must stay far below what etcd takes."""


@dataclass(frozen=True, slots=True)
class ProofPart:
    """What one worker scans in one go, and (`found`) what it saw. `compacted`: the revision was gone by then."""

    campaign: str
    number: int
    revision: int
    generation: str
    ranges: tuple[ResourceRange, ...]
    found: Inventory | None = None
    compacted: bool = False

    @property
    def is_done(self) -> bool:
        """Whether there is nothing more to scan."""
        return self.found is not None or self.compacted

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {
            "campaign": self.campaign,
            "number": self.number,
            "revision": self.revision,
            "generation": self.generation,
            "ranges": [[one.resource, *one.range.to_json()] for one in self.ranges],
            "found": [_tally_json(tally) for tally in self.found.resources] if self.found is not None else None,
            "compacted": self.compacted,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> ProofPart:
        """Read the JSON form. Raises ValueError where it is not one."""
        fields = Fields.of(value)
        revision = fields.count("revision")
        found = Inventory(revision, fields.each("found", _tally)) if fields.has("found") else None
        return cls(
            fields.name("campaign"),
            fields.count("number", most=MOST_BATCHES),
            revision,
            fields.text("generation"),
            fields.each("ranges", _range),
            found,
            fields.flag("compacted"),
        )


def whole(parts: Iterable[ProofPart], unknown: tuple[str, ...]) -> Inventory:
    """Add up parts of one revision that are all done."""
    done = list(parts)
    tallies = [tally for part in done if part.found is not None for tally in part.found.resources]
    return Inventory(max((part.revision for part in done), default=0), merged(tallies), unknown)


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
    )


def _key_tally(value: object) -> tuple[KeyRef, KeyTally]:
    key, *counts = members_of(value, "the count of a key", 4)
    return KeyRef.from_json(key), KeyTally(*(count_of(one, "the count of a key") for one in counts))


def _claim(value: object) -> tuple[KeyRef, int]:
    key, count = members_of(value, "the count of a key's prefix", 2)
    return KeyRef.from_json(key), count_of(count, "the count of a key's prefix")


def _unreadable(value: object) -> Unreadable:
    key, reason, detail = (text_of(one, "an unreadable object") for one in members_of(value, "one", 3))
    return Unreadable(key_bytes(key), Reason(reason), detail)
