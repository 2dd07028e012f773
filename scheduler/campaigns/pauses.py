"""Pauses and resumes a campaign by etcd's quota, the keys' write budgets and the maintenance windows."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import structlog

from kube_rewrap.config.settings.maintenance import parse_maintenance_windows
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.budgets import why_exhausted
from kube_rewrap.scheduler.campaigns.cluster import Cluster
from kube_rewrap.scheduler.campaigns.pausing import Pressure, judge_pause, judge_room
from kube_rewrap.worker.errors import RecordError, WorkerError
from kube_rewrap.worker.rate.pressure import judge_space
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause
from kube_rewrap.worker.records.campaigns import Campaigns

_log = structlog.get_logger()


class PauseController:
    """See the module's docstring. `campaigns` are fenced by the leader's token."""

    def __init__(self, settings: Settings, cluster: Cluster, campaigns: Campaigns) -> None:
        self._settings = settings
        self._cluster = cluster
        self._campaigns = campaigns
        self._windows = parse_maintenance_windows(settings.pace.windows, settings.pace.time_zone)

    async def reconcile(self, name: str) -> None:
        """Check etcd's room, the budgets and the windows, and record the pause or resumption that follows."""
        try:
            stored = await self._campaigns.get(name)
        except RecordError:
            return  # the loop's round reports it, and leaves the campaign
        if stored is None:
            return
        try:
            pressure = await self._pressure(stored.value)
        except WorkerError as error:
            _log.warning("space.unknown", because=str(error))
            return
        judged = judge_pause(stored.value, pressure)
        if judged == stored.value:
            return
        changed = await self._campaigns.change(name, lambda campaign: judge_pause(campaign, pressure))
        if changed is not None:
            event = "campaign.paused" if changed.state is CampaignState.PAUSED else "campaign.continued"
            _log.warning(event, **changed.log_context(), cause=changed.paused_for, because=changed.because)
            await self._cluster.audit.append(event, name, because=changed.because)

    async def _pressure(self, campaign: Campaign) -> Pressure:
        store, settings = self._cluster.engine.store, self._settings
        room = judge_space(await store.members(), await store.alarms(), 0, settings.space)
        return Pressure(
            judge_room(room, settings.space, campaign.paused_for),
            await why_exhausted(self._cluster, campaign.scope) if campaign.paused_for is Pause.BUDGET else None,
            self._closed(datetime.now(UTC)),
        )

    def _closed(self, now: datetime) -> str | None:
        if self._windows.is_open(now):
            return None
        opening = self._windows.next_opening(now) or now + timedelta(days=1)
        return f"outside the maintenance windows (--window); the next opens at {opening.isoformat(timespec='minutes')}"
