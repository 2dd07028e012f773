"""The record of the configuration that the scheduler acted on last: what a restart compares the file with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from worker.etcd.store import Expect, Store
from worker.model.generation import GenerationRecord
from worker.state import record
from worker.state.codec import damaged
from worker.state.keyspace import Keyspace


@dataclass(frozen=True, slots=True)
class StoredGeneration:
    """A generation as read, with the mod_revision that the next write must find."""

    generation: GenerationRecord
    revision: int


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
        fields, revision = found
        try:
            return StoredGeneration(GenerationRecord.from_json(fields), revision)
        except ValueError as error:
            raise damaged(self._key, error) from None

    async def save(self, generation: GenerationRecord, revision: int) -> StoredGeneration:
        """Write the record over the version that was read (0 = new). Raises FencedError."""
        written = await record.write(self._store, self._key, generation.to_json(), revision, guards=self._guards)
        return StoredGeneration(generation, written)
