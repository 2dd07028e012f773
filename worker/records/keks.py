"""The records of the KEKs of all KMS providers, one a provider. The leader and `rewrap run` write them."""

from __future__ import annotations

from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.table import Stored, Table


class Keks(Table[Kek]):
    """A table of one record per provider's name."""

    _kind = Kek

    def _key(self, value: Kek) -> bytes:
        return self._keyspace.kek(value.provider)

    async def get(self, provider: str) -> Stored[Kek] | None:
        """Return a provider's record; None if there is none. Raises RecordError for a damaged one."""
        return await self._at(self._keyspace.kek(provider))

    async def all(self) -> list[Stored[Kek]]:
        """Return the readable records of all providers."""
        return [stored async for stored in self._within(self._keyspace.keks)]
