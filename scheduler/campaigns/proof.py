"""The distributed proof scan of a campaign: parts on record, scanned by workers, added up by the scheduler.

All parts are pinned to one revision, taken after the last batch ended. When etcd compacts it away before the last part
is done, all restart at a newer one, a bounded number of times. Parts are cut by the keys in etcd now, whether or not
the campaign has batches. A part that takes more than one slice of time continues at its cursor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.discovery import cut
from kube_rewrap.scheduler.registry.scan import survey_cluster
from kube_rewrap.scheduler.registry.scope import CampaignSpec, still_there
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.errors import CompactedError
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.records.campaign import Campaign
from kube_rewrap.worker.records.followed import Followed
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange
from kube_rewrap.worker.records.proof import PART_OBJECTS, ProofPart, is_whole, whole
from kube_rewrap.worker.records.proofs import Proofs
from kube_rewrap.worker.records.table import Stored

_RESTARTS = 5
_log = structlog.get_logger()


class Scanners(Protocol):
    """Dispatches the parts of a proof."""

    async def offer_proof(self, campaign: str, numbers: Sequence[int], claimed: frozenset[int]) -> None:
        """Dispatch as many of these parts as there is room for; some may have been offered lately.

        `claimed` are the parts that a worker has claimed.
        """


class PartsProver:
    """See Prover. Serves one campaign. A part has about `part_objects` objects."""

    def __init__(
        self,
        cluster: Cluster,
        dispatcher: Scanners,
        guard: Expect,
        spec: CampaignSpec,
        part_objects: int = PART_OBJECTS,
    ) -> None:
        self._cluster = cluster
        self._dispatcher = dispatcher
        self._spec = spec
        self._proofs = Proofs(cluster.engine.store, cluster.engine.keyspace, [guard])
        self._parts = Followed(self._proofs.changed)
        self._part_objects = part_objects
        self._restarts = 0
        self._has_begun = False
        self.failing: tuple[ResourceRange, ...] = ()
        """The rest of each part that a KMS plugin's failure stopped, at the last look."""

    async def look(self, stored: Stored[Campaign], claimed: frozenset[int]) -> Inventory | None:
        """See Prover. Raises CompactedError when the scan had to restart more than `_RESTARTS` times."""
        name = stored.value.id
        parts = await self._parts.look(name)
        if all(part.is_done for part in parts):
            self._parts.forget()
            parts = await self._parts.look(name)
        self.failing = tuple(one for part in parts if part.because and not part.is_done for one in part.rest[:1])
        if not is_whole(parts) or any(part.compacted for part in parts):
            await self._begin(stored, claimed, again=bool(parts))
            return None
        left = [part.number for part in parts if not part.is_done]
        if left:
            await self._dispatcher.offer_proof(name, left, claimed)
            return None
        if not self._has_begun and await self._cluster.engine.is_compacted(parts[0].revision):
            await self._begin(stored, claimed, again=True)  # an earlier leader planned it, too long ago
            return None
        territory = await survey_cluster(self._cluster)
        if self._spec.covers_everything and _is_missing_some(parts, territory):
            await self._begin(stored, claimed, again=True)  # a resource got its first object since
            return None
        # Deleted before its use: a later sweep must not take it for its own proof.
        await self.forget(name)
        unknown = territory.unknown if self._spec.covers_everything else ()
        return whole(parts, unknown, await self._cluster.engine.keks_on_record())

    async def forget(self, campaign: str) -> None:
        """Delete the parts: they are out of date, or used."""
        await self._replace(campaign, [])

    async def _replace(self, campaign: str, parts: Sequence[ProofPart]) -> None:
        self._parts.forget()
        await self._proofs.replace_all(campaign, parts)

    async def _begin(self, stored: Stored[Campaign], claimed: frozenset[int], *, again: bool) -> None:
        self._restarts += again
        self._has_begun = True
        if self._restarts > _RESTARTS:
            raise CompactedError(
                f"etcd compacted every revision away within one proof scan, {self._restarts} times; compact less "
                "often, or run more workers; under KMS v1, raise kms.v1_rate or the cache, or move to KMS v2"
            )
        store = self._cluster.engine.store
        revision = await store.revision()
        wanted = still_there(await survey_cluster(self._cluster), self._spec)
        pieces = [piece for one in wanted for piece in await cut(store, one, self._part_objects)]
        # Without a range, plan one empty part, so that the proof ends.
        ranges: list[tuple[ResourceRange, ...]] = [(piece,) for piece in pieces] or [()]
        campaign = stored.value
        parts = [
            ProofPart(
                campaign=campaign.id,
                number=number,
                revision=revision,
                generation=campaign.generation,
                ranges=part,
                of=len(ranges),
            )
            for number, part in enumerate(ranges)
        ]
        await self._replace(campaign.id, parts)
        _log.info("proof.planned", **campaign.log_context(), parts=len(parts), revision=revision, again=again)
        await self._dispatcher.offer_proof(campaign.id, range(len(parts)), claimed)


def _is_missing_some(parts: Sequence[ProofPart], territory: Territory) -> bool:
    scanned = {one.resource for part in parts for one in part.ranges}
    return any(one.resource not in scanned for one in territory.governed)
