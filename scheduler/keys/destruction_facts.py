"""Gathers the keys that `destruction.py` judges: those of the given files, the cluster and the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.provider import KeyedProvider, ProviderType
from kube_rewrap.scheduler.backups.catalogue import Catalogue
from kube_rewrap.scheduler.keys.destruction import NOT_SCANNED, Candidate, is_same, may_be_kek
from kube_rewrap.scheduler.keys.removal import judge_absence
from kube_rewrap.scheduler.keys.removal_facts import RemovalVerdicts
from kube_rewrap.worker.verdict import KeyRef
from kube_rewrap.worker.wrapped import fingerprint_of

OTHER_TYPE = "the present EncryptionConfiguration has the same key bytes, as another type of provider"
UNKNOWN_KEK = "the present EncryptionConfiguration has KMS providers of which it is not known which KEK they use"
_LOCAL = (ProviderType.AESCBC, ProviderType.AESGCM, ProviderType.SECRETBOX)
_OTHERS = "others"


@dataclass(slots=True)
class _Found:
    """Where a key was found: its names, the files other than the present one, and whether the present one has it.

    `also`: the keys that its bytes are as other types of provider; `is_configured_as_other`: the present one has such.
    """

    key: KeyRef
    also: tuple[KeyRef, ...] = ()
    names: dict[str, None] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)
    is_configured: bool = False
    is_configured_as_other: bool = False


def candidates(
    present: Generation | None, archived: Sequence[Generation], judged: RemovalVerdicts | None, catalogue: Catalogue
) -> list[Candidate]:
    """Return every key of the present file, the archived ones, the cluster's KEKs, and the catalogue; each once.

    `judged`: the verdicts of a scan of the cluster under the present file; None where it was not scanned.
    """
    found: dict[tuple[str, str, str], _Found] = {}
    for generation in (*(() if present is None else (present,)), *archived):
        for key, also in _local_keys(generation):
            one = _add(found, key)
            one.also = also
            if generation is present:
                one.is_configured = True
            else:
                one.files[generation.file] = None
    for key in (verdict.key for verdict in judged.keys) if judged else ():
        if key.provider == ProviderType.KMS:
            _add(found, key)
    for backup in catalogue.backups:
        for key in (*backup.keys, *backup.history_keys):
            if key.fingerprint != _OTHERS:
                _add(found, key)
    configured = [one.key for one in found.values() if one.is_configured]
    for one in found.values():
        one.is_configured_as_other = any(is_same(key, other) for key in configured for other in one.also)
    return [_candidate(one, judged) for one in found.values()]


def _add(found: dict[tuple[str, str, str], _Found], key: KeyRef) -> _Found:
    key = key.kek
    # The same material under two names is one key. The key id of a KEK belongs to its provider.
    name = key.name if key.provider == ProviderType.KMS else ""
    one = found.setdefault((key.provider, name, key.fingerprint), _Found(key))
    one.names[key.name] = None
    return one


def _local_keys(generation: Generation) -> Iterable[tuple[KeyRef, tuple[KeyRef, ...]]]:
    """Yield the keys of a file, each with those that its bytes are as other types of provider."""
    for entry in generation.configuration.entries:
        for provider in entry.providers:
            if isinstance(provider, KeyedProvider):
                for key in provider.keys:
                    as_type = {one: KeyRef(one, key.name, key.secret.fingerprint(one)) for one in _LOCAL}
                    yield as_type.pop(provider.type), tuple(as_type.values())


def _candidate(one: _Found, judged: RemovalVerdicts | None) -> Candidate:
    removable, objects, cluster = _in_cluster(one.key, judged)
    if one.is_configured_as_other:
        cluster = (OTHER_TYPE, *cluster)
    return Candidate(
        one.key, tuple(one.names), tuple(one.files), one.is_configured, removable, objects, cluster, one.also
    )


def _in_cluster(key: KeyRef, judged: RemovalVerdicts | None) -> tuple[bool | None, int | None, tuple[str, ...]]:
    """Return whether the key may leave the file, the objects under it, and the blockers."""
    if judged is None:
        return None, None, (NOT_SCANNED,)
    verdicts = [verdict for verdict in judged.keys if is_same(verdict.key, key)]
    # Unreadable objects may be under any key, also where the file has a key of another name.
    absence = judge_absence(judged.proof, key, judged.around)
    blockers = [blocker for one in (*verdicts, absence) for blocker in one.blockers]
    objects = max(one.objects for one in (*verdicts, absence))
    if key.provider == ProviderType.KMS and key.is_kek:
        blockers += _of_kek(key, judged)
    removable = not any(one.blockers for one in verdicts) if verdicts else None
    return removable, objects, tuple(dict.fromkeys(blockers))


def _of_kek(key: KeyRef, judged: RemovalVerdicts) -> Iterable[str]:
    """Yield what speaks against a KEK under whatever provider: a removal is judged for one provider."""
    if any(may_be_kek(one.key, key) or (is_same(one.key, key) and not one.key.is_kek) for one in judged.keys):
        yield UNKNOWN_KEK
    under = [(one, found.objects) for tally in judged.proof.resources for one, found in tally.keys.items()]
    if objects := sum(count for one, count in under if one.provider == key.provider and is_same(one, key)):
        yield f"{objects} objects are under it"
    if objects := sum(count for one, count in under if may_be_kek(one, key)):
        yield f"{objects} objects do not name their KEK: some of them may be under it"
    configured = {one.key.name for one in judged.keys if one.key.provider == key.provider}
    for kek in judged.around.keks:
        used = (replace(key, fingerprint=fingerprint_of(one)) for one in (kek.target, kek.named) if one)
        if kek.provider in configured and any(is_same(one, key) for one in used):
            yield f"the KMS provider {kek.provider} uses it"
