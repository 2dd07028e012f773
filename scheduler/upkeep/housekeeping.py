"""The leader's periodic work: requests campaigns that repair drift, deletes old requests, audits sums of repairs.

Drift: a client wrote an object under another key than the primary, as a kube-apiserver with an older file does.
"""

from __future__ import annotations

import asyncio
import random
import time

from kube_rewrap.scheduler.upkeep.backlog import RequestBacklog
from kube_rewrap.scheduler.upkeep.figures import Figures
from kube_rewrap.scheduler.upkeep.repairs import Drift, Repaired
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.try_counter import TryCounter

_LOOK_SECONDS = 1.0
_TIDY_SECONDS = 60.0


class Housekeeping:
    """See the module's docstring."""

    def __init__(
        self,
        backlog: RequestBacklog,
        figures: Figures,
        drift: Drift,
        repaired: Repaired,
        *,
        audit: AuditLog,
        tries: TryCounter,
    ) -> None:
        self._backlog = backlog
        self._figures = figures
        self._drift = drift
        self._repaired = repaired
        self._audit = audit
        self._tries = tries

    async def run(self) -> None:
        """Request repairs every second and tidy the records every minute, until cancelled. Raises WorkerError."""
        tidy_at = 0.0
        while True:
            await self._backlog.ask_for_repairs(self._drift)
            now = asyncio.get_running_loop().time()
            if now >= tidy_at:
                tidy_at = now + _TIDY_SECONDS
                await self._backlog.forget_old()
                await self._tries.age()
                await self._figures.show_campaigns()
            await self._sum_up_repairs()
            await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _sum_up_repairs(self) -> None:
        """Add the outcome of repairs to the audit log: the first at once, then one sum an hour."""
        now = time.time()
        detail = self._repaired.summary(now)
        if detail is not None:
            await self._audit.append("drift.repaired", "", **detail)
            self._repaired.reset(now)
