"""May this key go? Pure.

A key is removable only when every blocker was checked and is absent. What can't be checked yet is a
blocker of its own, never a silent yes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from worker.model.inventory import Inventory
from worker.model.verdict import PLAINTEXT_FINGERPRINT, KeyRef

NOT_CONVERGED = "the kube-apiservers are not known to run this configuration"
NOT_COMPACTED = "etcd is not known to have compacted past the last revision that held it; watches still read old values"
UNFINISHED = "a campaign is unfinished"
PARTIAL = "only a part of the configured resources was scanned"


@dataclass(frozen=True, slots=True)
class KeyVerdict:
    """One configured key: what is under it, and what speaks against its removal."""

    key: KeyRef
    objects: int
    blockers: tuple[str, ...]

    @property
    def removable(self) -> bool:
        """Whether nothing speaks against it."""
        return not self.blockers

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "provider": self.key.provider,
            "key": self.key.name,
            "fingerprint": self.key.fingerprint,
            "objects": self.objects,
            "removable": self.removable,
            "blockers": list(self.blockers),
        }


def judge_keys(proof: Inventory, *, campaign_unfinished: bool, whole: bool) -> list[KeyVerdict]:
    """Judge every configured key by a proof scan; `whole` says that the scan covered all that is governed."""
    common = (
        *((UNFINISHED,) if campaign_unfinished else ()),
        *(() if whole and not proof.unknown else (PARTIAL,)),
        NOT_CONVERGED,
        NOT_COMPACTED,
    )
    return [_judge(proof, key, common) for key in configured_keys(proof)]


def configured_keys(proof: Inventory) -> list[KeyRef]:
    """Return the configured keys of all scanned resources, without repeats, in configured order."""
    return list(dict.fromkeys(key for tally in proof.resources for key in tally.configured))


def _judge(proof: Inventory, key: KeyRef, common: Iterable[str]) -> KeyVerdict:
    """Judge one key. The same material under another name is the same key."""
    objects = _sum(proof, key)
    blockers = []
    primary_of = [tally.resource for tally in proof.resources if _same(tally.primary, key)]
    if primary_of:
        blockers.append(f"it is the primary of {', '.join(primary_of)}")
    if objects:
        blockers.append(f"{objects} objects are under it")
    claimed = sum(tally.claimed.get(key, 0) for tally in proof.resources)
    if claimed:
        blockers.append(f"{claimed} unreadable objects may be under it")
    return KeyVerdict(key, objects, (*blockers, *common))


def _sum(proof: Inventory, key: KeyRef) -> int:
    return sum(under.objects for tally in proof.resources for other, under in tally.keys.items() if _same(other, key))


def _same(one: KeyRef, other: KeyRef) -> bool:
    if one.fingerprint == PLAINTEXT_FINGERPRINT or one.provider == "kms":
        return one == other
    return one.fingerprint == other.fingerprint
