"""The records of the KEKs of all KMS providers, one a provider. The leader and `rewrap run` write them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.table import Stored, Table


class Keks(Table[Kek]):
    """A table of one record per provider's name."""

    def _key(self, value: Kek) -> bytes:
        return self._keyspace.kek(value.provider)

    def _value(self, fields: Mapping[str, object]) -> Kek:
        return Kek.from_json(fields)

    async def get(self, provider: str) -> Stored[Kek] | None:
        """Return a provider's record; None if there is none. Raises RecordError for a damaged one."""
        return await self._at(self._keyspace.kek(provider))

    async def note(self, provider: str, seen: Callable[[Kek | None], Kek | Awaitable[Kek]]) -> Stored[Kek]:
        """Record what a provider's record becomes by `seen`, which is called again when another process was faster.

        Raises FencedError when a guard is lost, RecordError for a damaged record.
        """
        return await self._note(self._keyspace.kek(provider), seen)

    async def all(self) -> list[Stored[Kek]]:
        """Return the records of all providers, of damaged ones none."""
        return [stored async for stored in self._within(self._keyspace.keks)]
