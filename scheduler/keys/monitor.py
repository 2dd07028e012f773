"""Measures how far the write budgets are used, exports it as metrics, and logs keys that are due or exhausted.

A controller under the leader's lease. It starts no rotation: the rotation controller reads the same records.
"""

from __future__ import annotations

import asyncio
import random
import time

import structlog

from kube_rewrap.config.settings.logs import Repetition
from kube_rewrap.config.settings.schema import BudgetSettings
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.keys.alerts import LoggedAlert, due_alerts, find_due_keys
from kube_rewrap.scheduler.keys.meter import Meter, MeterFacts
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.errors import FencedError, StoppedError, WorkerError
from kube_rewrap.worker.records.rotations import Rotations

_PAUSE_SECONDS = 2.0
_log = structlog.get_logger()


class KeyMonitor:
    """See the module's docstring. `logged` holds the last alert by fingerprint; the monitor updates it."""

    def __init__(
        self,
        settings: BudgetSettings,
        cluster: Cluster,
        meter: Meter,
        metrics: SchedulerMetrics,
        logged: dict[str, LoggedAlert],
    ) -> None:
        self._settings = settings
        self._cluster = cluster
        self._meter = meter
        self._metrics = metrics
        self._logged = logged
        self._rotations = Rotations(cluster.engine.store, cluster.engine.keyspace)
        self._generation = describe(cluster.generation)
        self._failure = Repetition()

    async def run(self) -> None:
        """Check all budgets every two seconds until cancelled.

        Raises FencedError when another scheduler leads, StoppedError when the brake is pulled.
        """
        while True:
            try:
                await self.check()
                self._failure.end()
            except (FencedError, StoppedError):
                raise
            except WorkerError as error:
                if self._failure.begins(str(error)):
                    _log.warning("key.unmeasured", because=str(error))
            await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def check(self) -> None:
        """Measure the use of all keys once, set the metrics, and log the alerts that are due."""
        limit, due_at, generation = self._settings.gcm_limit, self._settings.due_at, self._generation
        budgets = await self._cluster.engine.ledger.all()
        rotations = tuple([stored.value for stored in await self._rotations.all()])
        self._metrics.rotation(rotations[-1] if rotations else None)
        now = asyncio.get_running_loop().time()
        usage = await self._meter.measure(MeterFacts(now, time.time(), budgets, rotations, generation, limit))
        due_keys = find_due_keys(budgets.values(), generation, limit, due_at, usage)
        configured = {key.fingerprint for _, chain in generation.resources for key in chain}
        shown = [budget for budget in budgets.values() if budget.fingerprint in configured]
        # A due key that only reads, as after its rotation, needs none.
        self._metrics.budgets(shown, limit, [key.budget.fingerprint for key in due_keys if key.resources])
        until = max((budget.until for budget in budgets.values()), default=0)
        if until:
            self._metrics.observed(until, max(0, await self._cluster.engine.store.revision() + 1 - until))
        for key in due_alerts(due_keys, self._logged, now):
            self._logged[key.budget.fingerprint] = LoggedAlert(key.state, now)
            level, event = (_log.error, "key.exhausted") if key.is_exhausted else (_log.warning, "key.rotation_due")
            level(
                event,
                fingerprint=key.budget.fingerprint,
                used=key.budget.used,
                limit=limit,
                observed_until=key.budget.until or None,
                because=key.because(limit),
            )
