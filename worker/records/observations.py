"""The record of the watch: writes by any process, counted by key, and up to which revisions the counts are complete.

Counts and revisions are in one record, which changes in one write: after a crash the watch counts no PUT twice, and
leaves none out.
"""

from __future__ import annotations

from kube_rewrap.worker.records.observed import Observations
from kube_rewrap.worker.records.table import Stored, Table


class ObserverRecords(Table[Observations]):
    """A table of one record per state prefix."""

    _kind = Observations

    def _key(self, _: Observations) -> bytes:
        return self._keyspace.observer

    async def load(self) -> Stored[Observations]:
        """Return the record; empty observations if no observer ever ran. Raises RecordError for a damaged one."""
        return await self._at(self._keyspace.observer) or Stored(Observations())
