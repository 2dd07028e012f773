"""The record of an operator's last statement about what the kube-apiservers run. A newer statement replaces it."""

from __future__ import annotations

from kube_rewrap.worker.etcd.ranges import KeyRange, after
from kube_rewrap.worker.records.assumption import Assumption
from kube_rewrap.worker.records.table import Table


class Assumptions(Table[Assumption]):
    """A table of one record per state prefix."""

    _kind = Assumption

    def _key(self, _: Assumption) -> bytes:
        return self._keyspace.assumption

    async def load(self) -> Assumption | None:
        """Return the last statement; None if there is none, or if it is unreadable, which counts as no statement."""
        only = KeyRange(self._keyspace.assumption, after(self._keyspace.assumption))
        return await anext((stored.value async for stored in self._within(only)), None)
