"""May this key go? Pure.

A key is removable only when every blocker was checked and is absent. What is not known is a blocker of
its own, never a silent yes:

1. Objects under it; unreadable ones that may be; an entry that still writes with it, be it for what is not there yet.
2. The scan covered a part only, or a campaign is unfinished.
3. A kube-apiserver runs, or may run, another configuration.
4. No campaign under this configuration was proven complete, or the watch saw a write with the key after it.
5. etcd still answers at revisions before that proof: watches and paged lists may read what it held then.

Not handled: backups, which hold what they hold. The words of every "removable" say so.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef

UNFINISHED = "a campaign is unfinished"
PARTIAL = "only a part of the configured resources was scanned"
NEVER_PROVEN = "no campaign over everything is on record as complete under this configuration: `rewrap run` makes one"
BACKUPS = "Backups of etcd hold old ciphertext for as long as they are kept: archive a key, never destroy it."


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What is known beside the scan.

    `unconverged` says why the kube-apiservers are not known to run this configuration, "" = they do.
    `proof_revision` is that of the newest complete campaign over everything, 0 = there is none, and
    `compacted` whether etcd refuses to answer before it. `last_written` holds, by fingerprint, the last
    revision at which a watch saw the key used. `chains` are the keys that the file has for each name, in its order:
    those for which nothing was there to be scanned, too.
    """

    unconverged: str
    campaign_unfinished: bool
    whole: bool
    proof_revision: int = 0
    compacted: bool = False
    last_written: Mapping[str, int] = field(default_factory=dict)
    chains: tuple[tuple[str, tuple[KeyRef, ...]], ...] = ()


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


def judge_keys(proof: Inventory, around: Surroundings) -> list[KeyVerdict]:
    """Judge every configured key by a proof scan and what is known beside it."""
    common = (
        *((UNFINISHED,) if around.campaign_unfinished else ()),
        *(() if around.whole and not proof.unknown else (PARTIAL,)),
        *((around.unconverged,) if around.unconverged else ()),
    )
    return [_judge(proof, key, common, around) for key in _configured_keys(proof, around)]


def _configured_keys(proof: Inventory, around: Surroundings) -> list[KeyRef]:
    """Return the keys of all scanned resources, then what else is in the file; without repeats, in configured order."""
    chains = [*(tally.configured for tally in proof.resources), *(chain for _, chain in around.chains)]
    return list(dict.fromkeys(key for chain in chains for key in chain))


def _judge(proof: Inventory, key: KeyRef, common: Iterable[str], around: Surroundings) -> KeyVerdict:
    """Judge one key. The same material under another name is the same key."""
    objects = _sum(proof, key)
    blockers = []
    primary_of = [tally.resource for tally in proof.resources if _same(tally.primary, key)]
    primary_of = primary_of or [name for name, chain in around.chains if _same(chain[0], key)]
    if primary_of:
        blockers.append(f"it is the primary of {', '.join(primary_of)}")
    if objects:
        blockers.append(f"{objects} objects are under it")
    claimed = sum(tally.claimed.get(key, 0) for tally in proof.resources)
    if claimed:
        blockers.append(f"{claimed} unreadable objects may be under it")
    return KeyVerdict(key, objects, (*blockers, *common, *_in_the_past(key, around)))


def _in_the_past(key: KeyRef, around: Surroundings) -> Iterable[str]:
    """Return what speaks against a key in revisions that etcd may still show."""
    proof = around.proof_revision
    if not proof:
        return (NEVER_PROVEN,)
    written = around.last_written.get(key.fingerprint, 0)
    if written > proof:
        return (f"it was written with at revision {written}, after the last proof at revision {proof}",)
    if not around.compacted:
        because = f"etcd has not compacted past revision {proof}, where a scan found nothing under it"
        return (f"{because}: watches may still show older values",)
    return ()


def _sum(proof: Inventory, key: KeyRef) -> int:
    return sum(under.objects for tally in proof.resources for other, under in tally.keys.items() if _same(other, key))


def _same(one: KeyRef, other: KeyRef) -> bool:
    if one.provider == other.provider == ProviderType.KMS:
        return one.name == other.name  # the configuration does not say under which key id, a value does
    if one.fingerprint == PLAINTEXT_FINGERPRINT:
        return one == other
    return one.fingerprint == other.fingerprint
