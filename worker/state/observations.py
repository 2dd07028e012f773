"""What the watch saw anyone write: counts by key, and how far the watch has come, in one record.

One record, one write: counts and revisions move together, so that every write is counted once whatever
happens between two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.etcd.store import Expect, Store
from worker.model.fields import count_of, text_of
from worker.state import record
from worker.state.codec import damaged
from worker.state.keyspace import Keyspace


@dataclass(frozen=True, slots=True)
class Observations:
    """Writes by the fingerprint of their key, and the next revision to be seen by the start of each range.

    A range that is not among them held nothing, or was not governed, at the revision `surveyed`; 0 = nobody
    looked yet. `last` holds the revision of the last write by fingerprint, `since` the time (seconds since 1970)
    from which on writes under a key were counted.
    """

    counts: Mapping[str, int] = field(default_factory=dict)
    following: Mapping[str, int] = field(default_factory=dict)
    surveyed: int = 0
    last: Mapping[str, int] = field(default_factory=dict)
    since: Mapping[str, int] = field(default_factory=dict)
    revision: int = 0
    """The record's own mod_revision, 0 before it was written."""


async def load(store: Store, keyspace: Keyspace) -> Observations:
    """Return what is on record; nothing yet where no observer ever ran. Raises RecordError for a damaged record."""
    found = await record.read(store, keyspace.observer)
    if found is None:
        return Observations()
    match found[0]:
        case {"counts": dict(counts), "following": dict(following)}:
            return Observations(
                _numbers(keyspace.observer, counts),
                _numbers(keyspace.observer, following),
                _number(keyspace.observer, found[0].get("surveyed")),
                _numbers(keyspace.observer, _mapping(found[0].get("last"))),
                _numbers(keyspace.observer, _mapping(found[0].get("since"))),
                found[1],
            )
    raise damaged(keyspace.observer, ValueError("not a record of observations"))


async def save(store: Store, keyspace: Keyspace, seen: Observations, guards: Sequence[Expect]) -> int:
    """Write over the version that was read; returns the new mod_revision. Raises FencedError."""
    fields = {
        "counts": dict(seen.counts),
        "following": dict(seen.following),
        "surveyed": seen.surveyed,
        "last": dict(seen.last),
        "since": dict(seen.since),
    }
    return await record.write(store, keyspace.observer, fields, seen.revision, guards=guards)


def _number(key: bytes, value: object) -> int:
    return _numbers(key, {"surveyed": 0 if value is None else value})["surveyed"]


def _mapping(value: object) -> Mapping[object, object]:
    return value if isinstance(value, Mapping) else {}


def _numbers(key: bytes, value: Mapping[object, object]) -> dict[str, int]:
    try:
        return {text_of(name, "a name"): count_of(number, "a count") for name, number in value.items()}
    except ValueError as error:
        raise damaged(key, error) from None
