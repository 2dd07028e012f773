"""The record of the configuration that the scheduler acted on last: what a restart compares the file with.

It also knows which ones were in force before: a scheduler that comes to lead with an old copy of the
file would else take it for a change, and bring every object back under the old key.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.fields import Fields
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.campaign import Campaign, completed
from kube_rewrap.worker.records.codec import damaged
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.keyspace import Keyspace

_FORMER = 200
"""Hashes that are remembered; a record with as many is far below what etcd takes."""


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """A generation as read, with the mod_revision that the next write must find.

    `former`: the hashes of those that were in force before and are not now, the newest last. `settled`: the resources
    whose plaintext was late already when this one came into force (see `settled`).
    """

    generation: GenerationRecord
    revision: int
    former: tuple[str, ...] = ()
    settled: frozenset[str] = frozenset()

    def followed_by(self, generation: GenerationRecord, settled: frozenset[str] = frozenset()) -> StoredGeneration:
        """Return the record with a newer generation in force."""
        kept = [name for name in (*self.former, self.generation.hash) if name != generation.hash]
        return replace(self, generation=generation, former=tuple(dict.fromkeys(kept))[-_FORMER:], settled=settled)


def settled(stored: StoredGeneration | None, campaigns: Iterable[Campaign], now: GenerationRecord) -> frozenset[str]:
    """Return the resources whose plaintext is late under a configuration: all was proven to be encrypted before.

    A change of the file is no reason to believe any: who can write to etcd, and not the file, only has to wait for the
    next one. But an operator makes plaintext good by the file: what did not list identity and does now is to be
    taken in, and so is what identity wrote, or what nothing governed.
    """
    known = tuple(campaigns)
    if stored is None:
        return completed(known, now.hash)
    here = completed(known, now.hash, stored.revision)
    if stored.generation.hash == now.hash:
        return stored.settled | here
    before = stored.settled | completed(known, stored.generation.hash, stored.revision)
    both = (stored.generation, now)
    return here | {name for name in before if all(one.reads_plaintext(name) for one in both)}


class Generations:
    """The one record of one state prefix; every write is fenced by the guards of its owner."""

    def __init__(self, store: Store, keyspace: Keyspace, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._key = keyspace.generation
        self._guards = tuple(guards)

    async def load(self) -> StoredGeneration | None:
        """Return the record, None where no scheduler has run yet. Raises RecordError when it is damaged."""
        found = await record.read(self._store, self._key)
        if found is None:
            return None
        try:
            return _stored(*found)
        except ValueError as error:
            raise damaged(self._key, error) from None

    async def save(self, stored: StoredGeneration) -> StoredGeneration:
        """Write the record over the version that was read (revision 0 = new). Raises FencedError."""
        fields = {
            **stored.generation.to_json(),
            "former": list(stored.former),
            "settled": sorted(stored.settled),
        }
        return replace(
            stored, revision=await record.write(self._store, self._key, fields, stored.revision, guards=self._guards)
        )


def _stored(given: Mapping[str, object], revision: int) -> StoredGeneration:
    fields = Fields.of(given)
    # What a record of an earlier version does not have.
    former = fields.texts("former", _FORMER) if "former" in given else ()
    known = fields.texts("settled") if "settled" in given else ()
    return StoredGeneration(GenerationRecord.from_json(given), revision, former, frozenset(known))
