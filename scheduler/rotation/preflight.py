"""May a rotation begin? Pure: what was looked at, against what it needs, and what it will do, in words.

Everything that can be known before is judged before, and all reasons are returned at once: nothing is written
while there is one. An operator is shown them before the question; the service asks the same before it begins
by itself.

1. No other rotation, and no campaign that is at work or was paused by an operator. One that rests for the write
   budget, or outside the maintenance windows, is no reason: the new file takes its place. Nor is one at work where a
   key is exhausted, since others go on to write with that.
2. The kube-apiservers are known, and all of them run the present file.
3. The file is ours to replace, unless the operator does that.
4. The new key can encrypt every object of its entries, and etcd has room for another copy of them.

What can't be read is no reason: the new key is needed all the same. The rotation will wait at its proof.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kube_rewrap.worker.records.budget import LIMITED_PROVIDER
from kube_rewrap.worker.records.campaign import Campaign, Pause
from kube_rewrap.worker.records.rotation import Rotation

_RESTING = {Pause.BUDGET, Pause.WINDOW}


@dataclass(frozen=True, slots=True)
class Scale:
    """What a scan found of the entries that are rotated: objects, and unreadable ones. `space` speaks against it."""

    objects: int = 0
    unreadable: int = 0
    space: str = ""


@dataclass(frozen=True, slots=True)
class Ground:
    """What was looked at before a rotation.

    `unconverged` and `registry` say what speaks against it, "" = nothing does; `file` are the reasons why the file
    can't be replaced. `scale` None: it was not scanned. `is_exhausted`: a key that is to be retired is.
    """

    other: Rotation | None = None
    campaigns: tuple[Campaign, ...] = ()
    unconverged: str = ""
    file: tuple[str, ...] = ()
    registry: str = ""
    scale: Scale | None = None
    is_exhausted: bool = False


def reasons_against(rotation: Rotation, ground: Ground, gcm_limit: int) -> tuple[str, ...]:
    """Return every reason not to begin, in sentences; none = go."""
    return tuple(_reasons(rotation, ground, gcm_limit))


def _reasons(rotation: Rotation, ground: Ground, gcm_limit: int) -> Iterable[str]:
    other = ground.other
    if other is not None:
        yield (
            f"the rotation {other.id} is at the step {other.step.value}: go on with `rewrap rotate resume`, or end it "
            "with `rewrap rotate abort`"
        )
    for one in ground.campaigns:
        if one.paused_for not in _RESTING and not (ground.is_exhausted and one.paused_for is None):
            yield f"the campaign {one.id} is {one.state.value}: wait for its end, or cancel it"
    if ground.unconverged:
        yield ground.unconverged
    yield from (f"{fault}; `rewrap rotate --manual` says step by step what to write" for fault in ground.file)
    if ground.registry:
        yield ground.registry
    if ground.scale is not None:
        yield from _too_large(rotation, ground.scale, gcm_limit)


def _too_large(rotation: Rotation, scale: Scale, gcm_limit: int) -> Iterable[str]:
    if rotation.provider == LIMITED_PROVIDER and scale.objects > gcm_limit:
        yield (
            f"{scale.objects} objects are to be encrypted with the new aesgcm key, which may encrypt {gcm_limit} "
            "times. Take --provider secretbox, or a key for each entry (--resource), or raise --gcm-limit (at most "
            "4294967296, NIST SP 800-38D)"
        )
    if scale.space:
        yield scale.space


def steps_of(rotation: Rotation) -> tuple[tuple[str, str], ...]:
    """Return what will happen, by step."""
    new = f"{rotation.provider}:{rotation.key_name}"
    old = ", ".join(map(str, rotation.retired))
    hand = "you add" if rotation.by_hand else "the file gets"
    kept = "keep a copy of it" if rotation.by_hand else "the archive keeps it"
    steps = [
        ("add", f"{hand} {new}, to read with"),
        ("spread", "every kube-apiserver has to load that"),
        ("promote", f"{new} becomes the key that writes"),
        ("switch", "every kube-apiserver has to load that"),
        ("rewrap", "a campaign rewrites every object that is under another key"),
        ("prove", "a scan has to find nothing under the old keys"),
        ("compact", "etcd has to compact past that scan"),
    ]
    if rotation.prune:
        steps += [
            ("prune", f"{old} is removed from the file, right after another scan; {kept}"),
            ("settle", "every kube-apiserver has to load that"),
        ]
    return tuple(steps)
