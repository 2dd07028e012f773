"""The reconcile loop: observe the records, decide the next step, act on it.

Each round decides by the records in etcd alone, not by the rounds before it. So after a crash at any point the next
process continues, and an operator's request takes effect in the next round.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

import structlog

from kube_rewrap.config.settings.logs import Repetition
from kube_rewrap.scheduler.campaigns.progress import Watcher
from kube_rewrap.scheduler.campaigns.transition import Finish, Halt, Park, Prove, Rest, Step, Sweep, Work, advance
from kube_rewrap.scheduler.dispatch.protocol import Dispatcher
from kube_rewrap.worker.errors import RecordChangedError, RecordError, StoppedError
from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.claims import Claims
from kube_rewrap.worker.records.followed import Followed
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.records.standing import Standing
from kube_rewrap.worker.records.table import Stored

_LOOK_SECONDS = 0.5
_CONFLICTS = 20
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one campaign, as its owner writes them."""

    campaigns: Campaigns
    checkpoints: Checkpoints
    claims: Claims
    quarantine: QuarantineRecords

    @classmethod
    def of(cls, store: Store, keyspace: Keyspace, campaign: str, guard: Expect) -> Records:
        """Return the records of a campaign; `guard`, the writer's lock, fences every write."""
        return cls(
            Campaigns(store, keyspace, [guard]),
            Checkpoints(store, keyspace, [guard]),
            Claims(store, keyspace),
            QuarantineRecords(store, keyspace, campaign, [guard]),
        )


class Prover(Protocol):
    """Takes the inventory that proves the end of a campaign."""

    async def look(self, stored: Stored[Campaign], claimed: frozenset[int]) -> Inventory | None:
        """Return the inventory of the campaign's scope, None while it is being taken.

        `claimed` are the numbers of the parts that a worker has claimed.
        """

    async def forget(self, campaign: str) -> None:
        """Delete the results of the scan so far: they are out of date."""


@dataclass(frozen=True, slots=True)
class Round:
    """The result of one round. `proof` is that of a campaign that ended in it."""

    stored: Stored[Campaign]
    step: Step
    proof: Inventory | None = None

    @property
    def is_end(self) -> bool:
        """Whether the campaign ended in this round."""
        return isinstance(self.step.action, Finish)


class Reconciler:
    """Brings one campaign to its end. `watcher` receives the progress."""

    def __init__(self, records: Records, dispatcher: Dispatcher, prover: Prover, watcher: Watcher) -> None:
        self._records = records
        self._dispatcher = dispatcher
        self._prover = prover
        self._watcher = watcher
        self._batches = Followed(records.checkpoints.changed, _by_our_clock)
        self._proof: Inventory | None = None
        self._step = Repetition()
        self._conflicts = 0

    @property
    def checkpoints(self) -> list[Checkpoint]:
        """The campaign's batches as they were last seen, in order."""
        return self._batches.values

    async def finish(self, name: str) -> Round:
        """Work until the campaign ends; returns its record and the inventory that proves the end.

        Raises the error that stops the work; another call resumes from the records.
        """
        while True:
            done = await self.round(name)
            if done.is_end:
                return done
            if isinstance(done.step.action, Rest):
                raise StoppedError(f"the campaign {name} is {done.stored.value.state.value}: {done.step.because}")

    async def round(self, name: str) -> Round:
        """Observe, decide, act once.

        Raises StoppedError when another process ended the campaign, or its record is damaged; RecordError when it is
        missing.
        """
        try:
            stored = await self._records.campaigns.get(name)
        except RecordError as error:
            raise StoppedError(f"the campaign {name} stopped: {error}") from None
        if stored is None:
            raise RecordError(f"the record of the campaign {name} is missing; run again to plan a new one")
        campaign = stored.value
        if campaign.state.is_end:
            raise StoppedError(f"the campaign {name} is {campaign.state.value}: another process ended it")
        if campaign.state is not CampaignState.PROVING:
            self._proof = None  # from before a pause, or of another sweep
        batches = await self._batches.look(name)
        self._watcher(campaign, Standing.of(batches, campaign.sweeps))
        claimed = await self._records.claims.held(name)
        step = advance(campaign, batches, self._proof, claimed, time.time())
        self._log_step(stored, step)
        try:
            return await self._act(stored, step, claimed)
        except RecordChangedError:
            # Most likely an operator's request changed the record; the next round reads it.
            self._conflicts += 1
            if self._conflicts > _CONFLICTS:
                raise
            return Round(stored, step=replace(step, action=Work(())))

    async def _act(self, stored: Stored[Campaign], step: Step, claimed: frozenset[int]) -> Round:
        match step.action:
            case Work(batches):
                await self._dispatcher.offer(batches, claimed)
                await self._dispatcher.wait(_LOOK_SECONDS)
            case Park(checkpoint):
                await self._park(checkpoint, step.because)
            case Rest():
                pass
            case Halt(campaign):
                stored = await self._records.campaigns.save(replace(stored, value=campaign))
            case Prove():
                await self._prove(stored, step.because, claimed)
            case Sweep():
                await self._sweep(stored, step.because)
            case Finish(campaign):
                stored = await self._end(replace(stored, value=campaign))
        self._conflicts = 0
        return Round(stored, step, self._proof)

    async def _prove(self, stored: Stored[Campaign], because: str, claimed: frozenset[int]) -> None:
        if stored.value.state is not CampaignState.PROVING:
            # A scan from before a pause, or of an earlier sweep, proves nothing about the present objects.
            await self._prover.forget(stored.value.id)
            stored = await self._records.campaigns.save(
                replace(stored, value=stored.value.moved(CampaignState.PROVING, because))
            )
        self._proof = await self._prover.look(stored, claimed)
        if self._proof is None:
            await self._dispatcher.wait(_LOOK_SECONDS)

    async def _park(self, checkpoint: Checkpoint, because: str) -> None:
        stored = self._batches[checkpoint.spec.number]
        await self._records.checkpoints.save(stored.holding(checkpoint))
        _log.error("batch.parked", **checkpoint.spec.log_context(), attempts=checkpoint.attempts, because=because)

    async def _end(self, stored: Stored[Campaign]) -> Stored[Campaign]:
        """Record an end. After a complete proof no object is in quarantine, so that its records are deleted, too."""
        ended = replace(stored.value, ended_at=datetime.now(UTC).isoformat(timespec="seconds"))
        stored = replace(stored, value=ended)
        if ended.state is CampaignState.COMPLETE:
            return await self._records.campaigns.save_without_quarantine(stored)
        return await self._records.campaigns.save(stored)

    async def _sweep(self, stored: Stored[Campaign], because: str) -> Stored[Campaign]:
        """Begin one more sweep, which reopens every batch; the same transaction empties the quarantine."""
        swept: Campaign = replace(stored.value.moved(CampaignState.RUNNING, because), sweeps=stored.value.sweeps + 1)
        return await self._records.campaigns.save_without_quarantine(replace(stored, value=swept))

    def _log_step(self, stored: Stored[Campaign], step: Step) -> None:
        """Log a step if its kind differs from the last one's."""
        kind = type(step.action).__name__
        if self._step.begins(kind):
            _log.info("campaign.step", **stored.value.log_context(), step=kind.lower(), because=step.because)


def _by_our_clock(stored: Stored[Checkpoint], known: Stored[Checkpoint] | None) -> Stored[Checkpoint]:
    """Return a batch, tried at the time when we first saw it so: a worker's clock may be days off.

    A batch that is seen for the first time keeps its own time, unless that is in our future.
    """
    if known is not None and known.revision == stored.revision:
        return known
    now = time.time()
    tried_at = min(stored.value.tried_at, now) if known is None else now
    return replace(stored, value=replace(stored.value, tried_at=tried_at))
