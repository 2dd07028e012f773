"""Batches and how far each has come: one record a batch, written after every page."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.etcd.store import Expect, Item, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.codec import damaged, require_place
from kube_rewrap.worker.records.keyspace import Keyspace


@dataclass(frozen=True, slots=True)
class StoredCheckpoint:
    """A checkpoint as read, with the mod_revision that the next write must find."""

    checkpoint: Checkpoint
    revision: int


class Checkpoints:
    """The batch records of one state prefix; every write is fenced by the guards of its owner."""

    def __init__(self, store: Store, keyspace: Keyspace, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._keyspace = keyspace
        self._guards = tuple(guards)

    async def load(self, campaign: str, number: int) -> StoredCheckpoint:
        """Return one batch. Raises RecordError when it is missing or damaged."""
        key = self._keyspace.batch(campaign, number)
        found = await record.read(self._store, key)
        if found is None:
            raise RecordError(f"the record {key_text(key)} is missing; run again to plan a new campaign")
        fields, revision = found
        return StoredCheckpoint(self._checkpoint(key, fields), revision)

    async def save(self, checkpoint: Checkpoint, revision: int) -> int:
        """Write a batch over the version that was read (0 = new); returns its new mod_revision.

        Raises FencedError when another process changed it, or the lock is lost.
        """
        key = self._keyspace.batch(checkpoint.spec.campaign, checkpoint.spec.number)
        return await record.write(self._store, key, checkpoint.to_json(), revision, guards=self._guards)

    async def all(self, campaign: str, *, since: int = 0) -> AsyncIterator[StoredCheckpoint]:
        """Yield the batches of a campaign in order; with `since`, only those written from that revision on.

        One that can't be read is left out.
        """
        async for stored in record.read_each(self._store, self._keyspace.batches(campaign), self._stored, since=since):
            yield stored

    async def changed(self, campaign: str, since: int) -> tuple[list[StoredCheckpoint], int]:
        """Return the batches written from revision `since` on, and what to give as `since` the next time.

        The latter is a revision from before the reading: what changes while pages are read comes twice
        rather than never.
        """
        revision = await self._store.revision()
        return [stored async for stored in self.all(campaign, since=since)], revision

    def _stored(self, item: Item, fields: dict[str, object]) -> StoredCheckpoint:
        return StoredCheckpoint(self._checkpoint(item.key, fields), item.mod_revision)

    def _checkpoint(self, key: bytes, fields: dict[str, object]) -> Checkpoint:
        try:
            checkpoint = Checkpoint.from_json(fields)
        except ValueError as error:
            raise damaged(key, error) from None
        require_place(key, self._keyspace.batch(checkpoint.spec.campaign, checkpoint.spec.number))
        return checkpoint
