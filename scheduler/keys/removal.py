"""Judges whether a key may be removed from the configuration. Pure.

A key is removable when each of these blockers was checked and is absent. A fact that is not known is a blocker, too.

1. Objects are under the key, or unreadable objects may be, or objects that a scan could not count by key; or it is the
   primary key of an entry, even one without objects.
2. The scan covered only a part of the configured resources, or a campaign is unfinished.
3. A kube-apiserver runs, or may run, another configuration.
4. No campaign under this configuration was proven complete, or the watch saw a write under the key after the proof.
5. etcd still answers at revisions before that proof: watches and paged lists may read values under the key there.
6. A KMS provider is judged as a key while it only reads. Where it writes, its KEKs are: the one in force is primary; a
   former one also has the blocker that a kube-apiserver left it less than four minutes ago (`Convergence.lingering`).
7. What is under KMS could not be opened, since a plugin does not serve.

Not handled: backups, which still hold values under a removed key. Every output of "removable" says so (`BACKUPS`), and
that the key ids of KMS values are claims (`KEKS`). The KEKs of KMS v1 have no key id: of those nothing is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.verdict import KMS_FINGERPRINT, KMS_FORMER_FINGERPRINT, PLAINTEXT_FINGERPRINT, KeyRef
from kube_rewrap.worker.wrapped import fingerprint_of

UNFINISHED = "a campaign is unfinished"
PARTIAL = "only a part of the configured resources was scanned"
NEVER_PROVEN = "no campaign over everything is on record as complete under this configuration: `rewrap run` makes one"
KEKS = (
    "A KMS key is removable as far as the key ids in the values say, which nothing authenticates. Backups need it, and "
    "a plugin may hold keys that it wrapped with it: disable it in the KMS before you think of destroying it."
)
BACKUPS = (
    "Backups of etcd hold old ciphertext for as long as they are kept: archive a key. `rewrap keys --catalogue` says "
    "when it may be destroyed."
)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The facts beside the scan.

    `unconverged` says why the kube-apiservers are not known to run this configuration, "" = they do. `whole`: the scan
    covered all configured resources. `proof_revision` is that of the newest complete campaign over everything, 0 =
    none; `compacted`: etcd refuses to answer before it. `last_written` holds, by fingerprint, the revision of the last
    write that a watch saw under the key. `chains` are the keys of each name in the file, in its order, also of names
    without objects, as the record of a generation names them. `keks` are the records of the KMS providers, `lingering`
    is as in Convergence. `missing`: what the scan could not open, and why, "" = it opened everything.
    """

    unconverged: str
    campaign_unfinished: bool
    whole: bool
    proof_revision: int = 0
    compacted: bool = False
    last_written: Mapping[str, int] = field(default_factory=dict)
    chains: tuple[tuple[str, tuple[KeyRef, ...]], ...] = ()
    keks: tuple[Kek, ...] = ()
    lingering: str = ""
    missing: str = ""


@dataclass(frozen=True, slots=True)
class KeyVerdict:
    """The verdict on a configured key or a KEK: the number of objects under it, and the blockers of its removal."""

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
    """Judge every configured key by a proof scan and the facts beside it; a former KEK after the one in force."""
    common = _common(proof, around)
    return [_judge(proof, key, common, around) for key in _configured_keys(proof, around)]


def judge_absence(proof: Inventory, key: KeyRef, around: Surroundings) -> KeyVerdict:
    """Judge whether the cluster has nothing under a key that is not configured: no unreadable object, above all."""
    closed = (f"{proof.unreadable} unreadable objects may be under it",) if proof.unreadable else ()
    return _judge(proof, key, (*closed, *_common(proof, around)), around)


def _common(proof: Inventory, around: Surroundings) -> tuple[str, ...]:
    """Return the blockers of every key."""
    return (
        *((UNFINISHED,) if around.campaign_unfinished else ()),
        *(() if around.whole and not proof.unknown else (PARTIAL,)),
        *((around.unconverged,) if around.unconverged else ()),
        *((around.missing,) if around.missing else ()),
    )


def _configured_keys(proof: Inventory, around: Surroundings) -> list[KeyRef]:
    """Return the keys of all scanned resources, then the file's other keys; each once, in configured order."""
    chains = [*(tally.configured for tally in proof.resources), *(chain for _, chain in around.chains)]
    configured = dict.fromkeys(key for chain in chains for key in chain)
    return list(dict.fromkeys(one for key in configured for one in (key, *_former(key, proof, around))))


def _former(key: KeyRef, proof: Inventory, around: Surroundings) -> Iterable[KeyRef]:
    """Yield the other KEKs of a KMS provider that writes under a known one: those of values, and those on record."""
    if not key.is_kek:
        return
    for tally in proof.resources:
        yield from (one.kek for one in sorted(tally.keys) if key.covers(one) and one.version == key.version)
    for kek in around.keks:
        if kek.provider == key.name:
            known = filter(None, (kek.target, kek.named, *kek.former))
            yield from (replace(key, fingerprint=fingerprint_of(one)) for one in known)


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
    if key.is_kek and any(
        (one.provider, fingerprint_of(one.named)) == (key.name, key.fingerprint) for one in around.keks
    ):
        blockers.append("its plugin names it")
    if together := sum(tally.counted_together_with(key) for tally in proof.resources):
        blockers.append(
            f"{together} objects name so many KEKs that they were counted together: some of them may be under it"
        )
    claimed = sum(_claimed(tally, key) for tally in proof.resources)
    if claimed:
        blockers.append(f"{claimed} unreadable objects may be under it")
    if key.is_kek and not primary_of and around.lingering:
        blockers.append(around.lingering)
    past = _in_the_past(key, around, _last_written(key, proof, around), is_in_use=objects > 0)
    return KeyVerdict(key, objects, (*blockers, *common, *past))


def _claimed(tally: ResourceTally, key: KeyRef) -> int:
    """Count the unreadable objects that may be under a key: for KMS, all that name the provider."""
    if key.provider != ProviderType.KMS:
        return tally.claimed.get(key, 0)
    return sum(count for other, count in tally.claimed.items() if key.covers(other))


def _last_written(key: KeyRef, proof: Inventory, around: Surroundings) -> int:
    """Return the revision of the last write under a key. Of KMS, the watch tells stale writes apart, not their keys."""
    if key.provider != ProviderType.KMS:
        return around.last_written.get(key.fingerprint, 0)
    writers = [*(tally.primary for tally in proof.resources), *(chain[0] for _, chain in around.chains)]
    is_one_in_force = any(one.provider == ProviderType.KMS for one in writers)
    names = (KMS_FORMER_FINGERPRINT,) if is_one_in_force else (KMS_FORMER_FINGERPRINT, KMS_FINGERPRINT)
    return max(around.last_written.get(name, 0) for name in names)


def _in_the_past(key: KeyRef, around: Surroundings, written: int, *, is_in_use: bool) -> Iterable[str]:
    """Return the blockers that come from writes in the past, at revisions that etcd may still show.

    For a key that is in use, objects under it are the blocker, and its past does not matter.
    """
    proof = around.proof_revision
    if not proof:
        return (NEVER_PROVEN,)
    if written > proof:
        under = "it or another former KMS key" if key.provider == ProviderType.KMS else "it"
        return (f"a write under {under} was seen at revision {written}, after the last proof at revision {proof}",)
    if not around.compacted and not is_in_use:
        because = f"etcd has not compacted past revision {proof}, where a scan found nothing under it"
        return (f"{because}: watches may still show older values",)
    return ()


def _sum(proof: Inventory, key: KeyRef) -> int:
    return sum(under.objects for tally in proof.resources for other, under in tally.keys.items() if _same(other, key))


def _same(one: KeyRef, other: KeyRef) -> bool:
    """Whether two keys are the same; a KMS provider that only reads is the same as each of its KEKs."""
    if one.provider == other.provider == ProviderType.KMS:
        versions = {one.version, other.version}
        is_provider = one.name == other.name and (len(versions) == 1 or KMS_FINGERPRINT in versions)
        return is_provider and (one.kek == other.kek or not (one.is_kek and other.is_kek))
    if one.fingerprint == PLAINTEXT_FINGERPRINT:
        return one == other
    return one.fingerprint == other.fingerprint
