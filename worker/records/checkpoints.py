"""The records of batches with their checkpoints. A worker writes its batch's record after every page."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.table import Stored, Table


class Checkpoints(Table[Checkpoint]):
    """The batch records of all campaigns."""

    _kind = Checkpoint

    def _key(self, value: Checkpoint) -> bytes:
        return self._keyspace.batch(value.spec.campaign, value.spec.number)

    async def load(self, campaign: str, number: int) -> Stored[Checkpoint]:
        """Return one batch. Raises RecordError when it is missing or damaged."""
        key = self._keyspace.batch(campaign, number)
        found = await self._at(key)
        if found is None:
            raise RecordError(f"the record {key_text(key)} is missing; run again to plan a new campaign")
        return found

    async def create(self, batches: Iterable[Checkpoint]) -> None:
        """Record the batches of a new campaign. Raises FencedError, TemporaryError."""
        await self._put_all(batches)

    def all(self, campaign: str) -> AsyncGenerator[Stored[Checkpoint]]:
        """Yield the readable batches of a campaign in order."""
        return self._within(self._keyspace.batches(campaign))

    async def changed(self, campaign: str, since: int) -> tuple[dict[int, Stored[Checkpoint]], int]:
        """See `Changed`."""
        found, following = await self._changed(self._keyspace.batches(campaign), since)
        return {stored.value.spec.number: stored for stored in found}, following


class BatchRecord:
    """The record of one batch, as the worker that holds the claim on it reads and writes it.

    `load` reads it once, and once more after each write that failed.
    """

    def __init__(self, checkpoints: Checkpoints, campaign: str, number: int) -> None:
        self._checkpoints = checkpoints
        self._campaign = campaign
        self._number = number
        self._stored: Stored[Checkpoint] | None = None

    async def load(self) -> Checkpoint:
        """Return the checkpoint. Raises RecordError when it is missing or damaged."""
        if self._stored is None:
            self._stored = await self._checkpoints.load(self._campaign, self._number)
        return self._stored.value

    async def save(self, checkpoint: Checkpoint) -> int:
        """Write a checkpoint over the one that was read or written last; returns its mod_revision.

        Raises the errors of `Table.save`; after one of them, the next `load` reads the record again.
        """
        stored, self._stored = self._stored, None
        if stored is None:
            raise RuntimeError("a batch's record is read before it is written")
        self._stored = await self._checkpoints.save(stored.holding(checkpoint))
        return self._stored.revision
