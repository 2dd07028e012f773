"""The record of the rates of writes: the leader writes it about once a minute, `rewrap keys` reads it."""

from __future__ import annotations

import structlog

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.records.table import Stored, Table
from kube_rewrap.worker.records.usage import NOTHING, Usage

_log = structlog.get_logger()


class Usages(Table[Usage]):
    """A table of one record per state prefix."""

    _kind = Usage

    def _key(self, _: Usage) -> bytes:
        return self._keyspace.usage

    async def load(self) -> Stored[Usage]:
        """Return the record. A damaged one counts as empty; the leader's next save replaces it."""
        item = await self._store.get(self._keyspace.usage)
        if item is None:
            return Stored(NOTHING)
        try:
            return self._read(item)
        except RecordError as error:
            _log.warning("usage.damaged", because=f"{error}; it is measured again")
            return Stored(NOTHING, item.mod_revision)
