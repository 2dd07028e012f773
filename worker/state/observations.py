"""What the watch saw anyone write: counts by key, and up to which revision they are complete, in one record.

One record, one write: counts and revisions move together, so that every write is counted once whatever
happens between two of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from config.resources import ANY
from worker.etcd.store import Expect, Store
from worker.model.observed import ANY_KEY, Followed, Observations
from worker.state import record
from worker.state.codec import damaged
from worker.state.keyspace import Keyspace


async def load(store: Store, keyspace: Keyspace) -> Observations:
    """Return what is on record; nothing yet where no observer ever ran. Raises RecordError for a damaged record."""
    found = await record.read(store, keyspace.observer)
    if found is None:
        return Observations()
    try:
        return _observations(*found)
    except ValueError as error:
        raise damaged(keyspace.observer, error) from None


async def save(store: Store, keyspace: Keyspace, seen: Observations, guards: Sequence[Expect]) -> int:
    """Write over the version that was read; returns the new mod_revision. Raises FencedError."""
    fields = {
        "counts": dict(seen.counts),
        "followed": [{name: [one.places[name], *keys] for name, keys in one.chains.items()} for one in seen.followed],
        "last": dict(seen.last),
        "since": dict(seen.since),
    }
    return await record.write(store, keyspace.observer, fields, seen.revision, guards=guards)


def _observations(fields: Mapping[str, object], revision: int) -> Observations:
    match fields:
        case {"counts": dict(counts), "followed": list(followed)}:
            tables = tuple(_followed(one) for one in followed)
        case {"counts": dict(counts), "following": dict(following)}:
            # Each range had a place of its own, for every key that its chain held. What lies before the last of
            # them is seen again: that counts some writes twice, and none never.
            places = [*_numbers(following).values(), _number(fields.get("surveyed")) + 1]
            tables = (Followed({str(ANY): min(places)}, {str(ANY): (ANY_KEY,)}),)
        case _:
            raise ValueError("not a record of observations")
    return Observations(_numbers(counts), tables, _numbers(fields.get("last")), _numbers(fields.get("since")), revision)


def _followed(value: object) -> Followed:
    places: dict[str, int] = {}
    chains: dict[str, tuple[str, ...]] = {}
    for name, one in (value if isinstance(value, dict) else {"": None}).items():
        match one:
            case [int(place), *keys] if place >= 0:
                places[str(name)], chains[str(name)] = place, tuple(map(str, keys))
            case _:
                raise ValueError("it does not say what was followed")
    return Followed(places, chains)


def _number(value: object) -> int:
    return value if isinstance(value, int) else 0


def _numbers(value: object) -> dict[str, int]:
    found = value if isinstance(value, Mapping) else {}
    if not all(isinstance(number, int) for number in found.values()):
        raise ValueError("a count is not a number")
    return {str(name): number for name, number in found.items()}
