"""The records of campaigns, and the deletion of old ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import aclosing
from operator import attrgetter

from kube_rewrap.worker.etcd.pages import read_keys
from kube_rewrap.worker.etcd.ranges import KeyRange, key_bytes, key_text
from kube_rewrap.worker.etcd.store import Delete, Put
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.table import Change, Stored, Table

KEPT = 10
"""Ended campaigns that `forget_old` keeps of each kind: complete, other, and repairs of drift."""


class Campaigns(Table[Campaign]):
    """All campaigns of one state prefix."""

    _kind = Campaign

    def _key(self, value: Campaign) -> bytes:
        return self._keyspace.campaign(value.id)

    async def all(self) -> list[Stored[Campaign]]:
        """Return all readable campaigns, oldest first."""
        return (await self.all_or_why())[0]

    async def all_or_why(self) -> tuple[list[Stored[Campaign]], list[tuple[str, str]]]:
        """Return what `all` does, and the name of each unreadable campaign with the reason."""
        return await self._sorted(self._keyspace.campaigns)

    async def get(self, name: str) -> Stored[Campaign] | None:
        """Return one campaign, None if there is none. Raises RecordError for a damaged one."""
        return await self._at(self._keyspace.campaign(name))

    async def unfinished(self) -> list[Stored[Campaign]]:
        """Return the readable campaigns that have not ended, oldest first."""
        return [stored for stored in await self.all() if not stored.value.state.is_end]

    async def change(self, name: str, change: Callable[[Campaign], Campaign], *along: Put) -> Campaign | None:
        """Apply a pure change by compare-and-swap, and repeat it after each lost one; None if no such campaign exists.

        `change` may be called more than once, and may raise to refuse.
        """
        changed = await self._update(self._keyspace.campaign(name), change, *along, may_write_twice=True)
        return changed.value if changed else None

    async def change_once(self, name: str, change: Callable[[Campaign], Campaign], *along: Put) -> Campaign | None:
        """As `change`, for what must not be applied twice. Raises RecordUnclearError when it may have been applied."""
        changed = await self._update(self._keyspace.campaign(name), change, *along)
        return changed.value if changed else None

    async def create(self, campaign: Campaign, batches: Sequence[Checkpoint]) -> Stored[Campaign]:
        """Record the batches, then the campaign: a campaign on record has all its batches."""
        await Checkpoints(self._store, self._keyspace, self._guards).create(batches)
        return await self.save(Stored(campaign))

    async def save(self, stored: Stored[Campaign], *along: Change) -> Stored[Campaign]:
        """See Table. Saving an ended campaign also deletes its claims and its proof.

        That fences workers that have not noticed the end: each of their swaps compares their claim.
        """
        name = stored.value.id
        if stored.value.state.is_end:
            along = (*along, Delete(self._keyspace.claims(name)), Delete(self._keyspace.proofs(name)))
        return await super().save(stored, *along)

    async def save_without_quarantine(self, stored: Stored[Campaign]) -> Stored[Campaign]:
        """Write a campaign and delete its quarantine in one transaction: for a new sweep, or after a clean proof.

        Raises FencedError.
        """
        return await self.save(stored, Delete(self._keyspace.quarantine(stored.value.id)))

    async def forget_old(self) -> None:
        """Delete old ended campaigns, and all batches, proofs and quarantines of campaigns without a record.

        Of complete campaigns, other ended ones, and repairs of drift, the newest `KEPT` each stay, so that none of
        the three kinds pushes another out. The newest complete campaign that is `whole` stays, too; so does the one
        with the highest `since`, by which each process replaces the seeds that it made before.

        A process that dies after it wrote a campaign's batches, and before it wrote the campaign, leaves batches
        without a record.
        """
        campaigns, unreadable = await self.all_or_why()
        ended = [stored.value for stored in campaigns if stored.value.state.is_end]
        repairs = [campaign.id for campaign in ended if campaign.options.repair]
        complete = [one.id for one in ended if one.state is CampaignState.COMPLETE and not one.options.repair]
        others = [one.id for one in ended if one.state is not CampaignState.COMPLETE and not one.options.repair]
        # The newest proof of everything: newer campaigns with a smaller scope must not push it out.
        whole = [one.id for one in ended if one.state is CampaignState.COMPLETE and one.whole]
        rotated = max(ended, key=lambda one: one.options.since, default=None)
        rotation = [rotated.id] if rotated is not None and rotated.options.since else []
        old = {*repairs[:-KEPT], *complete[:-KEPT], *others[:-KEPT]} - {*whole[-1:], *rotation}
        for name in sorted(old):
            theirs = [Delete(_of(name, records)) for records in self._keyspace.of_campaigns]
            await self._commit(Delete.of_key(self._keyspace.campaign(name)), *theirs)
        # The batches of a campaign with an unreadable record stay, so that an operator can restore the record.
        kept = {stored.value.id for stored in campaigns} - old | {name for name, _ in unreadable}
        for records in self._keyspace.of_campaigns:
            await self._forget_all_but(kept, records)

    async def kek_since(self) -> int:
        """Return the highest revision since which, as an operator said, the plugins have wrapped with other KEKs.

        0 = none said it. A revision above the record's own, which only a forged record has, counts for nothing.
        """
        return max(
            (one.value.options.since for one in await self.all() if one.value.options.since < one.revision), default=0
        )

    async def forget_quarantines_but(self, names: set[str]) -> None:
        """Delete the quarantines of all campaigns but `names`; their batches still count the objects by reason."""
        await self._forget_all_but(names, self._keyspace.quarantines)

    async def _forget_all_but(self, kept: set[str], records: KeyRange) -> None:
        """Delete the records of each campaign but these, in a transaction each; reads none of the kept ones' keys."""
        for gap in _gaps(kept, records):
            async with aclosing(read_keys(self._store, gap)) as looks:
                async for keys in looks:
                    for name in dict.fromkeys(key[len(records.start) :].split(b"/")[0] for key in keys):
                        if key_text(name) not in kept:  # a key that is no record of ours may name a kept one
                            await self._commit(Delete(_of(key_text(name), records)))


def _of(name: str, records: KeyRange) -> KeyRange:
    """Return the part of a range of records, one of `Keyspace.of_campaigns`, that a campaign has."""
    return KeyRange.of_prefix(records.start + key_bytes(name) + b"/")


def _gaps(names: Iterable[str], records: KeyRange) -> list[KeyRange]:
    """Return the ranges between the records of these campaigns. No campaign of ours has a "/" in its name."""
    theirs = sorted((_of(name, records) for name in names if "/" not in name), key=attrgetter("start"))
    starts, ends = [records.start, *(one.end for one in theirs)], [*(one.start for one in theirs), records.end]
    return [KeyRange(start, end) for start, end in zip(starts, ends, strict=True) if start < end]
