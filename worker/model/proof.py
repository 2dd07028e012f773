"""A proof scan in parts: each part counts some ranges at one revision; together they are an inventory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

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
        match value:
            case {
                "campaign": str(campaign),
                "number": int(number),
                "revision": int(revision),
                "generation": str(generation),
                "ranges": list(ranges),
                "found": None | list() as found,
                "compacted": bool(compacted),
            }:
                places = tuple(_range(one) for one in ranges)
                inventory = None if found is None else Inventory(revision, tuple(map(_tally, found)))
                return cls(campaign, number, revision, generation, places, inventory, compacted)
        raise ValueError("not a part of a proof")


def whole(parts: Iterable[ProofPart], unknown: tuple[str, ...]) -> Inventory:
    """Add up parts of one revision that are all done."""
    done = list(parts)
    tallies = [tally for part in done if part.found is not None for tally in part.found.resources]
    return Inventory(max((part.revision for part in done), default=0), merged(tallies), unknown)


def _range(value: object) -> ResourceRange:
    match value:
        case [str(resource), str(start), str(end)]:
            return ResourceRange(resource, KeyRange(key_bytes(start), key_bytes(end)))
    raise ValueError("a range of a proof is a resource, a start and an end")


def _tally_json(tally: ResourceTally) -> dict[str, object]:
    return {
        "resource": tally.resource,
        "primary": _key_json(tally.primary),
        "configured": [_key_json(key) for key in tally.configured],
        "keys": [[_key_json(key), one.objects, one.bytes, one.versions] for key, one in tally.keys.items()],
        "claimed": [[_key_json(key), count] for key, count in tally.claimed.items()],
        "unreadable": tally.unreadable,
        "reasons": [[reason.value, count] for reason, count in tally.reasons.items()],
        "listed": [[key_text(one.key), one.reason.value, one.detail] for one in tally.listed[:_LISTED]],
    }


def _tally(value: object) -> ResourceTally:
    match value:
        case {
            "resource": str(resource),
            "primary": primary,
            "configured": list(configured),
            "keys": list(keys),
            "claimed": list(claimed),
            "unreadable": int(unreadable),
            "listed": list(listed),
            **rest,
        }:
            return ResourceTally(
                resource,
                _key(primary),
                tuple(map(_key, configured)),
                dict(map(_key_tally, keys)),
                dict(map(_claim, claimed)),
                unreadable,
                named := list(map(_unreadable, listed)),
                _reasons(rest.get("reasons"), named),
            )
    raise ValueError("not a count of a resource")


def _key_tally(value: object) -> tuple[KeyRef, KeyTally]:
    match value:
        case [key, int(objects), int(size), int(versions)]:
            return _key(key), KeyTally(objects, size, versions)
    raise ValueError("not a count of a key")


def _claim(value: object) -> tuple[KeyRef, int]:
    match value:
        case [key, int(count)]:
            return _key(key), count
    raise ValueError("not a count of what carries a key's prefix")


def _unreadable(value: object) -> Unreadable:
    match value:
        case [str(key), str(reason), str(detail)]:
            return Unreadable(key_bytes(key), Reason(reason), detail)
    raise ValueError("not an unreadable object")


def _reasons(value: object, listed: Iterable[Unreadable]) -> dict[Reason, int]:
    """Read the counts by reason; of a worker that does not count them yet, what it lists is all that is known."""
    if value is None:
        return dict(Counter(one.reason for one in listed))
    if isinstance(value, list):
        return dict(map(_reason, value))
    raise ValueError("the reasons of a count are a list")


def _reason(value: object) -> tuple[Reason, int]:
    match value:
        case [str(reason), int(count)]:
            return Reason(reason), count
    raise ValueError("not a count of a reason")


def _key_json(key: KeyRef) -> list[str]:
    return [key.provider, key.name, key.fingerprint]


def _key(value: object) -> KeyRef:
    match value:
        case [str(provider), str(name), str(fingerprint)]:
            return KeyRef(provider, name, fingerprint)
    raise ValueError("a key is a provider, a name and a fingerprint")
