"""The quarantine: objects that workers did not rewrap, and why. A campaign with any of them is not complete.

A campaign has at most about `KEPT` records, so that an attacker who fills etcd with unreadable objects does not fill
it with records, too. The records of the batches count all objects.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from kube_rewrap.worker.etcd.store import Expect, Put, Store
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.quarantined import KEPT, QuarantinedObject
from kube_rewrap.worker.records.table import Table

_PER_COMMIT = 64  # etcd takes 128 operations in a transaction


class QuarantineRecords(Table[QuarantinedObject]):
    """The quarantine of one campaign."""

    _kind = QuarantinedObject

    def __init__(self, store: Store, keyspace: Keyspace, campaign: str, guards: Sequence[Expect] = ()) -> None:
        super().__init__(store, keyspace, guards)
        self._campaign = campaign

    def _key(self, value: QuarantinedObject) -> bytes:
        return self._keyspace.quarantined(self._campaign, value.key)

    async def add(self, objects: Sequence[QuarantinedObject]) -> None:
        """Record objects while there is room; recording one again replaces its record. Raises FencedError."""
        for start in range(0, len(objects), _PER_COMMIT):
            # A count of the keys each time: a counter would be one record that all batches write.
            room = KEPT - await self._store.count(self._keyspace.quarantine(self._campaign))
            if room <= 0:
                return
            some = objects[start : start + min(room, _PER_COMMIT)]
            await self._commit(*(Put(self._key(one), encode(one.to_json())) for one in some))

    async def some(self, most: int) -> list[QuarantinedObject]:
        """Return at most `most` of the objects on record."""
        found: list[QuarantinedObject] = []
        async with aclosing(self.all()) as quarantined:
            async for one in quarantined:
                found.append(one)
                if len(found) >= most:
                    break
        return found

    async def all(self) -> AsyncGenerator[QuarantinedObject]:
        """Yield the readable records, in the order of their keys' hashes."""
        async for stored in self._within(self._keyspace.quarantine(self._campaign)):
            yield stored.value
