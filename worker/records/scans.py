"""The record of the last scan of everything, which a new leader shows until it has scanned itself."""

from __future__ import annotations

import structlog

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.records.scan import Scan
from kube_rewrap.worker.records.table import Table

_log = structlog.get_logger()


class Scans(Table[Scan]):
    """A table of one record per state prefix."""

    _kind = Scan

    def _key(self, _: Scan) -> bytes:
        return self._keyspace.scan

    async def load(self) -> Scan | None:
        """Return the record, None if there is none or it is damaged: the next scan replaces a damaged one."""
        try:
            found = await self._at(self._keyspace.scan)
        except RecordError as error:
            _log.warning("scan.damaged", because=str(error))
            return None
        return found.value if found else None
