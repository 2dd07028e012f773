"""What the leader does about keys, beside campaigns: says how worn they are, and drives the rotation.

A rotation changes the file, which ends the reign; the next one goes on with what is on record.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import structlog

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.repairs import Repaired
from kube_rewrap.scheduler.campaigns.service import Service
from kube_rewrap.scheduler.dispatch.local import describe
from kube_rewrap.scheduler.keys.alerts import Said, Worn, judge_wear, to_rotate, to_say
from kube_rewrap.scheduler.keys.meter import Known, Meter
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.rotation.driver import Order, Rotator
from kube_rewrap.scheduler.rotation.preflight import reasons_against
from kube_rewrap.scheduler.rotation.preparation import Preparation
from kube_rewrap.scheduler.rotation.transition import Wait
from kube_rewrap.worker.errors import FencedError, StoppedError, WorkerError
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.rotation import Rotation, RotationStep

_LOOK_SECONDS = 2.0
_FIRST_PAUSE = 2.0
_LONGEST_PAUSE = 60.0  # what speaks against a rotation may take a scan to find out
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outlets:
    """Where is told how worn keys are, and what repairs of drift came to.

    `said` and `repaired` outlive a reign: a new file is no reason to say all of it again.
    """

    metrics: SchedulerMetrics
    said: dict[str, Said] = field(default_factory=dict)
    repaired: Repaired = field(default_factory=Repaired)


@dataclass(frozen=True, slots=True)
class Hands:
    """What a keeper works with: what measures the use of keys, what looks before a rotation, and what takes steps."""

    meter: Meter
    preparation: Preparation
    rotator: Rotator


class Keeper:
    """See the module's docstring."""

    def __init__(self, settings: Settings, service: Service, hands: Hands, outlets: Outlets) -> None:
        self._settings = settings
        self._service = service
        self._hands = hands
        self._metrics = outlets.metrics
        self._generation = describe(service.generation)
        self._said = outlets.said
        self._waited_for = ""
        self._limit = settings.budget.gcm_limit
        self._begin_at, self._pause = 0.0, _FIRST_PAUSE

    async def run(self) -> None:
        """Look again and again until cancelled.

        Raises FencedError when somebody else leads by now, StoppedError at the end of the reign.
        """
        while True:
            try:
                await self.look()
            except (FencedError, StoppedError):
                raise
            except (WorkerError, ConfigError) as error:
                # What is on record is where the next look goes on.
                self._tell_waiting(str(error), is_fault=True)
            await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def look(self) -> None:
        """Say what is to be said of keys, begin a rotation if one is due, and take its next step."""
        settings = self._settings
        budgets = await self._service.engine.ledger.all()
        limit, due_at = self._limit, settings.budget.due_at
        rotations = tuple([stored.value for stored in await self._hands.rotator.rotations.all()])
        now = asyncio.get_running_loop().time()
        usage = await self._hands.meter.measure(Known(now, time.time(), budgets, rotations, self._generation, limit))
        worn = judge_wear(budgets.values(), self._generation, limit, due_at, usage)
        hasty = [one.budget.fingerprint for one in worn if one.haste is not None]
        self._metrics.budgets(budgets, limit, due_at, hasty)
        until = max((budget.until for budget in budgets.values()), default=0)
        if until:
            self._metrics.observed(until, max(0, await self._service.engine.store.revision() + 1 - until))
        for one in to_say(worn, self._said, now):
            self._said[one.budget.fingerprint] = Said(one.state, now)
            level, event = (_log.error, "key.exhausted") if one.is_exhausted else (_log.warning, "key.rotation_due")
            level(
                event,
                fingerprint=one.budget.fingerprint,
                used=one.budget.used,
                limit=limit,
                observed_until=one.budget.until or None,
                because=one.because(limit),
            )
        if settings.rotation.auto:
            await self._begin_if_due(worn, budgets.values(), rotations)
        await self._step()

    async def _begin_if_due(self, worn: Sequence[Worn], budgets: Iterable[Budget], earlier: Sequence[Rotation]) -> None:
        """Begin a rotation of a due key, unless one is under way, or an operator aborted the one of this key."""
        if any(not rotation.step.is_end for rotation in earlier):
            return
        given_up = {key.fingerprint for one in earlier if one.step is RotationStep.ABORTED for key in one.retired}
        due = to_rotate([one for one in worn if one.budget.fingerprint not in given_up])
        now = asyncio.get_running_loop().time()
        if due is None or now < self._begin_at:
            return
        order = Order(due.resources, prune=self._settings.rotation.prune, because=due.because(self._limit))
        rotation = await self._hands.rotator.plan(order, budgets, self._service.is_idle)
        self._begin_at, self._pause = now + self._pause, min(_LONGEST_PAUSE, 2 * self._pause)
        reasons = await self._reasons_against(rotation, is_exhausted=due.is_exhausted)
        if reasons:
            names = ", ".join(due.budget.names)
            self._tell_waiting(f"a rotation of {names} is due, and can't begin: {'; '.join(reasons)}")
            return
        self._begin_at, self._pause = 0.0, _FIRST_PAUSE
        await self._hands.rotator.begin(rotation)

    async def _reasons_against(self, rotation: Rotation, *, is_exhausted: bool) -> tuple[str, ...]:
        """Return why a rotation can't begin; everything is scanned only when nothing else speaks against it."""
        preparation = self._hands.preparation
        ground = replace(await preparation.look(rotation), is_exhausted=is_exhausted)
        reasons = reasons_against(rotation, ground, self._limit)
        if reasons:
            return reasons
        ground = replace(ground, scale=await preparation.scan(rotation))
        return reasons_against(rotation, ground, self._limit)

    async def _step(self) -> None:
        """Take the rotation's next steps, until one has to wait, or has changed the file.

        The next reign goes on then: its observer knows the new key, and counts what it writes from the
        first time on.
        """
        while await self._hands.rotator.file_hash() == self._service.generation.hash:
            decided = await self._hands.rotator.step()
            if decided is None:
                return
            if isinstance(decided.action, Wait):
                self._tell_waiting(decided.because)
                return
            self._waited_for = ""

    def _tell_waiting(self, because: str, *, is_fault: bool = False) -> None:
        if because != self._waited_for:
            self._waited_for = because
            level = _log.warning if is_fault else _log.info
            level("rotation.waiting", because=because)
