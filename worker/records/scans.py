"""The record of the last scan of everything, which a new leader shows until it has scanned itself."""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.records.scan import Scan
from kube_rewrap.worker.records.table import Table

_log = structlog.get_logger()


class Scans(Table[Scan]):
    """A table of one record per state prefix."""

    def _key(self, value: Scan) -> bytes:  # noqa: ARG002 - there is one place
        return self._keyspace.scan

    def _value(self, fields: Mapping[str, object]) -> Scan:
        return Scan.from_json(fields)

    async def load(self) -> Scan | None:
        """Return the record, None if there is none or it is damaged: the next scan replaces a damaged one."""
        try:
            found = await self._at(self._keyspace.scan)
        except RecordError as error:
            _log.warning("scan.damaged", because=str(error))
            return None
        return found.value if found else None
