"""Pauses and resumes a campaign by etcd's quota, the keys' write budgets, KMS plugins and the maintenance windows."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import structlog

from kube_rewrap.config.settings.maintenance import parse_maintenance_windows
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.pausing import Pressure, Standstill, judge_pause, judge_room
from kube_rewrap.scheduler.engine import ask_why_away
from kube_rewrap.scheduler.registry.budgets import why_exhausted
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.errors import RecordError, WorkerError
from kube_rewrap.worker.rate.pressure import judge_space
from kube_rewrap.worker.records.batch import BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.inventory import ResourceRange

_ASK_SECONDS = 20.0
_TRIED = 5
"""Ranges whose keys are tried."""
_REST_SECONDS = 60.0

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Rest:
    """Until when, by the loop's clock, a campaign rests for the plugins of its workers."""

    campaign: str = ""
    until: float = 0.0
    because: str = ""


class PauseController:
    """See the module's docstring. `campaigns` are fenced by the leader's token.

    `held` returns why no object may be written under a KMS provider, "" = objects may be.
    """

    def __init__(self, settings: Settings, cluster: Cluster, campaigns: Campaigns, held: Callable[[], str]) -> None:
        self._settings = settings
        self._cluster = cluster
        self._campaigns = campaigns
        self._held = held
        self._away, self._ask_at = "", 0.0
        self._stopped: list[ResourceRange] = []
        self._standstill = Standstill(0.0)
        self._rest = _Rest()
        self._windows = parse_maintenance_windows(settings.pace.windows, settings.pace.time_zone)

    async def reconcile(
        self, name: str, batches: Iterable[Checkpoint] = (), unproven: Iterable[ResourceRange] = ()
    ) -> None:
        """Check etcd's room, the budgets, KMS plugins and the windows; record the pause or resumption that follows.

        `batches` are the campaign's, as far as they are known, `unproven` the ranges whose proof a plugin's failure
        stopped.
        """
        batches = tuple(batches)
        failing = [one for one in batches if one.because and one.state is not BatchState.DONE]
        stopped = [*(ResourceRange(one.spec.resource, one.rest) for one in failing), *unproven]
        self._stopped = stopped[:_TRIED] or self._stopped
        try:
            stored = await self._campaigns.get(name)
        except RecordError:
            return  # the loop's round reports it, and leaves the campaign
        if stored is None:
            return
        try:
            if not stopped and stored.value.paused_for is not Pause.KMS:
                self._stopped = []
            pressure = await self._pressure(stored.value, batches)
        except WorkerError as error:
            _log.warning("space.unknown", because=str(error))
            return
        judged = judge_pause(stored.value, pressure)
        if judged == stored.value:
            return
        changed = await self._campaigns.change(name, lambda campaign: judge_pause(campaign, pressure))
        if changed is not None:
            event = "campaign.paused" if changed.state is CampaignState.PAUSED else "campaign.continued"
            # A maintenance window ends every day, and nothing is wrong.
            level = _log.info if changed.paused_for in {None, Pause.WINDOW} else _log.warning
            level(event, **changed.log_context(), cause=changed.paused_for, because=changed.because)
            await self._cluster.audit.append(event, name, because=changed.because)

    async def _pressure(self, campaign: Campaign, batches: Sequence[Checkpoint]) -> Pressure:
        away = await self._why_away(campaign) or None
        store, settings = self._cluster.engine.store, self._settings
        room = judge_space(await store.members(), await store.alarms(), 0, settings.space)
        return Pressure(
            judge_room(room, settings.space, campaign.paused_for),
            await why_exhausted(self._cluster, campaign.scope) if campaign.paused_for is Pause.BUDGET else None,
            self._closed(datetime.now(UTC)),
            self._held() or away or self._why_workers_stand_still(campaign, batches),
            away,
        )

    def _why_workers_stand_still(self, campaign: Campaign, batches: Sequence[Checkpoint]) -> str | None:
        """Return why a campaign is to rest for `_REST_SECONDS`, since the plugins of all workers fail.

        The leader can't ask those plugins: after that time the campaign goes on, and the workers try again.
        """
        now = asyncio.get_running_loop().time()
        if campaign.id == self._rest.campaign and now < self._rest.until:
            return self._rest.because
        if campaign.state is not CampaignState.RUNNING:
            self._standstill = Standstill(now)
            return None
        self._standstill = self._standstill.seen(campaign.id, batches, now)
        if because := self._standstill.why(batches, now):
            self._rest = _Rest(campaign.id, now + _REST_SECONDS, because)
        return because or None

    async def _why_away(self, campaign: Campaign) -> str:
        """Return why KMS plugins do not serve, asked every `_ASK_SECONDS` while work fails or the campaign rests.

        They are asked by real calls, with keys of the objects at which the work stopped: Status may be healthy while
        calls fail. Not asked otherwise: a plugin of which no object needs a key must not hold a campaign up. `held`
        knows only the plugins of providers that write.
        """
        if not self._cluster.generation.kms_providers or not (self._stopped or campaign.paused_for is Pause.KMS):
            self._away = ""
        elif (now := asyncio.get_running_loop().time()) >= self._ask_at:
            samples = await self._cluster.engine.wrapped_keys(self._stopped)
            self._away = await ask_why_away(self._settings, self._cluster.generation, samples)
            self._ask_at = now + _ASK_SECONDS
        return self._away

    def _closed(self, now: datetime) -> str | None:
        if self._windows.is_open(now):
            return None
        opening = self._windows.next_opening(now) or now + timedelta(days=1)
        return f"outside the maintenance windows (--window); the next opens at {opening.isoformat(timespec='minutes')}"
