"""Tells a record of this etcd's own past from one that came back with a backup.

Every revision of the store comes from one entry of the raft log, and some entries make none: the log is
ahead of the revision, and its lead never shrinks. A restore keeps the revision and begins a new log, so
the lead falls by about the length of the old one, and no number of writes brings it back. A record that
was made at a greater lead than there is now is not from this store's past (seen with etcd 3.4 and 3.5).
Neither is one from another cluster id; but that changes only if the restore was given a new token.

The two numbers can't be had at one moment. What goes on record is the least that the lead can have been,
and it is compared with the most that it can be now: reads that take long raise no alarm.
"""

from __future__ import annotations

import asyncio
import time

from worker.etcd.store import Store
from worker.model.budget import Mark

_PAUSES = (0.0, 0.2)


class Lineage:
    """How one process sees where the store comes from."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._mark = Mark()
        self._most = 0
        self._looked_at: float | None = None

    @property
    def mark(self) -> Mark:
        """What a record made now is to carry. Before the first look it fits no cluster."""
        return self._mark

    async def look(self, at_most_every: float = 0.0) -> None:
        """Look at the store, unless that was done less than so many seconds ago. Raises WorkerError."""
        now = time.monotonic()
        if self._looked_at is not None and now - self._looked_at < at_most_every:
            return
        before = await self._store.revision()
        members = await self._store.members()
        after = await self._store.revision()
        index = max(member.raft_index for member in members)
        self._mark = Mark(members[0].cluster_id, index - after)
        self._most = index - before
        self._looked_at = now

    async def includes(self, mark: Mark) -> bool:
        """Tell whether a record with this mark was made in this store's own past. Raises WorkerError."""
        for pause in _PAUSES:
            if self._fits(mark):
                return True
            # Another process may have made the record after we looked, or the member that told its revision may have
            # been ahead of those that told the length of their log.
            await asyncio.sleep(pause)
            await self.look()
        return self._fits(mark)

    def _fits(self, mark: Mark) -> bool:
        return mark.cluster_id == self._mark.cluster_id and mark.lead <= self._most
