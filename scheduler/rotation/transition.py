"""Decides the next action of a rotation, and why. Pure: `advance` takes the record and the facts gathered so far.

If a decision needs a fact that is missing, the action is `Need` with that fact; the driver gathers it and asks again.

1. A rotation that ended or is held waits.
2. If the file is neither the expected one nor the result of the prepared edit, it was edited outside this
   rotation. The rotation is held until an operator decides which content is right.
3. A step that edits is done when the file is the result of the edit; else the edit is prepared and made.
4. A step that waits for the kube-apiservers is done when all of them run exactly this file.
5. Rewrap is done when a campaign under this file ended complete.
6. Prove needs the convergence again before the scan: a kube-apiserver may have restarted with an old
   file. If the scan finds objects under the old keys, the rotation returns to rewrap.
7. Compact is done when etcd refuses to answer at the revision before the proof.
8. The old keys are removed only with `prune`; without it the rotation ends and reports that they may be removed.
   Both need convergence and scan once more, gathered right then: meanwhile a node may have got its old file back.

9. Withdraw: an operator gives the rotation up before the new key was primary on any replica. The key is removed
   when all kube-apiservers run the file in which it only reads, a scan after that finds no object under it, and its
   budget shows no encryption. If an object may be under it, the rotation ends and the key stays.

No other step removes the new key: once a key may have encrypted, it stays readable. `abort` leaves the file as it is.

Not handled: edits, probes, campaigns and scans (`driver.py`, `probes.py`).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.proof_counts import ProofCounts
from kube_rewrap.worker.records.rotation import Rotation, RotationStep

_AFTER = {
    RotationStep.ADD: RotationStep.SPREAD,
    RotationStep.SPREAD: RotationStep.PROMOTE,
    RotationStep.PROMOTE: RotationStep.SWITCH,
    RotationStep.SWITCH: RotationStep.REWRAP,
    RotationStep.REWRAP: RotationStep.PROVE,
    RotationStep.PROVE: RotationStep.COMPACT,
    RotationStep.PRUNE: RotationStep.CONVERGE,
    RotationStep.CONVERGE: RotationStep.DONE,
    RotationStep.WITHDRAW: RotationStep.RETURN,
    RotationStep.RETURN: RotationStep.ABORTED,
}


@dataclass(frozen=True, slots=True)
class CampaignOutcome:
    """The outcome of the campaign under the present file. `is_complete` None: it has not ended, or there is none."""

    is_complete: bool | None
    because: str


@dataclass(frozen=True, slots=True)
class ScanResult:
    """Counts of one scan. `under_retired`: objects under the old keys, with unreadable ones that may be.

    `under_new` counts the same for the new key; `new_used` is the number of its encryptions by its budget. `counts`
    are kept in the record when the scan proves the rotation.
    """

    revision: int
    stale: int
    under_retired: int
    unreadable: int
    under_new: int = 0
    new_used: int = 0
    counts: ProofCounts | None = None


@dataclass(frozen=True, slots=True)
class Facts:
    """The facts gathered for one decision. `file` is the file's hash; None: not gathered."""

    file: str
    convergence: Convergence | None = None
    campaign: CampaignOutcome | None = None
    scan: ScanResult | None = None
    compacted: bool | None = None


class Fact(Enum):
    """A fact that a decision may need, by its field in Facts."""

    CONVERGENCE = "convergence"
    """Whether all kube-apiservers run the rotation's file."""
    CAMPAIGN = "campaign"
    """Whether a campaign has rewritten everything under this file."""
    SCAN = "scan"
    """Which keys encrypt objects, by a scan that begins after the convergence was probed."""
    COMPACTED = "compacted"
    """Whether etcd has compacted past the proof."""


@dataclass(frozen=True, slots=True)
class Edit:
    """Prepare the step's edit, record the hash of its result, and make it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Do nothing now; decide again later with new facts."""


@dataclass(frozen=True, slots=True)
class Move:
    """Record this rotation: it is at another step, or held."""

    rotation: Rotation


@dataclass(frozen=True, slots=True)
class Need:
    """Gather this fact, and decide again."""

    fact: Fact


@dataclass(frozen=True, slots=True)
class Decision:
    """The next action, and the sentence that says why."""

    action: Edit | Wait | Move | Need
    because: str


def advance(rotation: Rotation, facts: Facts, now: str) -> Decision:
    """Return the next action; `now` (ISO 8601, UTC) is recorded with it."""
    if rotation.step.is_end or rotation.held:
        return Decision(Wait(), rotation.held or rotation.because)
    if rotation.edited and facts.file == rotation.edited:
        return _move(rotation, f"the file is {facts.file}", now)
    if facts.file != rotation.file:
        return _hold(
            rotation,
            f"the file is {facts.file}, and {rotation.file} is expected: it was edited outside this rotation. Put the "
            "expected one back, or `rewrap rotate abort` and begin again; no key was removed",
        )
    if rotation.step in {RotationStep.PRUNE, RotationStep.WITHDRAW}:
        return _remove_key(rotation, facts, now)
    if rotation.step.is_edit:
        return _edit(rotation)
    return _pass(rotation, facts, now)


def _remove_key(rotation: Rotation, facts: Facts, now: str) -> Decision:
    """Decide on a step that removes a key: only by facts gathered right now, since the last step may be days ago."""
    if rotation.by_hand and rotation.edited:
        return _edit(rotation)
    against = _against if rotation.step is RotationStep.PRUNE else _against_withdrawal
    return against(rotation, facts, now) or _edit(rotation)


def _against_withdrawal(rotation: Rotation, facts: Facts, now: str) -> Decision | None:
    """Return the decision while the new key is not known to be unused; None when a scan after the probe shows it."""
    if facts.convergence is None:
        return Decision(
            Need(Fact.CONVERGENCE), f"do all kube-apiservers run {rotation.file}, in which the new key only reads?"
        )
    if not facts.convergence.is_converged:
        return Decision(Wait(), facts.convergence.because)
    if facts.scan is None:
        return Decision(Need(Fact.SCAN), "is nothing under the new key?")
    scan = facts.scan
    if not scan.under_new and not scan.new_used:
        return None
    because = (
        f"aborted by an operator; the new key stays in the file as one that only reads: at revision {scan.revision}, "
        f"{scan.under_new} objects are, or may be, under it, and it may have encrypted {scan.new_used} times"
    )
    return Decision(Move(rotation.at(RotationStep.ABORTED, because, now)), because)


def _edit(rotation: Rotation) -> Decision:
    if rotation.by_hand and rotation.edited:
        return Decision(Wait(), f"the file with the hash {rotation.edited} has to be put in its place by hand")
    because = _EDITS[rotation.step].format(key=rotation.key_name, provider=rotation.provider)
    return Decision(Edit(), f"handed to an operator: {because}" if rotation.by_hand else because)


_EDITS = {
    RotationStep.ADD: "{provider}:{key} is added to the file, to read with",
    RotationStep.PROMOTE: "all kube-apiservers can read with {provider}:{key}; it becomes the key that writes",
    RotationStep.WITHDRAW: "nothing is under {provider}:{key}, and it never encrypted; it is removed from the file",
    RotationStep.PRUNE: "nothing holds the old keys any more; they are removed from the file",
}


def _pass(rotation: Rotation, facts: Facts, now: str) -> Decision:
    """Return the decision at a step that edits nothing."""
    match rotation.step:
        case RotationStep.SPREAD | RotationStep.SWITCH | RotationStep.CONVERGE | RotationStep.RETURN:
            return _converge(rotation, facts, now)
        case RotationStep.REWRAP:
            return _rewrap(rotation, facts, now)
        case RotationStep.PROVE:
            return _prove(rotation, facts, now)
    return _compact(rotation, facts, now)


def _converge(rotation: Rotation, facts: Facts, now: str) -> Decision:
    if facts.convergence is None:
        return Decision(Need(Fact.CONVERGENCE), f"do all kube-apiservers run {rotation.file}?")
    if not facts.convergence.is_converged:
        return Decision(Wait(), facts.convergence.because)
    if rotation.step is RotationStep.RETURN:
        because = f"aborted by an operator; the unused key is gone from the file, and {facts.convergence.because}"
        return _move(rotation, because, now)
    return _move(rotation, facts.convergence.because, now)


def _rewrap(rotation: Rotation, facts: Facts, now: str) -> Decision:
    if facts.campaign is None:
        return Decision(Need(Fact.CAMPAIGN), "is everything rewritten?")
    if not facts.campaign.is_complete:
        return Decision(Wait(), facts.campaign.because)
    return _move(rotation, facts.campaign.because, now)


def _prove(rotation: Rotation, facts: Facts, now: str) -> Decision:
    against = _against(rotation, facts, now)
    if against is not None or facts.scan is None:
        return against or _NEED_SCAN  # never the latter: `_against` returns None only with a scan
    proven = replace(rotation, proof_revision=facts.scan.revision, proof_counts=facts.scan.counts)
    return _move(proven, f"a scan at revision {facts.scan.revision} found nothing under the old keys", now)


def _compact(rotation: Rotation, facts: Facts, now: str) -> Decision:
    if facts.compacted is None:
        return Decision(Need(Fact.COMPACTED), f"does etcd still answer at revisions before {rotation.proof_revision}?")
    if not facts.compacted:
        return Decision(
            Wait(),
            f"etcd still answers at revisions before {rotation.proof_revision}, which may hold the old keys; "
            "kube-apiserver compacts every five minutes",
        )
    if rotation.prune:
        because = f"etcd has compacted past revision {rotation.proof_revision}"
        return Decision(Move(rotation.at(RotationStep.PRUNE, because, now)), because)
    # The proof is minutes old: meanwhile a node may have got its old file back, and written with it.
    against = _against(rotation, facts, now)
    if against is not None:
        return against
    names = ", ".join(str(key) for key in rotation.retired)
    because = f"nothing in this cluster is under {names} any more: it may be removed. Backups still need it"
    if any(key.provider == ProviderType.KMS for key in rotation.retired):
        because += ", and they need its KEK"
    return Decision(Move(rotation.at(RotationStep.DONE, because, now)), because)


_NEED_SCAN = Decision(Need(Fact.SCAN), "is nothing under the old keys?")


def _against(rotation: Rotation, facts: Facts, now: str) -> Decision | None:
    """Return the decision while the old keys are not known to be unused; None when a scan after the probe shows it."""
    if facts.convergence is None:
        return Decision(Need(Fact.CONVERGENCE), f"do all kube-apiservers still run {rotation.file}?")
    if not facts.convergence.is_converged:
        return Decision(Wait(), facts.convergence.because)
    if facts.scan is None:
        return _NEED_SCAN
    scan = facts.scan
    if scan.stale or scan.under_retired:
        count = max(scan.stale, scan.under_retired)
        because = f"at revision {scan.revision}, {count} objects are, or may be, under another key than the primary"
        return Decision(Move(rotation.at(RotationStep.REWRAP, because, now)), because)
    if scan.unreadable:
        because = f"at revision {scan.revision}, {scan.unreadable} objects can't be read: `rewrap verify` names them"
        return Decision(Wait(), because)
    return None


def _move(rotation: Rotation, because: str, now: str) -> Decision:
    return Decision(Move(rotation.at(_AFTER[rotation.step], because, now)), because)


def _hold(rotation: Rotation, because: str) -> Decision:
    return Decision(Move(replace(rotation, held=because)), because)


def prepared(rotation: Rotation, edited: str, fingerprint: str) -> Rotation:
    """Return the rotation with the edit that is about to be made; it is recorded first, for recovery from a crash."""
    return replace(rotation, edited=edited, fingerprint=fingerprint or rotation.fingerprint)


def aborted(rotation: Rotation, now: str) -> Rotation:
    """Return the rotation, aborted. The file stays as it is: objects may be under every key in it."""
    stays = {
        RotationStep.ADD: "the file was not touched, or holds the new key as one that only reads",
        RotationStep.SPREAD: "the new key stays in the file as one that only reads",
        RotationStep.WITHDRAW: "the new key, as one that only reads, stays in the file, or was removed a moment ago",
        RotationStep.RETURN: "the new key is gone from the file; a kube-apiserver may still read with it",
    }.get(rotation.step, "the new key stays in the file, for objects may be under it")
    return replace(rotation, held="").at(RotationStep.ABORTED, f"aborted by an operator; {stays}", now)


def may_be_withdrawn(rotation: Rotation) -> bool:
    """Whether the new key was never primary on any replica, and no prepared edit makes it so."""
    if rotation.step is RotationStep.PROMOTE:
        return not rotation.edited
    return rotation.step in {RotationStep.ADD, RotationStep.SPREAD, RotationStep.WITHDRAW, RotationStep.RETURN}


def withdrawing(rotation: Rotation, file: str, now: str) -> Rotation:
    """Return the rotation at the step that removes the new key; `file` is the hash of the file.

    If the file does not have the new key yet, the rotation is aborted. Raises RefusedError when the key may have
    encrypted.
    """
    if not may_be_withdrawn(rotation):
        raise RefusedError(
            f"the rotation is at the step {rotation.step.value}: the new key may write already, and stays. Continue "
            "it with `rewrap rotate resume`, or leave things as they are with `rewrap rotate abort`"
        )
    if rotation.step in {RotationStep.WITHDRAW, RotationStep.RETURN}:
        return replace(rotation, held="")
    if rotation.step is RotationStep.ADD and file != rotation.edited:
        if rotation.edited and not rotation.by_hand:
            raise RefusedError(
                "another process adds the new key to the file now, or was killed while it did: resume it first"
            )
        return aborted(rotation, now)
    because = "aborted by an operator, who wants the unused key removed again"
    return replace(rotation, held="").at(RotationStep.WITHDRAW, because, now)


def is_way_back(rotation: Rotation, before: GenerationRecord, after: GenerationRecord) -> bool:
    """Whether the later configuration is the earlier one without the key that this rotation withdraws, or withdrew."""
    if not (rotation.is_withdrawn or rotation.step in {RotationStep.WITHDRAW, RotationStep.RETURN}):
        return False
    kept = tuple(
        (name, tuple(key for key in chain if not any(new.covers(key) for new in rotation.new_keys)))
        for name, chain in before.resources
    )
    return before.resources != after.resources == kept


def resumed(rotation: Rotation, file: str) -> Rotation:
    """Return the rotation no longer held; `file` is the hash of the file, which the next decision checks.

    If an operator has not put a handed-out file in place, the next step hands out another: it may be lost.
    """
    is_missing = rotation.by_hand and file == rotation.file
    if is_missing:
        return replace(rotation, held="", edited="", waits="")
    return replace(rotation, held="")


def paused(rotation: Rotation) -> Rotation:
    """Return the rotation, held until an operator resumes it."""
    return replace(rotation, held="paused by an operator")
