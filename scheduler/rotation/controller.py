"""Begins a rotation when a key is due, and takes the steps of the unfinished one, under the leader's lease.

A step that edits the file ends the leader's controllers; those of the next generation continue from the record.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace

import structlog

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.logs import Repetition
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.keys.alerts import DueKey, choose_key_to_rotate, find_due_keys
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.rotation.driver import RotationDriver
from kube_rewrap.scheduler.rotation.preflight import reasons_against
from kube_rewrap.scheduler.rotation.preparation import Preparation
from kube_rewrap.scheduler.rotation.request import RotationRequest
from kube_rewrap.scheduler.rotation.transition import Wait
from kube_rewrap.worker.errors import FencedError, StoppedError, WorkerError
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.usages import Usages

_PAUSE_SECONDS = 2.0
_FIRST_RETRY = 2.0
_LONGEST_RETRY = 60.0  # the preflight of a due rotation may take a scan
_log = structlog.get_logger()


class RotationController:
    """See the module's docstring."""

    def __init__(self, settings: Settings, cluster: Cluster, preparation: Preparation, driver: RotationDriver) -> None:
        self._settings = settings
        self._cluster = cluster
        self._preparation = preparation
        self._driver = driver
        self._generation = describe(cluster.generation)
        self._usages = Usages(cluster.engine.store, cluster.engine.keyspace)
        self._waiting = Repetition()
        self._begin_at, self._retry = 0.0, _FIRST_RETRY

    async def run(self) -> None:
        """Work every two seconds until cancelled.

        Raises FencedError when another scheduler leads, StoppedError when the brake is pulled.
        """
        while True:
            try:
                if self._settings.rotation.auto:
                    await self._begin_if_due()
                await self._step()
            except (FencedError, StoppedError):
                raise
            except (WorkerError, ConfigError) as error:
                # The next round continues from the record.
                self._log_waiting(str(error), is_fault=True)
            await asyncio.sleep(_PAUSE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _begin_if_due(self) -> None:
        """Begin a rotation of a due key, unless one is unfinished, or an operator aborted the one of this key."""
        earlier = [stored.value for stored in await self._driver.rotations.all()]
        now = asyncio.get_running_loop().time()
        if now < self._begin_at or any(not rotation.step.is_end for rotation in earlier):
            return
        given_up = {key.fingerprint for one in earlier if one.step is RotationStep.ABORTED for key in one.retired}
        due = await self._due(given_up)
        if due is None:
            return
        limit = self._settings.budget.gcm_limit
        request = RotationRequest(due.resources, prune=self._settings.rotation.prune, because=due.because(limit))
        rotation = await self._preparation.plan(request)
        self._begin_at, self._retry = now + self._retry, min(_LONGEST_RETRY, 2 * self._retry)
        reasons = await self._reasons_against(rotation, is_exhausted=due.is_exhausted)
        if reasons:
            names = ", ".join(due.budget.names)
            self._log_waiting(f"a rotation of {names} is due, and can't begin: {'; '.join(reasons)}")
            return
        self._begin_at, self._retry = 0.0, _FIRST_RETRY
        await self._driver.begin(rotation)

    async def _due(self, given_up: set[str]) -> DueKey | None:
        """Return the key that is to be rotated, by the budgets and the usage on record."""
        budgets, settings = await self._cluster.engine.ledger.all(), self._settings.budget
        usage = (await self._usages.load()).value
        due_keys = find_due_keys(budgets.values(), self._generation, settings.gcm_limit, settings.due_at, usage)
        return choose_key_to_rotate([key for key in due_keys if key.budget.fingerprint not in given_up])

    async def _reasons_against(self, rotation: Rotation, *, is_exhausted: bool) -> tuple[str, ...]:
        """Return why a rotation can't begin; it scans only when there is no other reason."""
        limit = self._settings.budget.gcm_limit
        facts = await self._preparation.gather(rotation, replaces_file=True)
        facts = replace(facts, is_exhausted=is_exhausted)
        reasons = reasons_against(rotation, facts, limit)
        if reasons:
            return reasons
        return reasons_against(rotation, await self._preparation.with_workload(facts, rotation), limit)

    async def _step(self) -> None:
        """Take steps until the rotation has to wait, or the file has changed.

        After a change the controllers of the next generation continue: their write observer knows the new key before
        anything encrypts with it.
        """
        while await self._driver.file_hash() == self._cluster.generation.file_hash:
            decision = await self._driver.step()
            if decision is None:
                return
            if isinstance(decision.action, Wait):
                self._log_waiting(decision.because)
                return
            self._waiting.end()

    def _log_waiting(self, because: str, *, is_fault: bool = False) -> None:
        """Log why the rotation waits, once for each reason in a row."""
        if self._waiting.begins(because):
            level = _log.warning if is_fault else _log.info
            level("rotation.waiting", because=because)
