"""Judges whether a key may be destroyed: whether neither the cluster nor a backup needs it any more. Pure.

A key is destroyable when each of these blockers was checked and is absent. A fact that is not known is a blocker, too.

1. The present EncryptionConfiguration has the key.
2. The cluster may hold something under it: any blocker of its removal (`removal.py`), or the cluster was not scanned.
3. A backup in the catalogue needs it, at its newest revision or for an older one that is still in the file; a backup
   that expired counts as long as its file is still there.
4. A backup is not readable whole, or holds values of which it is not known which key they need, or encrypted ones
   outside the etcd prefix below which it was proven; unless it was added below that other prefix, too.
5. A line of the catalogue is damaged: it may have named a backup; or another user could have written the catalogue.
6. No backup of some object of this cluster that was proven readable without the key is left, or none of the time since
   the present configuration is in force. Without one the catalogue may be an old copy, or lack its last lines; with one
   it lacks no backup from before the key left the file.
7. No given file has the key, so that it is not known what it is; KEKs are in no file. Values under KMS v1 name no KEK:
   they may need any.

A key is its bytes: 1 to 3 hold for them under each provider type and name. A KEK is its key id, under each provider.

Not handled: backups that were never added, copies, and other clusters that use the key. Every output says so
(`DESTRUCTION`). Nothing is destroyed here.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.scheduler.backups.catalogue import Backup, Catalogue
from kube_rewrap.worker.verdict import KeyRef

DESTRUCTION = (
    "A catalogue knows only the backups that were added to it. Once a key is destroyed, nothing that is under it can "
    "be read again: copies of backups, disks, exports. rewrap destroys no key."
)
NOT_SCANNED = "the cluster was not scanned: `rewrap keys` does it"
IN_FILE = "the present EncryptionConfiguration has it"
NO_SPARE = "no backup in the catalogue was proven readable without it"
OLD_CATALOGUE = "no such backup is of the time since the present EncryptionConfiguration is in force: add one"
NO_FILE = "none of the given files has it: name them with --keys"
NO_KEK = "it stands for a KMS provider whose values name no KEK: nothing shows which ones they need"
_OTHERS = "others"
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Candidate:
    """A key to judge. `names` are its names in the given files, `files` those that have it; the present one is not.

    `configured`: whether the present EncryptionConfiguration has it. `removable`: whether it may leave that file, None
    if it is not there, or the cluster was not scanned. `in_use`: the objects under it in the cluster, None = not known.
    `cluster`: the blockers of its removal from the cluster. `also`: the keys of other provider types that have the same
    bytes, whether or not a file has them.
    """

    key: KeyRef
    names: tuple[str, ...]
    files: tuple[str, ...]
    configured: bool
    removable: bool | None
    in_use: int | None
    cluster: tuple[str, ...]
    also: tuple[KeyRef, ...] = ()


@dataclass(frozen=True, slots=True)
class Destruction:
    """The verdict on one key. `needed_by` counts the backups that need it; `until`: when the last of them expires.

    `until` is None where one does not expire, or none needs it.
    """

    candidate: Candidate
    needed_by: int
    until: str | None
    blockers: tuple[str, ...]

    @property
    def destroyable(self) -> bool:
        """Whether it has no blocker."""
        return not self.blockers

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        one = self.candidate
        return {
            "provider": one.key.provider,
            "fingerprint": one.key.fingerprint,
            "names": list(one.names),
            "files": list(one.files),
            "configured": one.configured,
            "objects": one.in_use,
            "removable": one.removable,
            "needed_by": self.needed_by,
            "until": self.until,
            "destroyable": self.destroyable,
            "blockers": list(self.blockers),
        }


def judge_destruction(
    candidates: Iterable[Candidate], catalogue: Catalogue, now: float, since: int = 0, prefix: str = ""
) -> list[Destruction]:
    """Judge every key by the cluster's verdict on it and the catalogue; `now` in seconds since 1970.

    `since`: the revision since which the present configuration is in force, `prefix` the etcd prefix of the cluster;
    0 and "" where it was not scanned.
    """
    kept = catalogue.kept(now)
    common = tuple(_common(catalogue, kept))
    # A backup that expired a moment ago blocks for a day, but is no spare one.
    left = [one for one in kept if one.expires_at > now or one.digest in catalogue.present]
    spare = [one for one in left if one.readable and one.objects and one.prefix in {prefix, ""}]
    return [_judge(one, common, kept, spare, now, since) for one in candidates]


def _common(catalogue: Catalogue, kept: Sequence[Backup]) -> Iterable[str]:
    if catalogue.distrust:
        yield f"another user could have written the catalogue: {catalogue.distrust}"
    if catalogue.damaged:
        count = len(catalogue.damaged)
        yield f"damaged lines of the catalogue may have named backups: {count}; `rewrap backups list` shows them"
    if closed := [one for one in kept if not one.readable]:
        yield f"backups that were not readable whole may need it: {_named(closed)}"
    if outside := _not_looked_at(kept):
        yield f"encrypted values outside their etcd prefix were not looked at in backups: {_named(outside)}"


def _not_looked_at(kept: Sequence[Backup]) -> list[Backup]:
    """Return the backups with encrypted values outside the etcd prefixes below which their file was proven."""
    prefixes: dict[str, set[str]] = defaultdict(set)
    for one in kept:
        prefixes[one.digest].add(one.prefix)
    return [
        one
        for one in kept
        if any(not any(p != one.prefix and p.startswith(path) for p in prefixes[one.digest]) for path in one.outside)
    ]


def _judge(  # noqa: PLR0917 - what is the same for all keys
    one: Candidate, common: tuple[str, ...], kept: Sequence[Backup], spare: Sequence[Backup], now: float, since: int
) -> Destruction:
    key = one.key
    needing = [backup for backup in kept if _any_is(backup.keys, key)]
    older = [backup for backup in kept if backup not in needing and _any_is(backup.history_keys, key)]
    as_other = [backup for backup in kept if any(_any_is(_all_keys(backup), other) for other in one.also)]
    unknown = [backup for backup in kept if _may_need(backup, key)]
    without = [backup for backup in spare if backup not in needing]
    blockers = (
        *((IN_FILE,) if one.configured else ()),
        *one.cluster,
        *((f"backups need it: {_named(needing)}",) if needing else ()),
        *((f"older revisions in backups are under it: {_named(older)}",) if older else ()),
        *((f"backups need the same key bytes, as another type of provider: {_named(as_other)}",) if as_other else ()),
        *((f"backups need a key that is not known, and that may be this one: {_named(unknown)}",) if unknown else ()),
        *common,
        *(() if without else (NO_SPARE,)),
        *((OLD_CATALOGUE,) if without and not any(backup.revision >= since for backup in without) else ()),
        *((NO_FILE,) if key.provider != ProviderType.KMS and not (one.files or one.configured) else ()),
        *((NO_KEK,) if key.provider == ProviderType.KMS and not key.is_kek else ()),
    )
    return Destruction(one, len(needing) + len(older), _until([*needing, *older], now), tuple(dict.fromkeys(blockers)))


def _until(backups: Sequence[Backup], now: float) -> str | None:
    """Return when the last backup goes. One that expired, and is still there, goes at a time that is not known."""
    if not backups or any(one.is_expired(now) for one in backups):
        return None
    return max(backups, key=lambda one: one.expires_at).expires


def _any_is(keys: Iterable[KeyRef], key: KeyRef) -> bool:
    return any(is_same(one, key) for one in keys)


def _all_keys(backup: Backup) -> tuple[KeyRef, ...]:
    return (*backup.keys, *backup.history_keys)


def is_same(one: KeyRef, key: KeyRef) -> bool:
    """Whether what is under `one` needs `key`.

    KEKs that were too many to count may be any of their provider. Two KMS providers with the same key id use the same
    KEK: a provider may have been renamed, or be in the file twice.
    """
    if one.provider != key.provider:
        return False
    if key.provider != ProviderType.KMS:
        return one.fingerprint == key.fingerprint
    if one.is_kek and key.is_kek and one.fingerprint != _OTHERS:
        return _key_id(one) == _key_id(key)
    return one.name == key.name


def may_be_kek(one: KeyRef, key: KeyRef) -> bool:
    """Whether what is under `one` names no single KEK, so that it may need the KEK `key`."""
    is_nameless = one.provider == ProviderType.KMS and (not one.is_kek or one.fingerprint == _OTHERS)
    return is_nameless and key.provider == ProviderType.KMS and key.is_kek and not is_same(one, key)


def _key_id(key: KeyRef) -> str:
    """Return the digits of a KEK's key id, without the place of its provider among those of its name."""
    return key.kek.fingerprint.partition("#")[0]


def _may_need(backup: Backup, key: KeyRef) -> bool:
    """Whether a backup needs a key that is not known, and that may be this one."""
    is_nameless = any(may_be_kek(one, key) for one in _all_keys(backup))
    return is_nameless or any(_may_be(one, key) for one in backup.unknown_keys)


def _may_be(unknown: KeyRef, key: KeyRef) -> bool:
    """Whether a key of which only the name in a value is known may be this one.

    A file of today may have a key under another name, so that all of its provider type count.
    """
    return not unknown.provider or unknown.provider == key.provider


def _named(backups: Sequence[Backup]) -> str:
    """Return some backups by the head of their digest and their end, and how many more there are."""
    shown = [f"{one.digest[:12]} (expires {one.expires[:10] if one.expires else 'never'})" for one in backups[:_NAMED]]
    more = f" and {len(backups) - _NAMED} more" if len(backups) > _NAMED else ""
    return f"{', '.join(shown)}{more}"
