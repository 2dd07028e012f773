"""The proof scan of a campaign, distributed: parts on record, taken by workers, added up here.

All parts are pinned to one revision, taken after the last batch ended. When etcd compacts it away
before the last part is done, all begin again at a newer one, a bounded number of times. Parts are cut by
what lies in etcd now, whether or not the campaign has batches; one that takes long is gone on with from
where its last slice of time ended.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import structlog

from kube_rewrap.scheduler.campaigns.discovery import Territory, cut
from kube_rewrap.scheduler.campaigns.run import Order, still_there
from kube_rewrap.scheduler.campaigns.service import Service
from kube_rewrap.worker.errors import CompactedError
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.records.campaign import Campaign
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange
from kube_rewrap.worker.records.proof import ProofPart, is_whole, whole
from kube_rewrap.worker.records.proofs import Proofs
from kube_rewrap.worker.records.table import Stored

PART_OBJECTS = 10_000
"""Objects that a part aims at: a second's work or so."""

_RESTARTS = 5
_log = structlog.get_logger()


class Scanners(Protocol):
    """Those who take parts of a proof."""

    async def offer_proof(self, campaign: str, numbers: Sequence[int], owned: frozenset[int]) -> None:
        """Let these parts be taken, no more than fit; those that were offered lately may be among them.

        `owned` are the parts at which somebody works.
        """


class QueueProver:
    """See Prover. For one campaign. A part is to hold about `part_objects` objects."""

    def __init__(
        self, service: Service, dispatcher: Scanners, guard: Expect, order: Order, part_objects: int = PART_OBJECTS
    ) -> None:
        self._service = service
        self._dispatcher = dispatcher
        self._order = order
        self._proofs = Proofs(service.engine.store, service.engine.keyspace, [guard])
        self._part_objects = part_objects
        self._restarts = 0
        self._has_begun = False

    async def look(self, stored: Stored[Campaign], owned: frozenset[int]) -> Inventory | None:
        """See Prover. Raises CompactedError when etcd compacts faster than the scan is."""
        name = stored.value.id
        parts = [one.value for one in await self._proofs.all(name)]
        if not is_whole(parts) or any(part.compacted for part in parts):
            await self._begin(stored, again=bool(parts))
            return None
        left = [part.number for part in parts if not part.is_done]
        if left:
            await self._dispatcher.offer_proof(name, left, owned)
            return None
        if not self._has_begun and await self._service.engine.is_compacted(parts[0].revision):
            await self._begin(stored, again=True)  # nobody led for long: it is of another time
            return None
        territory = await self._service.territory()
        if self._order.covers_everything and _is_missing_some(parts, territory):
            await self._begin(stored, again=True)  # a resource got its first object meanwhile
            return None
        # Forgotten before it is used: a later sweep must not take it for its own proof.
        await self.forget(name)
        return whole(parts, territory.unknown if self._order.covers_everything else ())

    async def forget(self, campaign: str) -> None:
        """Forget the parts: what they say is out of date, or said."""
        await self._proofs.replace_all(campaign, [])

    async def _begin(self, stored: Stored[Campaign], *, again: bool) -> None:
        self._restarts += again
        self._has_begun = True
        if self._restarts > _RESTARTS:
            raise CompactedError("etcd compacted every revision away within one proof scan; compact less often")
        store = self._service.engine.store
        revision = await store.revision()
        wanted = still_there(await self._service.territory(), self._order)
        pieces = [piece for one in wanted for piece in await cut(store, one, self._part_objects)]
        # Nothing to scan is one empty part, so that there is an end.
        ranges: list[tuple[ResourceRange, ...]] = [(piece,) for piece in pieces] or [()]
        campaign = stored.value
        parts = [
            ProofPart(campaign.id, number, revision, campaign.generation, part, of=len(ranges))
            for number, part in enumerate(ranges)
        ]
        await self._proofs.replace_all(campaign.id, parts)
        _log.info("proof.planned", **campaign.log_context(), parts=len(parts), revision=revision, again=again)


def _is_missing_some(parts: Sequence[ProofPart], territory: Territory) -> bool:
    scanned = {one.resource for part in parts for one in part.ranges}
    return any(one.resource not in scanned for one in territory.governed)
