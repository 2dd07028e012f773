"""Campaign records, and the end of old ones."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace

from kube_rewrap.worker.errors import RecordChangedError, TemporaryError
from kube_rewrap.worker.etcd.ranges import KeyRange, key_text
from kube_rewrap.worker.etcd.store import Delete, Expect, Item, Put, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.codec import damaged, decode, require_place
from kube_rewrap.worker.records.keyspace import Keyspace

KEPT = 10
"""Ended campaigns whose records are kept, for whoever asks what happened; beside them, the last complete ones."""

_ATTEMPTS = 20


@dataclass(frozen=True, slots=True)
class StoredCampaign:
    """A campaign as read, with the mod_revision that the next write must find."""

    campaign: Campaign
    revision: int


class Campaigns:
    """The campaigns of one state prefix; every write is fenced by the guards of its owner."""

    def __init__(self, store: Store, keyspace: Keyspace, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._keyspace = keyspace
        self._guards = tuple(guards)

    async def all(self) -> list[StoredCampaign]:
        """Return all campaigns that can be read, oldest first."""
        return [stored async for stored in record.read_each(self._store, self._keyspace.campaigns, self._stored)]

    async def unreadable(self) -> list[tuple[str, str]]:
        """Return the names of the campaigns that can't be read, and why."""
        return await record.unreadable(self._store, self._keyspace.campaigns, self._stored)

    def _stored(self, item: Item, fields: dict[str, object]) -> StoredCampaign:
        try:
            campaign = Campaign.from_json(fields)
        except ValueError as error:
            raise damaged(item.key, error) from None
        require_place(item.key, self._keyspace.campaign(campaign.id))
        return StoredCampaign(campaign, item.mod_revision)

    async def get(self, name: str) -> StoredCampaign | None:
        """Return one campaign, None where there is none. Raises RecordError for a damaged one."""
        item = await self._store.get(self._keyspace.campaign(name))
        return None if item is None else self._stored(item, decode(item.key, item.value))

    async def unfinished(self) -> list[StoredCampaign]:
        """Return the campaigns that have not ended, oldest first."""
        return [stored for stored in await self.all() if not stored.campaign.state.is_end]

    async def change(self, name: str, change: Callable[[Campaign], Campaign], *along: Put) -> Campaign | None:
        """Apply a pure change by compare-and-swap, again when somebody else was faster; None if there is none.

        The change may be called more than once, and may raise to refuse.
        """
        for _ in range(_ATTEMPTS):
            stored = await self.get(name)
            if stored is None:
                return None
            changed = change(stored.campaign)
            if changed == stored.campaign and not along:
                return changed
            try:
                return (await self._write(replace(stored, campaign=changed), *along)).campaign
            except RecordChangedError:
                await asyncio.sleep(random.uniform(0, 0.02))  # noqa: S311 - jitter
        raise TemporaryError(f"the campaign {name} is changed too often by others", delay=1.0)

    async def create(self, campaign: Campaign, batches: Sequence[Checkpoint]) -> StoredCampaign:
        """Record a campaign. Its batches come first: a campaign that can be seen is whole."""
        checkpoints = Checkpoints(self._store, self._keyspace, self._guards)
        for batch in batches:
            await checkpoints.save(batch, 0)
        return await self.save(StoredCampaign(campaign, 0))

    async def save(self, stored: StoredCampaign) -> StoredCampaign:
        """Write a campaign over the version that was read. Raises FencedError."""
        return await self._write(stored)

    async def save_without_quarantine(self, stored: StoredCampaign) -> StoredCampaign:
        """Write a campaign and empty its quarantine in one: a new sweep begins, or a proof found nothing wrong.

        Raises FencedError.
        """
        return await self._write(stored, Delete(self._keyspace.quarantine(stored.campaign.id)))

    async def _write(self, stored: StoredCampaign, *along: Put | Delete) -> StoredCampaign:
        key = self._keyspace.campaign(stored.campaign.id)
        fields = stored.campaign.to_json()
        if stored.campaign.state.is_end:
            # Workers that have not noticed yet are fenced: their swaps compare their claims. A proof is over, too.
            name = stored.campaign.id
            along = (*along, Delete(self._keyspace.claims(name)), Delete(self._keyspace.proofs(name)))
        revision = await record.write(self._store, key, fields, stored.revision, guards=self._guards, along=along)
        return StoredCampaign(stored.campaign, revision)

    async def forget_old(self) -> None:
        """Delete ended campaigns but the newest `KEPT` of either end, and what no campaign on record owns.

        However many fail after it, the last ones that a proof found complete stay, and the last that proved
        everything; and however many repairs of drift there are, of which as many are kept, they push no other one out.

        What nobody owns is left behind when a process dies between a campaign's batches and its record.
        """
        campaigns = await self.all()
        ended = [stored.campaign for stored in campaigns if stored.campaign.state.is_end]
        repairs = [campaign.id for campaign in ended if campaign.wish.repair]
        complete = [one.id for one in ended if one.state is CampaignState.COMPLETE and not one.wish.repair]
        others = [one.id for one in ended if one.state is not CampaignState.COMPLETE and not one.wish.repair]
        # What everything rests on: neither parts of it nor a configuration that governed more push it out.
        whole = [one.id for one in ended if one.state is CampaignState.COMPLETE and one.whole]
        old = {*repairs[:-KEPT], *complete[:-KEPT], *others[:-KEPT]} - {*whole[-1:]}
        for name in sorted(old):
            await self._store.commit(self._guards, [Delete.of_key(self._keyspace.campaign(name))])
        # By their keys: what belongs to a campaign whose record can't be read stays, for whoever restores it.
        kept = {key_text(item.key[len(self._keyspace.campaigns.start) :]) async for item in self._items()} - old
        for records in self._keyspace.of_campaigns:
            await self._forget_all_but(kept, records)

    async def forget_quarantines_but(self, names: set[str]) -> None:
        """Forget which objects other campaigns left alone; how many, and why, stays in their batches' records."""
        await self._forget_all_but(names, self._keyspace.quarantines)

    def _items(self) -> AsyncIterator[Item]:
        return record.read_items(self._store, self._keyspace.campaigns)

    async def _forget_all_but(self, kept: set[str], records: KeyRange) -> None:
        rest = records
        while keys := (await self._store.keys(rest, 1))[0]:
            name = keys[0][len(records.start) :].split(b"/")[0]
            mine = KeyRange.of_prefix(records.start + name + b"/")
            if key_text(name) not in kept:
                await self._store.commit(self._guards, [Delete(mine)])
            rest = rest.since(mine.end)
