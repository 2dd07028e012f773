"""Gathers the facts that a rotation's decisions need, one method a fact.

The leader and `rewrap rotate` differ in one of them: the leader's campaign controller runs campaigns, and its probe
reads their records; `rewrap rotate` runs the campaign itself (`standalone.py`).
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime

from kube_rewrap.config.encryption.generation import NO_TARGETS
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.apiservers.probe import ConvergenceProbe
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.scheduler.rotation.transition import CampaignOutcome, ScanResult
from kube_rewrap.scheduler.upkeep.backlog import RequestBacklog
from kube_rewrap.worker.errors import CompactedError
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaign import CampaignState
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.proof_counts import ProofCounts
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.verdict import KeyRef

_SCAN_SECONDS = 5.0
"""Least time between two scans for one rotation: a second scan at once seldom finds anything else."""

_FIRST_PAUSE = 60.0
_LONGEST_PAUSE = 1_800.0
"""A scan that etcd's compactions outrun took many minutes, and under KMS v1 calls to the plugin for each object."""

_SCANNING = {RotationStep.PROVE, RotationStep.COMPACT, RotationStep.PRUNE}
"""Steps whose scan may return the rotation to the rewrap."""


class ClusterProbe(ABC):
    """Gathers facts about the cluster. Every method raises the brake's reason once it is pulled, and WorkerError."""

    def __init__(self, cluster: Cluster, apiservers: ConvergenceProbe, brake: Brake) -> None:
        self._cluster = cluster
        self._apiservers = apiservers
        self._brake = brake
        self._next_scan = 0.0
        self._pause = _FIRST_PAUSE
        self._compacted = ""

    @abstractmethod
    async def campaign(self, rotation: Rotation) -> CampaignOutcome:
        """Cause a campaign under the rotation's file if there is none, and return its outcome so far."""

    async def convergence(self, rotation: Rotation) -> Convergence:
        """Return whether all kube-apiservers run the rotation's file, and write under the KEKs that are in force."""
        generation = self._cluster.generation
        targets = generation.targets if rotation.file == generation.file_hash else NO_TARGETS
        return await self._apiservers.probe(rotation.file, targets)

    async def scan(self, rotation: Rotation) -> ScanResult:
        """Decrypt every governed object at one revision, taken now, and count them by key.

        Raises CompactedError as `scan_cluster` does, and after that for a while at once: the pause doubles each time.
        """
        loop = asyncio.get_running_loop()
        if self._compacted and loop.time() < self._next_scan:
            raise CompactedError(self._compacted)
        await self._brake.unless_pulled(asyncio.sleep(max(0.0, self._next_scan - loop.time())))
        try:
            _, found = await self._brake.unless_pulled(scan_cluster(self._cluster))
        except CompactedError as error:
            self._compacted = f"the next scan begins in {self._pause / 60:g} min: {error}"
            self._next_scan, self._pause = loop.time() + self._pause, min(_LONGEST_PAUSE, 2 * self._pause)
            raise CompactedError(self._compacted) from None
        self._next_scan, self._pause, self._compacted = loop.time() + _SCAN_SECONDS, _FIRST_PAUSE, ""
        used = 0 if rotation.stanza else await self._used(rotation)
        under_retired, under_new = _under_retired(found, rotation), _under_new(found, rotation)
        return ScanResult(
            found.revision, found.stale, under_retired, found.unreadable, under_new, used, ProofCounts.of(found)
        )

    async def _used(self, rotation: Rotation) -> int:
        """Return how often the new key has encrypted, by its budget; an unknown number counts as use."""
        budget = (await self._cluster.engine.ledger.all()).get(rotation.fingerprint)
        return 1 if budget is None or budget.restored else budget.used

    async def is_compacted(self, revision: int) -> bool:
        """Return whether etcd refuses to answer at every revision before this one."""
        return await self._cluster.engine.is_compacted(revision - 1)


class LeaderProbe(ClusterProbe):
    """Of a leader, whose campaign controller begins a campaign when the file changes."""

    def __init__(
        self,
        cluster: Cluster,
        apiservers: ConvergenceProbe,
        brake: Brake,
        campaigns: Campaigns,
        backlog: RequestBacklog,
    ) -> None:
        super().__init__(cluster, apiservers, brake)
        self._campaigns = campaigns
        self._backlog = backlog

    async def convergence(self, rotation: Rotation) -> Convergence:
        """See ClusterProbe. Requests that wait for convergence become due when it is found."""
        found = await super().convergence(rotation)
        if found.is_converged and rotation.file == self._cluster.generation.file_hash:
            self._backlog.converged()
        return found

    async def campaign(self, rotation: Rotation) -> CampaignOutcome:
        """See ClusterProbe."""
        entered = rotation.passed[-1].at if rotation.passed else ""
        if rotation.passed and rotation.passed[-1].step in _SCANNING:
            # One request for each return to the rewrap, however often it is made.
            at = datetime.fromisoformat(entered)
            reason = "a rotation's scan found objects under another key"
            await self._backlog.ask_for_rotation(reason, f"rotation-{rotation.id}-{at:%Y%m%d%H%M%S}")
        unfinished = await self._campaigns.unfinished()
        if unfinished:
            one = unfinished[0].value
            return CampaignOutcome(None, f"the campaign {one.id} is {one.state.value}: {one.because}")
        if (waiting := await self._backlog.waiting_for_us()) is not None:
            return CampaignOutcome(None, f"the request {waiting.id} waits: {waiting.because or waiting.options.reason}")
        generation = self._cluster.generation
        mine = generation.hash if rotation.file == generation.file_hash else rotation.file
        ended = [one.value for one in await self._campaigns.all() if one.value.generation == mine]
        if not ended:
            await self._backlog.ask_for_rotation("a rotation needs everything under the new key")
            return CampaignOutcome(None, "a campaign was requested")
        last = ended[-1]
        if last.state is CampaignState.INCOMPLETE and last.ended_at > entered:
            return CampaignOutcome(None, f"the campaign {last.id} is incomplete: {last.because}")
        return CampaignOutcome(True, f"the campaign {last.id} is {last.state.value}: {last.because}")


def _under_retired(found: Inventory, rotation: Rotation) -> int:
    """Count objects of the rotation's resources under the old keys, and unreadable ones that may be."""
    count = 0
    for tally in found.resources:
        if _is_one_of(tally.primary, rotation.retired):
            continue  # an entry outside the rotation may keep the key as its primary
        count += sum(under.objects for key, under in tally.keys.items() if _is_one_of(key, rotation.retired))
        count += sum(objects for key, objects in tally.claimed.items() if _is_one_of(key, rotation.retired))
    return count


def _under_new(found: Inventory, rotation: Rotation) -> int:
    """Count objects under the new key, and unreadable ones that may be."""
    counts = [(key, under.objects) for tally in found.resources for key, under in tally.keys.items()]
    counts += [item for tally in found.resources for item in tally.claimed.items()]
    return sum(count for key, count in counts if _is_one_of(key, rotation.new_keys))


def _is_one_of(key: KeyRef, keys: Sequence[KeyRef]) -> bool:
    return any(one.covers(key) for one in keys)
