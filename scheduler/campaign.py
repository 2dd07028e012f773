"""The steps of a campaign. Pure: what is on record goes in, the next step and its reason come out.

1. Batches that are not done are to be worked on.
2. All done: prove it by a scan. The end of the batches alone proves nothing.
3. The scan found every object readable and under its primary: complete.
4. The scan found more stale objects than those that the batches could not write: somebody wrote with
   another key behind our back. Sweep again, a bounded number of times.
5. What is left is unreadable or can't be written, or the sweeps are used up: incomplete.

Not handled: pausing, and who does the work.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from worker.model.batch import BatchSpec, BatchState, Checkpoint
from worker.model.campaign import Campaign, CampaignState
from worker.model.inventory import Inventory

MAX_SWEEPS = 3
"""A control plane whose apiservers agree needs one; a late writer costs a second."""


@dataclass(frozen=True, slots=True)
class Work:
    """Let these batches be worked on."""

    batches: tuple[BatchSpec, ...]


@dataclass(frozen=True, slots=True)
class Prove:
    """Scan, and come back with an inventory."""


@dataclass(frozen=True, slots=True)
class Sweep:
    """Go over all ranges again: objects became stale while we worked."""


@dataclass(frozen=True, slots=True)
class Finish:
    """Record this end."""

    campaign: Campaign


@dataclass(frozen=True, slots=True)
class Step:
    """What is next, and the sentence that says why."""

    action: Work | Prove | Sweep | Finish
    because: str


def advance(campaign: Campaign, batches: Iterable[Checkpoint], proof: Inventory | None) -> Step:
    """Return the next step of an unfinished campaign. `proof` is the inventory taken after the last batch."""
    known = tuple(batches)
    open_batches = tuple(replace(batch.spec, sweep=campaign.sweeps) for batch in known if _is_open(batch, campaign))
    if open_batches:
        return Step(Work(open_batches), f"{len(open_batches)} of {campaign.batches} batches are not done")
    if proof is None:
        return Step(Prove(), "all batches are done, which proves nothing yet")
    if proof.is_clean:
        because = f"a scan at revision {proof.revision} read all {proof.objects} objects with their primary key"
        return Step(Finish(_ended(campaign, CampaignState.COMPLETE, because, proof)), because)
    unexplained = proof.stale - sum(batch.report.stuck for batch in known)
    if unexplained > 0 and known and campaign.sweeps < MAX_SWEEPS:
        return Step(Sweep(), f"{unexplained} objects were written under another key while the batches were at work")
    because = _what_remains(proof)
    return Step(Finish(_ended(campaign, CampaignState.INCOMPLETE, because, proof)), because)


def _is_open(batch: Checkpoint, campaign: Campaign) -> bool:
    """Whether a batch is to be worked on in the campaign's present sweep."""
    return batch.state is not BatchState.DONE or batch.spec.sweep < campaign.sweeps


def _ended(campaign: Campaign, state: CampaignState, because: str, proof: Inventory) -> Campaign:
    return campaign.moved(state, because, proof_revision=proof.revision)


def _what_remains(proof: Inventory) -> str:
    parts = []
    if proof.stale:
        parts.append(
            f"{proof.stale} objects are not under their primary key (in quarantine, or a kube-apiserver still writes "
            "with another key)"
        )
    if proof.unreadable:
        parts.append(f"{proof.unreadable} objects can't be read")
    if proof.unknown:
        parts.append(f"nobody knows whose objects lie under {', '.join(proof.unknown)}")
    return f"at revision {proof.revision}, " + "; ".join(parts)
