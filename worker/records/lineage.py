"""Tells a record of this etcd's own past from one that came back with a backup.

Every revision of the store comes from one entry of the raft log, and some entries make none: the log is
ahead of the revision, and its lead never shrinks. A restore keeps the revision and begins a new log, so
the lead falls by about the length of the old one, and writes do not bring it back. A record that
was made at a greater lead than there is now is not from this store's past (seen with etcd 3.4 and 3.5).
Neither is one from another cluster id; but that changes only if the restore was given a new token.

The two numbers can't be had at one moment. What goes on record is the least that the lead can have been,
and it is compared with the most that it can be now: reads that take long raise no alarm.

Not noticed: what brings the log back with the store, as an older copy of the data directory or of the
machine does. And the sign fades: once the new log has made as many entries without a revision (failed
comparisons, leases) as the old one had entries when the record was made, it says nothing any more.
"""

from __future__ import annotations

import asyncio
import time

from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.budget import Mark


class Lineage:
    """How one process sees where the store comes from."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mark = Mark()
        self._lead_at_most = 0
        self._looked_at: float | None = None
        self._looking = asyncio.Lock()

    @property
    def mark(self) -> Mark:
        """What a record made now is to carry. Before the first look it fits no cluster."""
        return self._mark

    async def look(self, at_most_every: float = 0.0) -> None:
        """Look at the store, unless that was done less than so many seconds ago. Raises WorkerError."""
        if self._is_fresh(at_most_every):
            return
        async with self._looking:
            if self._is_fresh(at_most_every):
                return
            now = time.monotonic()
            position = await self._store.log_position()
            self._mark = Mark(position.cluster_id, position.index - position.after)
            self._lead_at_most = position.index - position.before
            self._looked_at = now

    def fits(self, mark: Mark) -> bool:
        """Tell whether a record with this mark, made before the last look, is from this store's own past."""
        return mark.cluster_id == self._mark.cluster_id and mark.lead <= self._lead_at_most

    async def includes(self, mark: Mark) -> bool:
        """As `fits`, for a record that may have been made after the last look. Raises WorkerError."""
        if not self.fits(mark):
            await self.look()
        return self.fits(mark)

    def _is_fresh(self, seconds: float) -> bool:
        return self._looked_at is not None and time.monotonic() - self._looked_at < seconds
