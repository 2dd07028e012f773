"""Judges whether a rotation may begin, and lists its steps. Pure: facts in, reasons out.

It returns all reasons at once, and a rotation with a reason against it is not recorded. `rewrap rotate` shows the
reasons before it asks for consent; the rotation controller logs them.

1. No other rotation is unfinished, and no campaign is running or was paused by an operator. A campaign that is paused
   for the write budget, or outside the maintenance windows, is no reason: the campaign of the new file supersedes it.
   Nor is a running one if a key is exhausted, since kube-apiserver continues to write with that.
2. All kube-apiservers are known to run the present file.
3. This process can replace the file, unless an operator does.
4. The new key can encrypt every object of its entries, and etcd has room for another copy of them.
5. The plugin of a KMS provider to add is healthy, names a KEK, wraps and unwraps: else no kube-apiserver would load the
   file, or none could write.
6. The present file did not turn a KMS provider into another version under its name.

Unreadable objects are no reason: the new key is needed all the same. The rotation will wait at its proof.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.worker.records.budget import LIMITED_PROVIDER
from kube_rewrap.worker.records.campaign import Campaign, Pause
from kube_rewrap.worker.records.rotation import Rotation

_RESTING = {Pause.BUDGET, Pause.WINDOW}


@dataclass(frozen=True, slots=True)
class Workload:
    """Counts of a scan over the rotated entries. `space`: why etcd has no room for a copy of them, "" = it has."""

    objects: int = 0
    unreadable: int = 0
    space: str = ""


@dataclass(frozen=True, slots=True)
class PreflightFacts:
    """The facts gathered before a rotation.

    `other` and `campaigns` are unfinished ones; `file` are the reasons why the file can't be replaced; `registry` says
    why nothing could be scanned, `plugin` why the plugin of the KMS provider to add can't be used, "" = no reason.
    `workload` None: not scanned. `is_exhausted`: a retired key is. `growth`: by how many bytes a value
    grows under the KMS provider to add. `refused`: why nothing may be written under the present file.
    """

    convergence: Convergence
    other: Rotation | None = None
    campaigns: tuple[Campaign, ...] = ()
    file: tuple[str, ...] = ()
    registry: str = ""
    workload: Workload | None = None
    is_exhausted: bool = False
    plugin: str = ""
    refused: str = ""
    growth: int = 0


def reasons_against(rotation: Rotation, facts: PreflightFacts, gcm_limit: int) -> tuple[str, ...]:
    """Return every reason not to begin, in sentences; none: the rotation may begin."""
    return tuple(_reasons(rotation, facts, gcm_limit))


def _reasons(rotation: Rotation, facts: PreflightFacts, gcm_limit: int) -> Iterable[str]:
    other = facts.other
    if other is not None:
        yield (
            f"the rotation {other.id} is at the step {other.step.value}: continue it with `rewrap rotate resume`, or "
            "end it with `rewrap rotate abort`"
        )
    for one in facts.campaigns:
        if one.paused_for not in _RESTING and not (facts.is_exhausted and one.paused_for is None):
            yield f"the campaign {one.id} is {one.state.value}: wait for its end, or cancel it"
    if facts.convergence.blocker:
        yield facts.convergence.blocker
    yield from (f"{fault}; `rewrap rotate --manual` says step by step what to write" for fault in facts.file)
    if facts.refused:
        yield facts.refused
    if facts.plugin:
        yield f"the KMS provider to add can't be used from here: {facts.plugin}"
    if facts.registry:
        yield facts.registry
    if facts.workload is not None:
        yield from _too_large(rotation, facts.workload, gcm_limit)


def _too_large(rotation: Rotation, workload: Workload, gcm_limit: int) -> Iterable[str]:
    if rotation.provider == LIMITED_PROVIDER and workload.objects > gcm_limit:
        yield (
            f"{workload.objects} objects are to be encrypted with the new aesgcm key, which may encrypt {gcm_limit} "
            "times. Take --provider secretbox, or a key for each entry (--resource), or raise --gcm-limit (at most "
            "4294967296, NIST SP 800-38D)"
        )
    if workload.space:
        yield workload.space


def steps_of(rotation: Rotation) -> tuple[tuple[str, str], ...]:
    """Return each step, and what happens in it."""
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
            ("converge", "every kube-apiserver has to load that"),
        ]
    return tuple(steps)
