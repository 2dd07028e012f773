"""The records of the parts of proof scans."""

from __future__ import annotations

from collections.abc import Sequence

from kube_rewrap.worker.etcd.store import Delete
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.table import Stored, Table


class Proofs(Table[ProofPart]):
    """The proof parts of all campaigns."""

    _kind = ProofPart

    def _key(self, value: ProofPart) -> bytes:
        return self._keyspace.proof(value.campaign, value.number)

    async def all(self, campaign: str) -> list[Stored[ProofPart]]:
        """Return the readable parts of a campaign's proof, in order."""
        return [stored async for stored in self._within(self._keyspace.proofs(campaign))]

    async def changed(self, campaign: str, since: int) -> tuple[dict[int, Stored[ProofPart]], int]:
        """See `Changed`."""
        found, following = await self._changed(self._keyspace.proofs(campaign), since)
        return {stored.value.number: stored for stored in found}, following

    async def get(self, campaign: str, number: int) -> Stored[ProofPart] | None:
        """Return one part, None if there is none. Raises RecordError for a damaged one."""
        return await self._at(self._keyspace.proof(campaign, number))

    async def replace_all(self, campaign: str, parts: Sequence[ProofPart]) -> None:
        """Delete the parts on record and write these, the first one last.

        A crash in between leaves fewer parts, none of them the first: not `is_whole`, so the scan begins again.
        """
        await self._commit(Delete(self._keyspace.proofs(campaign)))
        await self._put_all(reversed(parts))
