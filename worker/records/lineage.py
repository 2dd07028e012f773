"""Detects records that were restored from a backup of etcd, by the lead of the raft log over the store's revision.

Each revision of the store comes from one entry of the raft log, and some entries make no revision: the log index
is ahead of the revision, and its lead never shrinks. A restore from a snapshot keeps the revision and begins a new
log, so the lead falls by about the length of the old log, and writes do not raise it again. A record made at a
greater lead than the present one is not from this store's past (observed with etcd 3.4 and 3.5). Neither is a
record with another cluster id; but the id changes only if the operator restored with a new cluster token.

No single call returns both numbers. So a record carries a lower bound of the lead, and a process compares it
with an upper bound of the present lead: slow reads raise no false alarm.

Not detected: a restore that also brings back the log, such as an older copy of the data directory or of the
machine. And the difference fades: once the new log has as many entries without a revision (failed comparisons,
leases) as the old log had entries when the record was made, the record looks like one of this store.
"""

from __future__ import annotations

import asyncio
import time

from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.budget import Mark


class Lineage:
    """One process' last measurement of the store's cluster id and lead."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mark = Mark()
        self._lead_at_most = 0
        self._measured_at: float | None = None
        self._measuring = asyncio.Lock()

    @property
    def mark(self) -> Mark:
        """The mark for a record made now. Before the first measurement it fits no cluster."""
        return self._mark

    async def measure(self, at_most_every: float = 0.0) -> None:
        """Measure the store's lead, unless the last measurement is more recent (seconds). Raises WorkerError."""
        if self._is_fresh(at_most_every):
            return
        async with self._measuring:
            if self._is_fresh(at_most_every):
                return
            now = time.monotonic()
            position = await self._store.log_position()
            self._mark = Mark(position.cluster_id, position.index - position.after)
            self._lead_at_most = position.index - position.before
            self._measured_at = now

    def fits(self, mark: Mark) -> bool:
        """Tell whether a record with this mark, made before the last measurement, is from this store's own past."""
        return mark.cluster_id == self._mark.cluster_id and mark.lead <= self._lead_at_most

    async def includes(self, mark: Mark) -> bool:
        """As `fits`, for a record that may have been made after the last measurement. Raises WorkerError."""
        if not self.fits(mark):
            await self.measure()
        return self.fits(mark)

    def _is_fresh(self, seconds: float) -> bool:
        return self._measured_at is not None and time.monotonic() - self._measured_at < seconds
