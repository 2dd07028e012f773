"""Objects that were left alone, and why. A campaign with any of them is not complete.

Only so many are named: what fills etcd with objects that nothing opens shall not fill it with records, too. All
are counted, in the records of their batches.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass

from kube_rewrap.worker.errors import RecordChangedError, TemporaryError
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.etcd.store import Expect, Item, Outcome, Put, Store
from kube_rewrap.worker.fields import Fields
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged, encode
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.verdict import Reason, recorded_reason

KEPT = 4_000
"""Objects of a campaign that are named. Batches side by side may name some tens more than that each."""

_PER_COMMIT = 64  # etcd takes 128 operations in a transaction
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One object: its etcd key, the reason, a sentence about it, and the version that was looked at."""

    key: bytes
    reason: Reason
    detail: str
    mod_revision: int

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {
            "key": key_text(self.key),
            "reason": self.reason.value,
            "detail": self.detail,
            "mod_revision": self.mod_revision,
        }


class Quarantine:
    """The quarantine of one campaign."""

    def __init__(self, store: Store, keyspace: Keyspace, campaign: str, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._keyspace = keyspace
        self._campaign = campaign
        self._guards = tuple(guards)

    async def add(self, objects: Sequence[Quarantined]) -> None:
        """Record objects while there is room; recording one again changes nothing but its words. Raises FencedError."""
        for start in range(0, len(objects), _PER_COMMIT):
            # Counted anew each time, without a record that all batches would write.
            room = KEPT - await self._store.count(self._keyspace.quarantine(self._campaign))
            if room <= 0:
                return
            await self._add(objects[start : start + min(room, _PER_COMMIT)])

    async def _add(self, objects: Sequence[Quarantined]) -> None:
        """Write records that may be written twice: nothing depends on what stood there."""
        puts = [Put(self._keyspace.quarantined(self._campaign, one.key), encode(one.to_json())) for one in objects]
        for _ in range(_ATTEMPTS):
            result = await self._store.commit(self._guards, puts)
            if result.outcome is Outcome.APPLIED:
                return
            if result.outcome is Outcome.LOST:
                raise RecordChangedError("the lock was lost while objects were put in quarantine")
        raise TemporaryError("etcd never told whether objects were put in quarantine", delay=1.0)

    async def some(self, most: int) -> list[Quarantined]:
        """Return at most so many of those in quarantine."""
        found: list[Quarantined] = []
        async with aclosing(self.all()) as quarantined:
            async for one in quarantined:
                found.append(one)
                if len(found) >= most:
                    break
        return found

    async def all(self) -> AsyncGenerator[Quarantined]:
        """Yield what is named in quarantine and can be read, in no order that means anything."""
        keys = self._keyspace.quarantine(self._campaign)
        async for one in record.read_each(self._store, keys, _quarantined):
            yield one


def _quarantined(item: Item, given: dict[str, object]) -> Quarantined:
    fields = Fields.of(given)
    try:
        reason, detail = recorded_reason(fields.text("reason"), fields.text("detail"))
        return Quarantined(fields.key("key"), reason, detail, fields.count("mod_revision"))
    except ValueError as error:
        raise damaged(item.key, error) from None
