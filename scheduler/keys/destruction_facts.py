"""Gathers the keys that `destruction.py` judges: those of the given files, the cluster and the catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.provider import KeyedProvider, ProviderType
from kube_rewrap.scheduler.backups.catalogue import Catalogue
from kube_rewrap.scheduler.keys.destruction import NOT_SCANNED, Candidate, is_same
from kube_rewrap.scheduler.keys.removal import judge_absence
from kube_rewrap.scheduler.keys.removal_facts import RemovalVerdicts
from kube_rewrap.worker.verdict import KeyRef

_OTHERS = "others"


@dataclass(slots=True)
class _Found:
    """Where a key was found: its names, the files other than the present one, and whether the present one has it."""

    key: KeyRef
    names: dict[str, None] = field(default_factory=dict)
    files: dict[str, None] = field(default_factory=dict)
    is_configured: bool = False


def candidates(
    present: Generation | None, archived: Sequence[Generation], judged: RemovalVerdicts | None, catalogue: Catalogue
) -> list[Candidate]:
    """Return every key of the present file, the archived ones, the cluster's KEKs, and the catalogue; each once.

    `judged`: the verdicts of a scan of the cluster under the present file; None where it was not scanned.
    """
    found: dict[tuple[str, str, str], _Found] = {}
    for generation in (*(() if present is None else (present,)), *archived):
        for key in _local_keys(generation):
            one = _add(found, key)
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
    return [_candidate(one, judged) for one in found.values()]


def _add(found: dict[tuple[str, str, str], _Found], key: KeyRef) -> _Found:
    key = key.kek
    # The same material under two names is one key. The key id of a KEK belongs to its provider.
    name = key.name if key.provider == ProviderType.KMS else ""
    one = found.setdefault((key.provider, name, key.fingerprint), _Found(key))
    one.names[key.name] = None
    return one


def _local_keys(generation: Generation) -> Iterable[KeyRef]:
    for entry in generation.configuration.entries:
        for provider in entry.providers:
            if isinstance(provider, KeyedProvider):
                for key in provider.keys:
                    yield KeyRef(provider.type, key.name, key.secret.fingerprint(provider.type))


def _candidate(one: _Found, judged: RemovalVerdicts | None) -> Candidate:
    removable, objects, cluster = _in_cluster(one, judged)
    return Candidate(one.key, tuple(one.names), tuple(one.files), one.is_configured, removable, objects, cluster)


def _in_cluster(one: _Found, judged: RemovalVerdicts | None) -> tuple[bool | None, int | None, tuple[str, ...]]:
    """Return whether the key may leave the file, the objects under it, and the blockers."""
    if judged is None:
        return None, None, (NOT_SCANNED,)
    verdicts = [verdict for verdict in judged.keys if is_same(verdict.key, one.key)]
    if verdicts:
        blockers = tuple(dict.fromkeys(blocker for verdict in verdicts for blocker in verdict.blockers))
        return not blockers, max(verdict.objects for verdict in verdicts), blockers
    verdict = judge_absence(judged.proof, one.key, judged.around)
    return None, verdict.objects, verdict.blockers
