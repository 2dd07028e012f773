"""The full check: scans every governed object at intervals, and requests a campaign for stale ones.

It finds what no record shows, such as writes while no scheduler watched. It waits while a campaign is unfinished or a
request is due.
"""

from __future__ import annotations

import asyncio
import random

import structlog

from kube_rewrap.scheduler.registry.budgets import begin_budgets
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.scheduler.upkeep.backlog import RequestBacklog
from kube_rewrap.scheduler.upkeep.figures import Figures
from kube_rewrap.worker.errors import CompactedError, KmsRefusedError, KmsUnavailableError
from kube_rewrap.worker.records.campaign import completed
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.kek import is_unheard_of
from kube_rewrap.worker.records.keks import Keks

_LOOK_SECONDS = 0.5
_RETRY_INCOMPLETE = 600.0
_RETRY_KMS = 30.0
_log = structlog.get_logger()


class Schedule:
    """When the next full check is due: at once at first, then every `every` seconds; None = only once."""

    def __init__(self, every: float | None) -> None:
        self._every = every or float("inf")
        self._at = 0.0
        self._retry = _RETRY_INCOMPLETE

    @property
    def is_due(self) -> bool:
        """Whether the interval has passed."""
        return asyncio.get_running_loop().time() >= self._at

    def soon(self) -> None:
        """Make the next check due at once: the watch may have missed a write."""
        self._at = -1.0

    def checked(self) -> None:
        """Postpone the next check by `every` seconds: everything was scanned, or will be."""
        self._at = asyncio.get_running_loop().time() + self._every

    def postponed(self) -> None:
        """Note that a check failed for a KMS plugin: another one is due in half a minute, as soon as it may work."""
        self._at = asyncio.get_running_loop().time() + _RETRY_KMS

    def campaign_ended(self, *, is_complete: bool, has_stale: bool, whole: bool) -> None:
        """Note the end of a campaign.

        For objects that it left stale, such as those of parked batches, another check is due after a delay that
        doubles each time. The proof of a complete campaign of everything replaces a check that is due at once.
        """
        if is_complete:
            self._retry = _RETRY_INCOMPLETE
            if self._at == 0.0 and whole:
                self.checked()
        elif has_stale:
            self._at = asyncio.get_running_loop().time() + min(self._every, self._retry)
            self._retry *= 2


class FullCheckController:
    """See the module's docstring."""

    def __init__(
        self, cluster: Cluster, campaigns: Campaigns, backlog: RequestBacklog, figures: Figures, schedule: Schedule
    ) -> None:
        self._cluster = cluster
        self._campaigns = campaigns
        self._backlog = backlog
        self._figures = figures
        self._schedule = schedule

    async def run(self) -> None:
        """Make a check whenever one is due, until cancelled. Raises WorkerError."""
        while True:
            await self.check_if_due()
            await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def check_if_due(self) -> bool:
        """Make the check if it is due and there is nothing else to do; returns whether it was made."""
        if not self._schedule.is_due or await self._campaigns.unfinished() or await self._backlog.next() is not None:
            return False
        await self._check()
        return True

    async def _check(self) -> None:
        self._schedule.checked()  # before the scan: a gap that is noticed during it asks for another check
        try:
            _, found = await scan_cluster(self._cluster)
        except (KmsUnavailableError, KmsRefusedError) as error:
            # The leader goes on: it also counts writes, and answers requests.
            self._schedule.postponed()
            _log.warning("full_check.postponed", because=str(error))
            return
        except CompactedError as error:
            # Another check would end like this one: the next is due after the whole interval.
            _log.warning("full_check.postponed", because=str(error))
            return
        except BaseException:
            self._schedule.soon()
            raise
        # Newly configured keys get budgets before they write, so that their writes are counted, not estimated.
        await begin_budgets(self._cluster, found.estimate())
        because = f"{found.stale} of {found.objects} objects are not under their primary key"
        _log.info(
            "full_check.finished",
            revision=found.revision,
            stale=found.stale,
            unreadable=found.unreadable,
            objects=found.objects,
            because=f"{because}, and {found.unreadable} can't be read",
        )
        await self._figures.scanned(found)
        ahead = await self._written_ahead(found)
        if ahead:
            _log.warning(
                "full_check.unknown_kek",
                objects=ahead,
                because="after a complete campaign, clients wrote them under KEKs that the plugin beside this process "
                "never named for long enough: it may be behind those of the kube-apiservers, so nothing rewrites them",
            )
        if found.stale > ahead:
            await self._backlog.ask_for_full_check(f"a full check found that {because}")

    async def _written_ahead(self, found: Inventory) -> int:
        """Return how many objects a kube-apiserver wrote under a KEK that is newer than the one in force.

        They are under a KEK of the primary's provider that was never in force, in a resource that a campaign proved to
        be under the one in force. Where none did, as on a cluster that rewrap meets first, the KEK may be an old one.
        """
        known = [stored.value for stored in await self._campaigns.all()]
        proven = completed(known, self._cluster.generation.hash)
        keks = Keks(self._cluster.engine.store, self._cluster.engine.keyspace)
        tallies = [one for one in found.resources if one.resource in proven and one.primary.is_kek]
        in_force = {name: await keks.in_force(name) for name in {one.primary.name for one in tallies}}
        return sum(
            under.objects
            for one in tallies
            for key, under in one.keys.items()
            if is_unheard_of(key, one.primary, in_force[one.primary.name])
        )
