"""The steps of a rotation. Pure: what was seen goes in, the next action and its reason come out.

1. Ended or held: nothing is done.
2. The file is not the one that is expected, nor the one that a prepared edit leads to: somebody edited
   it. The rotation is held; whoever did it decides what is right.
3. A step that edits: done when the file is what the edit leads to, else the edit is prepared and made.
4. A step that waits for the kube-apiservers: passed when all of them run this very file.
5. Rewrap: passed when a campaign under this file ended complete.
6. Prove: the kube-apiservers are asked again first, for one of them may have been restarted with an old
   file. A scan that finds something under the old keys goes back to the rewrap.
7. Compact: passed when etcd answers no more at the revision before the proof.
8. The old keys are removed only if that was asked for; else it is said that they may go. Either only if
   all that was looked at for the proof still holds at that moment: time has passed, in which a node may
   have got its old file back.

9. Withdraw, at an operator's word and before the new key was first anywhere: it is removed when all
   kube-apiservers run the file in which it only reads, and right after that nothing is under it and its
   budget says that it never encrypted. If something may be under it, the rotation ends and the key stays.

No other step back in the file exists: once a key may have been used, it stays readable. Ending early
(`abort`) therefore leaves the file as it is.

Not handled: who edits, asks, rewrites and scans.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.rotation import Rotation, RotationStep

_AFTER = {
    RotationStep.ADD: RotationStep.SPREAD,
    RotationStep.SPREAD: RotationStep.PROMOTE,
    RotationStep.PROMOTE: RotationStep.SWITCH,
    RotationStep.SWITCH: RotationStep.REWRAP,
    RotationStep.REWRAP: RotationStep.PROVE,
    RotationStep.PROVE: RotationStep.COMPACT,
    RotationStep.PRUNE: RotationStep.SETTLE,
    RotationStep.SETTLE: RotationStep.DONE,
    RotationStep.WITHDRAW: RotationStep.RETURN,
    RotationStep.RETURN: RotationStep.ABORTED,
}


@dataclass(frozen=True, slots=True)
class Campaigned:
    """What became of the campaign under the present file. `is_complete` None: it is at work, or there is none."""

    is_complete: bool | None
    because: str


@dataclass(frozen=True, slots=True)
class Scanned:
    """What a scan found. `under_retired` counts objects under the old keys, unreadable ones that may be included.

    `under_new` counts the same for the new key; `new_used` is how often that encrypted, by its budget.
    """

    revision: int
    stale: int
    under_retired: int
    unreadable: int
    under_new: int = 0
    new_used: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What was seen just now. None: not looked at, because the step does not need it."""

    file: str
    converged: bool | None = None
    converged_because: str = ""
    campaign: Campaigned | None = None
    scan: Scanned | None = None
    compacted: bool | None = None


@dataclass(frozen=True, slots=True)
class Edit:
    """Prepare the step's edit, record where it leads, and make it."""


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing can be done now."""


@dataclass(frozen=True, slots=True)
class Move:
    """Record this: the rotation went on, or is held."""

    rotation: Rotation


@dataclass(frozen=True, slots=True)
class Look:
    """What has to be seen is not there yet: look at it."""

    at: str


@dataclass(frozen=True, slots=True)
class Next:
    """What is next, and the sentence that says why."""

    action: Edit | Wait | Move | Look
    because: str


def advance(rotation: Rotation, seen: Seen, now: str) -> Next:
    """Return what is next; `now` (ISO 8601, UTC) goes into the record."""
    if rotation.step.is_end or rotation.held:
        return Next(Wait(), rotation.held or rotation.because)
    if rotation.edited and seen.file == rotation.edited:
        return _move(rotation, f"the file is {seen.file}", now)
    if seen.file != rotation.file:
        return _hold(
            rotation,
            f"the file is {seen.file}, and {rotation.file} is expected: somebody edited it. Put the expected one back, "
            "or `rewrap rotate abort` and begin again; no key was taken away",
        )
    if rotation.step in {RotationStep.PRUNE, RotationStep.WITHDRAW}:
        return _take_away(rotation, seen, now)
    if rotation.step.is_edit:
        return _edit(rotation)
    return _pass(rotation, seen, now)


def _take_away(rotation: Rotation, seen: Seen, now: str) -> Next:
    """Take a key away only right after a look: whoever drives may have been away for days."""
    if rotation.by_hand and rotation.edited:
        return _edit(rotation)
    against = _against if rotation.step is RotationStep.PRUNE else _against_withdrawal
    return against(rotation, seen, now) or _edit(rotation)


def _against_withdrawal(rotation: Rotation, seen: Seen, now: str) -> Next | None:
    """Return what speaks against the new key being unused; None when a scan after all were asked found nothing."""
    if seen.converged is None:
        return Next(Look("apiservers"), f"do all kube-apiservers run {rotation.file}, in which the new key only reads?")
    if not seen.converged:
        return Next(Wait(), seen.converged_because)
    if seen.scan is None:
        return Next(Look("scan"), "is nothing under the new key?")
    scan = seen.scan
    if not scan.under_new and not scan.new_used:
        return None
    because = (
        f"aborted by an operator; the new key stays in the file as one that only reads: at revision {scan.revision}, "
        f"{scan.under_new} objects are, or may be, under it, and it may have encrypted {scan.new_used} times"
    )
    return Next(Move(rotation.at(RotationStep.ABORTED, because, now)), because)


def _edit(rotation: Rotation) -> Next:
    if rotation.by_hand and rotation.edited:
        return Next(Wait(), f"the file with the hash {rotation.edited} has to be put in its place by hand")
    because = _EDITS[rotation.step].format(key=rotation.key_name, provider=rotation.provider)
    return Next(Edit(), f"handed to an operator: {because}" if rotation.by_hand else because)


_EDITS = {
    RotationStep.ADD: "{provider}:{key} is added to the file, to read with",
    RotationStep.PROMOTE: "all kube-apiservers can read with {provider}:{key}; it becomes the key that writes",
    RotationStep.WITHDRAW: "nothing is under {provider}:{key}, and it never encrypted; it is removed from the file",
    RotationStep.PRUNE: "nothing holds the old keys any more; they are removed from the file",
}


def _pass(rotation: Rotation, seen: Seen, now: str) -> Next:
    """Return what a step that only looks leads to."""
    match rotation.step:
        case RotationStep.SPREAD | RotationStep.SWITCH | RotationStep.SETTLE | RotationStep.RETURN:
            return _converge(rotation, seen, now)
        case RotationStep.REWRAP:
            return _rewrap(rotation, seen, now)
        case RotationStep.PROVE:
            return _prove(rotation, seen, now)
    return _compact(rotation, seen, now)


def _converge(rotation: Rotation, seen: Seen, now: str) -> Next:
    if seen.converged is None:
        return Next(Look("apiservers"), f"do all kube-apiservers run {rotation.file}?")
    if not seen.converged:
        return Next(Wait(), seen.converged_because)
    if rotation.step is RotationStep.RETURN:
        because = f"aborted by an operator; the unused key is gone from the file, and {seen.converged_because}"
        return _move(rotation, because, now)
    return _move(rotation, seen.converged_because, now)


def _rewrap(rotation: Rotation, seen: Seen, now: str) -> Next:
    if seen.campaign is None:
        return Next(Look("campaign"), "is everything rewritten?")
    if not seen.campaign.is_complete:
        return Next(Wait(), seen.campaign.because)
    return _move(rotation, seen.campaign.because, now)


def _prove(rotation: Rotation, seen: Seen, now: str) -> Next:
    against = _against(rotation, seen, now)
    if against is not None or seen.scan is None:
        return against or _LOOK_AT_ALL  # never the latter: nothing speaks against it only after a scan
    proven = replace(rotation, proof_revision=seen.scan.revision)
    return _move(proven, f"a scan at revision {seen.scan.revision} found nothing under the old keys", now)


def _compact(rotation: Rotation, seen: Seen, now: str) -> Next:
    if seen.compacted is None:
        return Next(Look("history"), f"does etcd still answer at revisions before {rotation.proof_revision}?")
    if not seen.compacted:
        return Next(
            Wait(),
            f"etcd still answers at revisions before {rotation.proof_revision}, which may hold the old keys; "
            "kube-apiserver compacts every five minutes",
        )
    if rotation.prune:
        because = f"etcd has compacted past revision {rotation.proof_revision}"
        return Next(Move(rotation.at(RotationStep.PRUNE, because, now)), because)
    # Minutes have passed since the proof: a node may have got its old file back, and written with it.
    against = _against(rotation, seen, now)
    if against is not None:
        return against
    names = ", ".join(str(key) for key in rotation.retired)
    because = f"nothing in this cluster is under {names} any more: it may be removed. Backups still need it"
    return Next(Move(rotation.at(RotationStep.DONE, because, now)), because)


_LOOK_AT_ALL = Next(Look("scan"), "is nothing under the old keys?")


def _against(rotation: Rotation, seen: Seen, now: str) -> Next | None:
    """Return what speaks against the old keys being unused; None when a scan after all were asked found nothing."""
    if seen.converged is None:
        return Next(Look("apiservers"), f"do all kube-apiservers still run {rotation.file}?")
    if not seen.converged:
        return Next(Wait(), seen.converged_because)
    if seen.scan is None:
        return _LOOK_AT_ALL
    scan = seen.scan
    if scan.stale or scan.under_retired:
        count = max(scan.stale, scan.under_retired)
        because = f"at revision {scan.revision}, {count} objects are, or may be, under another key than the primary"
        return Next(Move(rotation.at(RotationStep.REWRAP, because, now)), because)
    if scan.unreadable:
        because = f"at revision {scan.revision}, {scan.unreadable} objects can't be read: `rewrap verify` names them"
        return Next(Wait(), because)
    return None


def _move(rotation: Rotation, because: str, now: str) -> Next:
    return Next(Move(rotation.at(_AFTER[rotation.step], because, now)), because)


def _hold(rotation: Rotation, because: str) -> Next:
    return Next(Move(replace(rotation, held=because)), because)


def prepared(rotation: Rotation, edited: str, fingerprint: str) -> Rotation:
    """Return the rotation with an edit that is about to be made: on record first, so that a crash finds its way."""
    return replace(rotation, edited=edited, fingerprint=fingerprint or rotation.fingerprint)


def aborted(rotation: Rotation, now: str) -> Rotation:
    """Return the rotation ended. The file stays as it is: something may be stored under every key in it."""
    stays = {
        RotationStep.ADD: "the file was not touched, or holds the new key as one that only reads",
        RotationStep.SPREAD: "the new key stays in the file as one that only reads",
        RotationStep.WITHDRAW: "the new key, as one that only reads, stays in the file, or was removed a moment ago",
        RotationStep.RETURN: "the new key is gone from the file; a kube-apiserver may still read with it",
    }.get(rotation.step, "the new key stays in the file, for objects may be under it")
    return replace(rotation, held="").at(RotationStep.ABORTED, f"aborted by an operator; {stays}", now)


def may_be_withdrawn(rotation: Rotation) -> bool:
    """Whether the new key was never first anywhere, and no edit is prepared that makes it so."""
    if rotation.step is RotationStep.PROMOTE:
        return not rotation.edited
    return rotation.step in {RotationStep.ADD, RotationStep.SPREAD, RotationStep.WITHDRAW, RotationStep.RETURN}


def withdrawing(rotation: Rotation, file: str, now: str) -> Rotation:
    """Return the rotation on its way back; `file` is the hash of the file. Raises RefusedError when it is too late.

    Where the file does not have the new key yet, there is nothing to remove, and it is aborted.
    """
    if not may_be_withdrawn(rotation):
        raise RefusedError(
            f"the rotation is at the step {rotation.step.value}: the new key may write already, and stays. Go on with "
            "`rewrap rotate resume`, or leave things as they are with `rewrap rotate abort`"
        )
    if rotation.step in {RotationStep.WITHDRAW, RotationStep.RETURN}:
        return replace(rotation, held="")
    if rotation.step is RotationStep.ADD and file != rotation.edited:
        if rotation.edited and not rotation.by_hand:
            raise RefusedError("the new key is added to the file at this moment, or that was killed: resume it first")
        return aborted(rotation, now)
    because = "aborted by an operator, who wants the unused key removed again"
    return replace(rotation, held="").at(RotationStep.WITHDRAW, because, now)


def is_way_back(rotation: Rotation, before: GenerationRecord, after: GenerationRecord) -> bool:
    """Whether the later configuration is the earlier one without the key that this rotation withdraws, or withdrew."""
    if not (rotation.is_withdrawn or rotation.step in {RotationStep.WITHDRAW, RotationStep.RETURN}):
        return False
    kept = tuple(
        (name, tuple(key for key in chain if key.fingerprint != rotation.fingerprint))
        for name, chain in before.resources
    )
    return before.resources != after.resources == kept


def resumed(rotation: Rotation, file: str) -> Rotation:
    """Return the rotation no longer held; whether the file, whose hash this is, is right is looked at again.

    What an operator was to put in place, and is not there, is handed out anew: it may have been lost.
    """
    is_missing = rotation.by_hand and file == rotation.file
    if is_missing:
        return replace(rotation, held="", edited="", waits="")
    return replace(rotation, held="")


def paused(rotation: Rotation) -> Rotation:
    """Return the rotation held by an operator's word."""
    return replace(rotation, held="paused by an operator")
