"""The records of write budgets: one for each key material."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import structlog

from kube_rewrap.worker.errors import RecordChangedError
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.table import Stored, Table

_log = structlog.get_logger()

Change = Callable[[Budget], Awaitable[Budget]]


class Budgets(Table[Budget]):
    """All budgets of one state prefix. Processes use them through `Ledger`."""

    _kind = Budget

    def _key(self, value: Budget) -> bytes:
        return self._keyspace.ledger(value.fingerprint)

    async def get(self, fingerprint: str) -> Budget | None:
        """Return one budget, None if there is none. Raises RecordError for a damaged one."""
        found = await self._at(self._keyspace.ledger(fingerprint))
        return found.value if found else None

    async def all(self) -> tuple[list[Budget], list[str]]:
        """Return all readable budgets, and the fingerprints of the unreadable ones."""
        readable, others = await self._sorted(self._keyspace.ledgers)
        return [stored.value for stored in readable], [name for name, _ in others]

    async def create(self, budget: Budget) -> bool:
        """Record a new budget; False when a record exists already."""
        try:
            await self.save(Stored(budget))
        except RecordChangedError:
            _log.debug("ledger.begun_elsewhere", fingerprint=budget.fingerprint)
            return False
        return True

    async def change_once(self, fingerprint: str, change: Change) -> Budget | None:
        """Apply a change by compare-and-swap. Raises RecordUnclearError when it may have been applied already."""
        found = await self._update(self._keyspace.ledger(fingerprint), change)
        return found.value if found else None

    async def change(self, fingerprint: str, change: Change) -> Budget | None:
        """As `change_once`, for a change that is safe to apply twice: a doubled reservation only wastes tokens."""
        found = await self._update(self._keyspace.ledger(fingerprint), change, may_write_twice=True)
        return found.value if found else None
