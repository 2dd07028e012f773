"""The one record of what was tried in vain, for all batches of all campaigns that no operator asked for.

Counted before anything of the same group of objects is rewritten: that is what would answer. So however many batches
are at work at a time, a day has no more answers than one batch alone would give. A write is made for each group with a
new try in it, and so at most as many a day as there are tries; a group without one does not even read.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Collection

from kube_rewrap.worker.errors import QuarantineGrewError, RecordChangedError, RecordError, TemporaryError
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.tries import Tries

_ATTEMPTS = 50


class TryCounter:
    """Counts tries up to `most` a day."""

    def __init__(self, store: Store, keyspace: Keyspace, most: int) -> None:
        self._store = store
        self._key = keyspace.tries
        self._most = most

    async def count(self, digests: Collection[str]) -> None:
        """Put tries on record. Raises QuarantineGrewError where that were too many, and none is counted.

        One that can't be read has no room: nobody knows what it said. Raises TemporaryError when etcd does not let us.
        """
        for attempt in range(_ATTEMPTS):
            try:
                tries, revision = await self._load()
            except RecordError as error:
                raise QuarantineGrewError(f"{error}; delete it, then resume the campaign") from None
            counted = tries.counted(digests, time.time(), self._most)
            if counted is None:
                raise QuarantineGrewError(
                    f"more than {self._most} objects that nothing opens were written within a day, and no operator "
                    "asked for this campaign: somebody may be trying out values. See who can write to etcd, and what "
                    "is in quarantine; then resume it"
                )
            if counted is tries:
                return
            try:
                await record.write(self._store, self._key, counted.to_json(), revision)
            except RecordChangedError:
                # Whether or not it was ours that was written: a try counts once.
                await asyncio.sleep(random.uniform(0, 0.01 * (attempt + 1)))  # noqa: S311 - jitter
                continue
            return
        raise TemporaryError("the record of tries is written to too often by others", delay=1.0)

    async def _load(self) -> tuple[Tries, int]:
        found = await record.read(self._store, self._key)
        if found is None:
            return Tries(), 0
        try:
            return Tries.from_json(found[0]), found[1]
        except ValueError as error:
            raise damaged(self._key, error) from None
