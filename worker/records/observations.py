"""The record of the watch: writes by any process, counted by key, and up to which revisions the counts are complete.

Counts and revisions are in one record, which changes in one write: after a crash the watch counts no PUT twice, and
leaves none out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kube_rewrap.config.encryption.resources import Layout, Located
from kube_rewrap.worker.etcd.ranges import key_bytes
from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.fields import Fields, count_of, list_of, mapping_of, text_of
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.observed import ANY_KEY, Followed, Observations


async def load(store: Store, keyspace: Keyspace) -> Observations:
    """Return the record; empty observations if no observer ever ran. Raises RecordError for a damaged record."""
    found = await record.read(store, keyspace.observer)
    if found is None:
        return Observations()
    try:
        return _observations(*found)
    except ValueError as error:
        raise damaged(keyspace.observer, error) from None


async def save(store: Store, keyspace: Keyspace, seen: Observations, guards: Sequence[Expect]) -> int:
    """Write the record if it is still the version `seen.revision`; returns the new mod_revision. Raises FencedError."""
    fields = {
        "counts": dict(seen.counts),
        "followed": [{name: [one.places[name], *keys] for name, keys in one.chains.items()} for one in seen.followed],
        "last": dict(seen.last),
        "since": dict(seen.since),
        "replaced": list(seen.replaced),
    }
    return await record.write(store, keyspace.observer, fields, seen.revision, guards=guards)


def _observations(given: Mapping[str, object], revision: int) -> Observations:
    fields = Fields.of(given)
    if fields.has("followed"):
        tables = fields.each("followed", _followed)
    else:
        tables = (_followed_by_path(fields.counts("following")),)
    last, since = (fields.counts(name) if fields.has(name) else {} for name in ("last", "since"))
    replaced = fields.each("replaced", _revision) if fields.has("replaced") else ()
    return Observations(
        counts=fields.counts("counts"), followed=tables, last=last, since=since, revision=revision, replaced=replaced
    )


def _followed_by_path(following: Mapping[str, int]) -> Followed:
    """Read the form of an earlier version: a place by the path of each range, for every key in its chain.

    A resource without a range counts as not followed; so does one at a path that the usual registry layout assigns to
    no single resource. The scheduler scans both again.
    """
    layout = Layout()
    found = {path: layout.resource_at(key_bytes(path) + b"name") for path in following}
    places = {str(one.resource): following[path] for path, one in found.items() if isinstance(one, Located)}
    return Followed(places, dict.fromkeys(places, (ANY_KEY,)))


def _revision(value: object) -> int:
    return count_of(value, "a revision")


def _followed(value: object) -> Followed:
    places: dict[str, int] = {}
    chains: dict[str, tuple[str, ...]] = {}
    for name, one in mapping_of(value, "what was followed").items():
        place, *keys = list_of(one, "what was followed") or [None]
        places[text_of(name, "a name")] = count_of(place, "a place")
        chains[name] = tuple(text_of(key, "a key") for key in keys)
    return Followed(places, chains)
