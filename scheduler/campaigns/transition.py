"""The steps of a campaign. Pure: the records go in, the next step and its reason come out.

1. Paused: do nothing. Its quarantine grew too much: pause it.
2. Work on batches that are not done, unless they are parked or wait after a failure.
3. All done or parked: prove it by a scan. The end of the batches alone proves nothing.
4. The scan found every object readable and under its primary: complete. In a campaign that an operator started for a
   KEK rotated without a trace, each must also have been written after the revision named there; else it is stale.
5. The scan found more stale objects than those that the batches could not write: another client wrote with another key
   meanwhile. Sweep again, a bounded number of times; but not for a batch that is parked, or whose record is lost.
6. The other objects are unreadable or can't be written, or the sweeps are used up: incomplete.

Not handled: dispatch, and the other causes of a pause (`pausing.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.proof_counts import ProofCounts

_NAMED = 5
MAX_SWEEPS = 3
"""One is enough if all kube-apiservers agree; a late writer costs a second one."""


_PARKED_AFTER = 5
"""Attempts in a row without progress: the batch kills its workers, or fails for a reason of its own."""

_PASSING_DELAY = 2.0
"""Seconds before the next attempt after a failure that does not count, or that is the first one."""

_FIRST_DELAY = 1.0
_LONGEST_DELAY = 60.0


@dataclass(frozen=True, slots=True)
class Work:
    """Dispatch these batches. Others may have to wait, or be claimed already."""

    batches: tuple[BatchSpec, ...]


@dataclass(frozen=True, slots=True)
class Park:
    """Leave this batch alone until the next sweep or campaign."""

    checkpoint: Checkpoint


@dataclass(frozen=True, slots=True)
class Rest:
    """Do nothing: the campaign is paused."""


@dataclass(frozen=True, slots=True)
class Halt:
    """Record this pause, and raise the alarm."""

    campaign: Campaign


@dataclass(frozen=True, slots=True)
class Prove:
    """Scan, and decide again with the inventory."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Rewrap all ranges again: objects became stale meanwhile."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Record this end."""

    campaign: Campaign


@dataclass(frozen=True, slots=True)
class Step:
    """The next action, and the sentence that explains it."""

    action: Work | Park | Rest | Halt | Prove | Sweep | Finish
    because: str


def advance(
    campaign: Campaign, batches: Iterable[Checkpoint], proof: Inventory | None, claimed: frozenset[int], now: float
) -> Step:
    """Return the next step of an unfinished campaign.

    `proof` is the inventory taken after the last batch, `claimed` the numbers of the batches that a worker has claimed,
    `now` in seconds since 1970.
    """
    known = tuple(batches)
    if campaign.state is CampaignState.PAUSED:
        return Step(Rest(), campaign.because)
    fresh = sum(batch.report.fresh for batch in known)
    if not campaign.quarantine_limit.allows(fresh):
        because = _outgrown(fresh)
        return Step(Halt(campaign.paused(Pause.QUARANTINE, because)), because)
    left = [batch for batch in known if _is_open(batch, campaign)]
    free = [batch for batch in left if batch.spec.number not in claimed]
    spent = next((batch for batch in free if _is_spent(batch, campaign)), None)
    if spent is not None:
        because = spent.because or "the workers that claimed it ended without a report"
        return Step(Park(replace(spent, state=BatchState.PARKED, because=because)), f"it failed again: {because}")
    if left:
        due = tuple(_present(batch.spec, campaign) for batch in free if _due_at(batch, campaign) <= now)
        return Step(Work(due), f"{len(left)} of {campaign.batches} batches are not done")
    return _conclude(campaign, known, proof)


def _conclude(campaign: Campaign, known: Sequence[Checkpoint], proof: Inventory | None) -> Step:
    """Return the step after the last batch."""
    parked = [batch for batch in known if batch.state is BatchState.PARKED]
    missing = campaign.batches - len(known)
    if proof is None:
        return Step(Prove(), "all batches are done, which proves nothing yet")
    if proof.is_clean:
        because = f"a scan at revision {proof.revision} read all {proof.objects} objects with their primary key"
        if campaign.options.since:
            because += f", each of them last written after revision {campaign.options.since}"
        return Step(Finish(_ended(campaign, CampaignState.COMPLETE, because, proof)), because)
    unexplained = proof.stale - sum(batch.report.stuck for batch in known)
    if unexplained > 0 and known and not parked and missing <= 0 and campaign.sweeps < MAX_SWEEPS:
        return Step(Sweep(), f"{unexplained} objects were written under another key while the batches were at work")
    because = _what_remains(proof, parked, missing)
    return Step(Finish(_ended(campaign, CampaignState.INCOMPLETE, because, proof)), because)


def _outgrown(fresh: int) -> str:
    return (
        f"{fresh} objects that no key opens were written since the last campaign, and no operator asked for this "
        "one: a client of etcd may be trying out values. Check which clients can write to etcd, and what is in "
        "quarantine; then resume the campaign"
    )


def _present(spec: BatchSpec, campaign: Campaign) -> BatchSpec:
    """Return a batch of the present sweep and generation: a file of the same meaning may have another hash by now."""
    if (spec.sweep, spec.generation) == (campaign.sweeps, campaign.generation):
        return spec
    return replace(spec, sweep=campaign.sweeps, generation=campaign.generation)


def _is_open(batch: Checkpoint, campaign: Campaign) -> bool:
    """Whether a batch still has work in the campaign's present sweep."""
    return batch.state not in {BatchState.DONE, BatchState.PARKED} or batch.spec.sweep < campaign.sweeps


def _is_spent(batch: Checkpoint, campaign: Campaign) -> bool:
    return batch.spec.sweep == campaign.sweeps and batch.stalled >= _PARKED_AFTER


def _due_at(batch: Checkpoint, campaign: Campaign) -> float:
    """Return when a batch may be tried again, the later the more often it failed; at once if its worker just ended.

    A failure that is not the batch's own, such as a KMS plugin's, does not count: the delay after it does not grow.
    """
    if batch.spec.sweep != campaign.sweeps:
        return 0.0
    if batch.stalled <= 1:
        return batch.tried_at + _PASSING_DELAY if batch.because else 0.0
    return batch.tried_at + min(_LONGEST_DELAY, _FIRST_DELAY * 2.0 ** (batch.stalled - 2))


def _ended(campaign: Campaign, state: CampaignState, because: str, proof: Inventory) -> Campaign:
    ended = campaign.moved(state, because, proof_revision=proof.revision)
    return replace(ended, proof_counts=ProofCounts.of(proof))


def _what_remains(proof: Inventory, parked: Sequence[Checkpoint], missing: int) -> str:
    parts = [f"the records of {missing} batches are missing or can't be read"] if missing > 0 else []
    parts += [f"batch {batch.spec.number} is parked: {batch.because}" for batch in parked[:_NAMED]]
    elsewhere = proof.stale - proof.outdated
    if proof.outdated:
        parts.append(
            f"{proof.outdated} objects are under their primary key, and were not rewritten since the KEK was rotated"
        )
    if elsewhere:
        parts.append(
            f"{elsewhere} objects are not under their primary key (in quarantine, or a kube-apiserver still writes "
            "with another key)"
        )
    if proof.unreadable:
        parts.append(f"{proof.unreadable} objects can't be read")
    if proof.unknown:
        parts.append(f"no resource is known for the objects under {', '.join(proof.unknown)}")
    return f"at revision {proof.revision}, " + "; ".join(parts)
