"""The record of tries, shared by all batches of all campaigns that no operator asked for.

A worker counts the tries in a group of objects before it rewrites any object of the group: a rewrite would show the
attacker which values a key opened. So concurrent batches together allow no more tries a day than one batch alone. Only
a group with a new try writes the record, so a day has at most as many writes as tries; a group without one does not
read it either.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from contextlib import suppress

from kube_rewrap.worker.errors import QuarantineGrewError, RecordError
from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.table import Table
from kube_rewrap.worker.records.tries import Tries


class TryCounter(Table[Tries]):
    """Counts tries up to `most` a day, in the one record of a state prefix."""

    _kind = Tries

    def __init__(self, store: Store, keyspace: Keyspace, most: int, guards: Sequence[Expect] = ()) -> None:
        super().__init__(store, keyspace, guards)
        self._most = most

    def _key(self, _: Tries) -> bytes:
        return self._keyspace.tries

    async def count(self, digests: Collection[str]) -> None:
        """Record tries. Raises QuarantineGrewError if that would exceed the day's limit; then none is recorded.

        Raises it for an unreadable record, too: its tries are unknown. Raises TemporaryError when etcd does not
        answer, or the write loses too many compare-and-swaps. A try counts once, so a write with an unclear outcome
        is repeated.
        """
        try:
            await self._update(
                self._keyspace.tries, lambda tries: self._counted(tries, digests), first=Tries(), may_write_twice=True
            )
        except RecordError as error:
            raise QuarantineGrewError(f"{error}; delete it, then resume the campaign") from None

    async def age(self) -> None:
        """Forget the tries of more than a day ago; the leader does, by its clock. An unreadable record stays."""
        with suppress(RecordError):
            await self._update(self._keyspace.tries, lambda tries: tries.aged(time.time()), may_write_twice=True)

    def _counted(self, tries: Tries, digests: Collection[str]) -> Tries:
        counted = tries.counted(digests, time.time(), self._most)
        if counted is None:
            raise QuarantineGrewError(
                f"more than {self._most} objects that no key opens were written within a day, and no operator asked "
                "for this campaign: a client of etcd may be trying out values. Check which clients can write to etcd, "
                "and what is in quarantine; then resume the campaign"
            )
        return counted
