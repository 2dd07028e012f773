"""The loop: observe the records, decide the next step, act on it.

Level-triggered: each round looks at what is on record, not at what it did before, so that it goes on
from wherever a crash left things.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import structlog

from scheduler.campaign import Finish, Prove, Step, Sweep, Work, advance
from scheduler.dispatch.dispatcher import Dispatcher
from worker.model.batch import BatchState, Checkpoint
from worker.model.campaign import CampaignState
from worker.model.inventory import Inventory
from worker.model.outcome import BatchReport
from worker.state.campaigns import Campaigns, StoredCampaign
from worker.state.checkpoints import Checkpoints, StoredCheckpoint
from worker.state.quarantine import Quarantine

_LOOK_SECONDS = 0.5
_log = structlog.get_logger()

Scan = Callable[[], Awaitable[Inventory]]
Watcher = Callable[[BatchReport, int], None]


@dataclass(frozen=True, slots=True)
class Records:
    """The records of one campaign, as its owner writes them."""

    campaigns: Campaigns
    checkpoints: Checkpoints
    quarantine: Quarantine


class Reconciler:
    """Brings one campaign to its end. `scan` takes the proof's inventory, `watcher` is shown progress."""

    def __init__(self, records: Records, dispatcher: Dispatcher, scan: Scan, watcher: Watcher) -> None:
        self._campaigns = records.campaigns
        self._checkpoints = records.checkpoints
        self._dispatcher = dispatcher
        self._scan = scan
        self._watcher = watcher
        self._seen: dict[int, StoredCheckpoint] = {}
        self._seen_revision = 0
        self._said = ""

    async def finish(self, stored: StoredCampaign) -> tuple[StoredCampaign, Inventory]:
        """Work until the campaign ends; returns its record and the inventory that proves the end.

        Raises what stops the work; the records then say how far it is, and another call resumes.
        """
        proof: Inventory | None = None
        while True:
            await self._observe(stored.campaign.id)
            step = advance(stored.campaign, self._checkpoints_seen(), proof)
            self._tell(stored, step)
            match step.action:
                case Work(batches):
                    for batch in batches:
                        self._dispatcher.offer(batch)
                    await self._dispatcher.wait(_LOOK_SECONDS)
                case Prove():
                    stored = await self._move(stored, CampaignState.PROVING, step.because)
                    proof = await self._scan()
                case Sweep():
                    stored, proof = await self._sweep(stored, step.because), None
                case Finish(campaign):
                    assert proof is not None  # noqa: S101 - advance() finishes by a proof only
                    return await self._end(replace(stored, campaign=campaign)), proof

    async def _end(self, stored: StoredCampaign) -> StoredCampaign:
        """Record an end. What was in quarantine and is gone or readable by a complete proof is no longer there."""
        if stored.campaign.state is CampaignState.COMPLETE:
            return await self._campaigns.save_without_quarantine(stored)
        return await self._campaigns.save(stored)

    async def _observe(self, campaign: str) -> None:
        """Read the batches that changed since the last look, and show what they add up to."""
        changed, self._seen_revision = await self._checkpoints.changed(campaign, self._seen_revision)
        for stored in changed:
            self._seen[stored.checkpoint.spec.number] = stored
        reports = (checkpoint.report for checkpoint in self._checkpoints_seen())
        self._watcher(sum(reports, BatchReport()), sum(not _is_done(one) for one in self._checkpoints_seen()))

    def _checkpoints_seen(self) -> list[Checkpoint]:
        return [self._seen[number].checkpoint for number in sorted(self._seen)]

    async def _move(self, stored: StoredCampaign, state: CampaignState, because: str) -> StoredCampaign:
        if stored.campaign.state is state:
            return stored
        return await self._campaigns.save(replace(stored, campaign=stored.campaign.moved(state, because)))

    async def _sweep(self, stored: StoredCampaign, because: str) -> StoredCampaign:
        """Count one more sweep, by which every batch is open again; the same transaction empties the quarantine."""
        swept = replace(stored.campaign.moved(CampaignState.RUNNING, because), sweeps=stored.campaign.sweeps + 1)
        return await self._campaigns.save_without_quarantine(replace(stored, campaign=swept))

    def _tell(self, stored: StoredCampaign, step: Step) -> None:
        """Log a decision when it is another one than before."""
        said = type(step.action).__name__
        if said != self._said:
            self._said = said
            _log.info("campaign.step", **stored.campaign.log_context(), step=said.lower(), because=step.because)


def _is_done(checkpoint: Checkpoint) -> bool:
    return checkpoint.state is BatchState.DONE
