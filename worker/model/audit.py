"""The audit log: entries that each hold the hash of the one before. Pure.

Who changes, inserts or removes an entry has to make every later hash anew. Who can write to etcd can do
that; so the hashes stand in the log lines too, and those are kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

Scalar = str | int | float | bool | None

BEGINNING = "0" * 64
"""What stands for the hash before the first entry."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry. `number` counts from 1, `at` is ISO 8601 in UTC, `hash` covers everything else."""

    number: int
    at: str
    event: str
    campaign: str
    actor: str
    detail: Mapping[str, Scalar]
    previous: str
    hash: str = ""

    def sealed(self) -> Entry:
        """Return the entry with its hash."""
        return replace(self, hash=self.computed())

    def computed(self) -> str:
        """Return the SHA-256 over a canonical encoding of all but the hash."""
        fields = {name: value for name, value in self.to_json().items() if name != "hash"}
        encoded = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(encoded.encode()).hexdigest()

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "number": self.number,
            "at": self.at,
            "event": self.event,
            "campaign": self.campaign,
            "actor": self.actor,
            "detail": dict(self.detail),
            "previous": self.previous,
            "hash": self.hash,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Entry:
        """Read the JSON form. Raises ValueError where it is not one."""
        match value:
            case {
                "number": int(number),
                "at": str(at),
                "event": str(event),
                "campaign": str(campaign),
                "actor": str(actor),
                "detail": dict(detail),
                "previous": str(previous),
                "hash": str(digest),
            } if all(one is None or isinstance(one, str | int | float) for one in detail.values()):
                return cls(number, at, event, campaign, actor, detail, previous, digest)
        raise ValueError("not an entry of the audit log")


@dataclass(frozen=True, slots=True)
class Head:
    """The newest entry, and the oldest that is kept. Number 0: the log is empty."""

    number: int = 0
    hash: str = BEGINNING
    oldest: int = 1

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"number": self.number, "hash": self.hash, "oldest": self.oldest}

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Head:
        """Read the JSON form. Raises ValueError where it is not one."""
        match value:
            case {"number": int(number), "hash": str(digest), "oldest": int(oldest)}:
                return cls(number, digest, oldest)
        raise ValueError("not the head of the audit log")


def find_faults(entries: Iterable[Entry], head: Head) -> list[str]:
    """Return every fault of a log in a sentence, none = it is whole.

    What the oldest kept entry says of the one before can be checked only while that is the first of all.
    """
    faults: list[str] = []
    expected, previous = head.oldest, BEGINNING if head.oldest == 1 else None
    for entry in entries:
        if entry.number != expected:
            faults.append(f"entry {expected} is missing: entry {entry.number} follows instead")
        if entry.computed() != entry.hash:
            faults.append(f"entry {entry.number} was changed: its hash does not fit")
        if previous is not None and entry.previous != previous:
            faults.append(f"entry {entry.number} does not follow the entry before it")
        expected, previous = entry.number + 1, entry.hash
    if expected != head.number + 1:
        faults.append(f"the log ends at entry {expected - 1}, and its head names {head.number}")
    elif head.number and previous != head.hash:
        faults.append(f"the head does not fit entry {head.number}")
    return faults
