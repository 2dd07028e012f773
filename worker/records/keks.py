"""The records of the KEKs of all KMS providers, one a provider. The leader and `rewrap run` write them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.store import Item
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.table import Stored, Table
from kube_rewrap.worker.wrapped import fingerprint_of


class Keks(Table[Kek]):
    """A table of one record per provider's name."""

    _kind = Kek

    def _key(self, value: Kek) -> bytes:
        return self._keyspace.kek(value.provider)

    async def get(self, provider: str) -> Stored[Kek] | None:
        """Return a provider's record; None if there is none. Raises RecordError for a damaged one."""
        return await self._at(self._keyspace.kek(provider))

    async def note(self, provider: str, seen: Callable[[Kek | None], Kek | Awaitable[Kek]]) -> Stored[Kek]:
        """Record what a provider's record becomes by `seen`, which is called again when another process was faster.

        Raises FencedError when a guard is lost, RecordError for a damaged record.
        """

        async def write(item: Item | None) -> Stored[Kek]:
            stored = self._read(item) if item else None
            value = seen(stored.value if stored else None)
            kek = await value if isinstance(value, Awaitable) else value
            if stored and kek == stored.value:
                return stored
            return await self.save(Stored(kek, stored.revision if stored else 0))

        return await self._swap(self._keyspace.kek(provider), write, may_write_twice=True)

    async def in_force(self, provider: str) -> frozenset[str]:
        """Return the fingerprints of a provider's KEKs that are or were in force; none without a readable record."""
        try:
            stored = await self.get(provider)
        except RecordError:
            stored = None
        return frozenset(map(fingerprint_of, (stored.value.target, *stored.value.former) if stored else ()))

    async def all(self) -> list[Stored[Kek]]:
        """Return the readable records of all providers."""
        return [stored async for stored in self._within(self._keyspace.keks)]
