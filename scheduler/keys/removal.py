"""Judges whether a key may be removed from the configuration. Pure.

A key is removable when each of these blockers was checked and is absent. A fact that is not known is a blocker, too.

1. Objects are under the key, or unreadable objects may be; or it is the primary key of an entry, even one without
   objects.
2. The scan covered only a part of the configured resources, or a campaign is unfinished.
3. A kube-apiserver runs, or may run, another configuration.
4. No campaign under this configuration was proven complete, or the watch saw a write under the key after the proof.
5. etcd still answers at revisions before that proof: watches and paged lists may read values under the key there.

Not handled: backups, which still hold values under a removed key. Every output of "removable" says so (`BACKUPS`).
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
    """The facts beside the scan.

    `unconverged` says why the kube-apiservers are not known to run this configuration, "" = they do. `whole`: the scan
    covered all configured resources. `proof_revision` is that of the newest complete campaign over everything, 0 =
    none; `compacted`: etcd refuses to answer before it. `last_written` holds, by fingerprint, the revision of the last
    write that a watch saw under the key. `chains` are the keys of each name in the file, in its order, also of names
    without objects.
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
    """The verdict on one configured key: the number of objects under it, and the blockers of its removal."""

    key: KeyRef
    objects: int
    blockers: tuple[str, ...]

    @property
    def removable(self) -> bool:
        """Whether it has no blocker."""
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
    """Judge every configured key by a proof scan and the facts beside it."""
    common = (
        *((UNFINISHED,) if around.campaign_unfinished else ()),
        *(() if around.whole and not proof.unknown else (PARTIAL,)),
        *((around.unconverged,) if around.unconverged else ()),
    )
    return [_judge(proof, key, common, around) for key in _configured_keys(proof, around)]


def _configured_keys(proof: Inventory, around: Surroundings) -> list[KeyRef]:
    """Return the keys of all scanned resources, then the file's other keys; each once, in configured order."""
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
    """Return the blockers that come from writes in the past, at revisions that etcd may still show."""
    proof = around.proof_revision
    if not proof:
        return (NEVER_PROVEN,)
    written = around.last_written.get(key.fingerprint, 0)
    if written > proof:
        return (f"a write under it was seen at revision {written}, after the last proof at revision {proof}",)
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
