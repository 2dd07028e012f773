"""The record of the last scan of everything: what a leader shows before it has scanned anything itself."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.scan import Scan

_log = structlog.get_logger()


class Scans:
    """The one record of one state prefix; every write is fenced by the guards of its owner."""

    def __init__(self, store: Store, keyspace: Keyspace, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._key = keyspace.scan
        self._guards = tuple(guards)

    async def load(self) -> Scan | None:
        """Return the record, None where there is none that can be used: the next scan replaces a damaged one."""
        try:
            found = await record.read(self._store, self._key)
            return None if found is None else self._read(found[0])
        except RecordError as error:
            _log.warning("scan.damaged", because=str(error))
            return None

    async def save(self, scan: Scan) -> None:
        """Write over whatever is there. Raises FencedError, and RecordChangedError when somebody wrote meanwhile."""
        item = await self._store.get(self._key)
        revision = 0 if item is None else item.mod_revision
        await record.write(self._store, self._key, scan.to_json(), revision, guards=self._guards)

    def _read(self, fields: dict[str, object]) -> Scan:
        try:
            return Scan.from_json(fields)
        except ValueError as error:
            raise damaged(self._key, error) from None
