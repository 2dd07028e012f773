"""The one record of what was tried in vain, for all batches of all campaigns that no operator asked for.

Counted before anything of the same group of objects is rewritten: that is what would answer. So however many batches
are at work at a time, a day has no more answers than one batch alone would give. A write is made for each group with a
new try in it, and so at most as many a day as there are tries; a group without one does not even read.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping

from kube_rewrap.worker.errors import QuarantineGrewError, RecordChangedError, RecordError
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.table import Stored, Table
from kube_rewrap.worker.records.tries import Tries


class TryCounter(Table[Tries]):
    """Counts tries up to `most` a day, in the one record of a state prefix."""

    def __init__(self, store: Store, keyspace: Keyspace, most: int) -> None:
        super().__init__(store, keyspace)
        self._most = most

    def _key(self, value: Tries) -> bytes:  # noqa: ARG002 - there is one place
        return self._keyspace.tries

    def _value(self, fields: Mapping[str, object]) -> Tries:
        return Tries.from_json(fields)

    async def count(self, digests: Collection[str]) -> None:
        """Put tries on record. Raises QuarantineGrewError where that were too many, and none is counted.

        A record that can't be read has no room: what it said is not known. Raises TemporaryError when etcd does not
        let us. A try counts once, so a count whose outcome is unclear is repeated.
        """
        try:
            if await self._update_again(self._keyspace.tries, lambda tries: self._counted(tries, digests)) is None:
                await self._begin(self._counted(Tries(), digests), digests)
        except RecordError as error:
            raise QuarantineGrewError(f"{error}; delete it, then resume the campaign") from None

    async def _begin(self, tries: Tries, digests: Collection[str]) -> None:
        """Write the first record, or count in the one that another process wrote before."""
        try:
            await self.save(Stored(tries))
        except RecordChangedError:
            await self._update_again(self._keyspace.tries, lambda known: self._counted(known, digests))

    def _counted(self, tries: Tries, digests: Collection[str]) -> Tries:
        counted = tries.counted(digests, time.time(), self._most)
        if counted is None:
            raise QuarantineGrewError(
                f"more than {self._most} objects that nothing opens were written within a day, and no operator "
                "asked for this campaign: somebody may be trying out values. See who can write to etcd, and what "
                "is in quarantine; then resume it"
            )
        return counted
