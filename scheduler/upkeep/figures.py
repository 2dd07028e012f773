"""Shows scans and campaigns in metrics and log, and records the last scan of everything."""

from __future__ import annotations

import time

import structlog

from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.history import accepted_at, last_proof
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.scan import Scan
from kube_rewrap.worker.records.scans import Scans

_log = structlog.get_logger()


class Figures:
    """See the module's docstring. Shows figures of the present generation only."""

    def __init__(self, cluster: Cluster, guard: Expect, metrics: SchedulerMetrics) -> None:
        store, keyspace = cluster.engine.store, cluster.engine.keyspace
        self._cluster = cluster
        self._metrics = metrics
        self._campaigns = Campaigns(store, keyspace, [guard])
        self._checkpoints = Checkpoints(store, keyspace)
        self._scans = Scans(store, keyspace, [guard])
        self._shown: dict[bool, tuple[str, CampaignState]] = {}

    async def show_records(self) -> None:
        """Show the recorded figures of this generation: the last scan, the last proof, and campaigns."""
        scan = await self._scans.load()
        in_force = scan is not None and scan.generation == self._cluster.generation.hash
        if scan is not None and in_force and scan.revision > await accepted_at(self._cluster):
            self._metrics.scanned(scan)
            _log_unreadable(scan)
        proof = await last_proof(self._cluster)
        if proof is not None:
            self._metrics.proven(proof)
        await self.show_campaigns()

    async def show_campaigns(self) -> None:
        """Show the newest campaign of everything, and the newest of a part, if their state has changed."""
        campaigns = [stored.value for stored in await self._campaigns.all()]
        mine = [campaign for campaign in campaigns if campaign.generation == self._cluster.generation.hash]
        for campaign in {one.whole: one for one in mine}.values():
            if self._shown.get(campaign.whole) == (campaign.id, campaign.state):
                continue
            batches = [one.value async for one in self._checkpoints.all(campaign.id)]
            self.show_campaign(campaign, batches, 0.0)

    def show_campaign(
        self,
        campaign: Campaign,
        batches: list[Checkpoint],
        rate: float,
        *,
        seconds_left: float | None = None,
    ) -> None:
        """Show the progress of a campaign, as `SchedulerMetrics.campaign` does."""
        self._metrics.campaign(campaign, batches, rate, whole=campaign.whole, seconds_left=seconds_left)
        self._shown[campaign.whole] = campaign.id, campaign.state

    async def scanned(self, found: Inventory) -> None:
        """Record and show the result of a scan of everything, and log what it could not read."""
        generation, known = self._cluster.generation.hash, await self._scans.load()
        if known is not None and known.generation == generation and known.revision > found.revision:
            return  # a later scan ended first
        scan = Scan.of(found, generation, time.time(), known)
        await self._scans.replace(scan)
        self._metrics.scanned(scan)
        _log_unreadable(scan)


def _log_unreadable(scan: Scan) -> None:
    """Log what a scan of everything could not read, by resource and reason."""
    for one in scan.unreadable:
        _log.error(
            "scan.unreadable",
            resource=one.resource,
            reason=one.reason.value,
            objects=one.objects,
            revision=scan.revision,
            because=f"{one.objects} objects of {one.resource} can't be read: {one.reason.value}",
        )
