"""The proof scan of a campaign, distributed: parts on record, taken by workers, added up here.

All parts are pinned to one revision, taken after the last batch ended. When etcd compacts it away
before the last part is done, all begin again at a newer one, a bounded number of times.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from typing import Protocol

import structlog

from scheduler.census import Territory
from scheduler.run import Order, choose
from scheduler.service import Service
from worker.errors import CompactedError
from worker.etcd.store import Expect
from worker.model.batch import Checkpoint
from worker.model.inventory import Inventory, ResourceRange
from worker.model.keys import KeyRange
from worker.model.proof import ProofPart, whole
from worker.state.campaigns import StoredCampaign
from worker.state.proofs import Proofs

PART_OBJECTS = 10_000
"""Objects that a part aims at: a second's work or so."""

_RESTARTS = 5
_log = structlog.get_logger()


class Scanners(Protocol):
    """Those who take parts of a proof."""

    async def offer_proof(self, campaign: str, numbers: Sequence[int]) -> None:
        """Let these parts be taken; those that were offered lately may be among them."""


class QueueProver:
    """See Prover. For one campaign."""

    def __init__(self, service: Service, dispatcher: Scanners, guard: Expect, order: Order) -> None:
        self._service = service
        self._dispatcher = dispatcher
        self._order = order
        self._proofs = Proofs(service.engine.store, service.engine.keyspace, [guard])
        self._restarts = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing that is governed is left out."""
        return self._order.covers_everything

    async def look(self, stored: StoredCampaign, batches: Sequence[Checkpoint]) -> Inventory | None:
        """See Prover. Raises CompactedError when etcd compacts faster than the scan is."""
        name = stored.campaign.id
        parts = [one.part for one in await self._proofs.all(name)]
        if not parts or parts[0].number != 0 or any(part.compacted for part in parts):
            await self._begin(stored, batches, again=bool(parts))
            return None
        left = [part.number for part in parts if not part.is_done]
        if left:
            await self._dispatcher.offer_proof(name, left)
            return None
        territory = await self._service.territory()
        if self._order.covers_everything and _is_missing_some(parts, territory):
            await self._begin(stored, batches, again=True)  # a resource got its first object meanwhile
            return None
        # Forgotten before it is used: a later sweep must not take it for its own proof.
        await self.forget(name)
        return whole(parts, territory.unknown if self._order.covers_everything else ())

    async def forget(self, campaign: str) -> None:
        """Forget the parts: what they say is out of date, or said."""
        await self._proofs.replace_all(campaign, [])

    async def _begin(self, stored: StoredCampaign, batches: Sequence[Checkpoint], *, again: bool) -> None:
        self._restarts += again
        if self._restarts > _RESTARTS:
            raise CompactedError("etcd compacted every revision away within one proof scan; compact less often")
        revision = await self._service.engine.store.revision()
        territory = await self._service.territory()
        ranges = divide(choose(territory, _present(territory, self._order)), batches)
        campaign = stored.campaign
        parts = [
            ProofPart(campaign.id, number, revision, campaign.generation, part) for number, part in enumerate(ranges)
        ]
        await self._proofs.replace_all(campaign.id, parts)
        _log.info("proof.planned", **campaign.log_context(), parts=len(parts), revision=revision, again=again)


def _present(territory: Territory, order: Order) -> Order:
    """Return the order without resources of which the last object is gone: there is nothing to scan."""
    governed = {one.resource for one in territory.governed}
    return replace(order, resources=tuple(name for name in order.resources if name in governed))


def divide(wanted: Sequence[ResourceRange], batches: Sequence[Checkpoint]) -> list[tuple[ResourceRange, ...]]:
    """Cut what is to be scanned where batches begin, so that each part holds about PART_OBJECTS objects. Pure."""
    cuts: dict[str, list[bytes]] = {}
    for resource, group in groupby(batches, key=lambda batch: batch.spec.resource):
        held = 0
        for batch in group:
            if held >= PART_OBJECTS:
                cuts.setdefault(resource, []).append(batch.spec.range.start)
                held = 0
            held += batch.spec.objects
    pieces = [piece for one in wanted for piece in _cut(one, cuts.get(one.resource, []))]
    return [(piece,) for piece in pieces] or [()]


def _cut(one: ResourceRange, cuts: Sequence[bytes]) -> list[ResourceRange]:
    inner = [cut for cut in sorted(cuts) if one.range.start < cut < one.range.end]
    starts, ends = [one.range.start, *inner], [*inner, one.range.end]
    return [ResourceRange(one.resource, KeyRange(start, end)) for start, end in zip(starts, ends, strict=True)]


def _is_missing_some(parts: Sequence[ProofPart], territory: Territory) -> bool:
    scanned = {one.resource for part in parts for one in part.ranges}
    return any(one.resource not in scanned for one in territory.governed)
