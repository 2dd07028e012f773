"""The records of handbacks. Each is on a lease, so it expires soon after its worker's last handback."""

from __future__ import annotations

from kube_rewrap.worker.etcd.store import Put
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.holder import Handback
from kube_rewrap.worker.records.table import Table

_SECONDS = 30


class Handbacks(Table[Handback]):
    """All handbacks of one state prefix, one a worker."""

    _kind = Handback

    def _key(self, value: Handback) -> bytes:
        return self._keyspace.handback(f"{value.worker.host}-{value.worker.pid}")

    async def all(self) -> list[Handback]:
        """Return the readable handbacks that have not expired."""
        return [stored.value async for stored in self._within(self._keyspace.handbacks)]

    async def add(self, handback: Handback) -> None:
        """Record a handback for `_SECONDS`; it replaces the worker's last one."""
        lease = await self._store.grant_lease(_SECONDS)
        await self._commit(Put(self._key(handback), encode(handback.to_json()), lease))
