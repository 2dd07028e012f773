"""The parts of a campaign's proof scan on record."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kube_rewrap.worker.errors import RecordChangedError, TemporaryError
from kube_rewrap.worker.etcd.store import Delete, Expect, Item, Outcome, Put, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged, encode, require_place
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.proof import ProofPart

_PER_COMMIT = 64
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part as read, with the mod_revision that the next write must find."""

    part: ProofPart
    revision: int


class Proofs:
    """The proof parts of one state prefix; every write is fenced by the guards of its writer."""

    def __init__(self, store: Store, keyspace: Keyspace, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._keyspace = keyspace
        self._guards = tuple(guards)

    async def all(self, campaign: str) -> list[StoredPart]:
        """Return the parts of a campaign's proof that can be read, in order."""
        keys = self._keyspace.proofs(campaign)
        return [stored async for stored in record.read_each(self._store, keys, self._stored)]

    async def get(self, campaign: str, number: int) -> StoredPart | None:
        """Return one part, None where there is none."""
        key = self._keyspace.proof(campaign, number)
        found = await record.read(self._store, key)
        return None if found is None else StoredPart(self._part(key, found[0]), found[1])

    def _stored(self, item: Item, fields: dict[str, object]) -> StoredPart:
        return StoredPart(self._part(item.key, fields), item.mod_revision)

    def _part(self, key: bytes, fields: dict[str, object]) -> ProofPart:
        try:
            part = ProofPart.from_json(fields)
        except ValueError as error:
            raise damaged(key, error) from None
        require_place(key, self._keyspace.proof(part.campaign, part.number))
        return part

    async def replace_all(self, campaign: str, parts: Sequence[ProofPart]) -> None:
        """Forget the parts on record and begin with these. A crash between leaves fewer parts: the scan begins anew.

        The first part is written last: parts without it are no plan.
        """
        await self._commit([Delete(self._keyspace.proofs(campaign))])
        puts = [Put(self._keyspace.proof(campaign, part.number), encode(part.to_json())) for part in reversed(parts)]
        for start in range(0, len(puts), _PER_COMMIT):
            await self._commit(puts[start : start + _PER_COMMIT])

    async def _commit(self, changes: Sequence[Put | Delete]) -> None:
        """Apply changes that may be applied twice."""
        for _ in range(_ATTEMPTS):
            result = await self._store.commit(self._guards, changes)
            if result.outcome is Outcome.APPLIED:
                return
            if result.outcome is Outcome.LOST:
                raise RecordChangedError("the lock was lost while a proof was planned")
        raise TemporaryError("etcd never told whether the parts of a proof were written", delay=1.0)

    async def save(self, stored: StoredPart, part: ProofPart) -> StoredPart:
        """Write what a part found. Raises FencedError when somebody else did, or the proof began anew."""
        key = self._keyspace.proof(part.campaign, part.number)
        return StoredPart(
            part, await record.write(self._store, key, part.to_json(), stored.revision, guards=self._guards)
        )
