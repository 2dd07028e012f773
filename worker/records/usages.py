"""How fast keys are used, on record: written by the leader about once a minute, read by `rewrap keys`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import structlog

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import decode
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.usage import NOTHING, Usage

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class StoredUsage:
    """The record as read, with the mod_revision that the next write must find."""

    usage: Usage = NOTHING
    revision: int = 0


class Usages:
    """The one record of one state prefix; every write is fenced by the guards of its owner."""

    def __init__(self, store: Store, keyspace: Keyspace, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._key = keyspace.usage
        self._guards = tuple(guards)

    async def load(self) -> StoredUsage:
        """Return the record. A damaged one counts as empty, and is written over: it is only measured again."""
        item = await self._store.get(self._key)
        if item is None:
            return StoredUsage()
        try:
            return StoredUsage(Usage.from_json(decode(item.key, item.value)), item.mod_revision)
        except (ValueError, RecordError) as error:
            _log.warning("usage.damaged", because=f"{error}; it is measured again")
            return StoredUsage(NOTHING, item.mod_revision)

    async def save(self, stored: StoredUsage) -> StoredUsage:
        """Write over the version that was read (revision 0 = new). Raises FencedError."""
        revision = await record.write(
            self._store, self._key, stored.usage.to_json(), stored.revision, guards=self._guards
        )
        return replace(stored, revision=revision)
