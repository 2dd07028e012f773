"""Turns a request into a rotation before its first step: which entries, which type of key, which key name."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from kube_rewrap.config.editing.edit import entries_naming, new_key_name
from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, load
from kube_rewrap.config.encryption.generation import content_hash
from kube_rewrap.config.encryption.provider import KmsProvider, Provider, ProviderType
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.scheduler.rotation.edits import keys_of, primary_of, refused, require_no_weaker
from kube_rewrap.worker.records.campaign import new_id
from kube_rewrap.worker.records.rotation import Rotation, RotationStep

_KEYED = (ProviderType.SECRETBOX, ProviderType.AESGCM, ProviderType.AESCBC)


@dataclass(frozen=True, slots=True)
class RotationRequest:
    """A requested rotation. No resources: every entry of the file. `provider` None: the type of the present key.

    `stanza` is the KMS provider to add, and `stanza_hash` the hash of its text, where `provider` is KMS.
    """

    resources: tuple[str, ...] = ()
    provider: ProviderType | None = None
    stanza: KmsProvider | None = None
    stanza_hash: str = ""
    prune: bool = False
    by_hand: bool = False
    because: str = "asked for"


def plan_rotation(
    raw: bytes,
    file: str,
    request: RotationRequest,
    taken: Iterable[str],
    now: datetime,
    *,
    is_idle: Callable[[str], bool],
    kms_taken: Collection[str] = (),
) -> Rotation:
    """Return a rotation before its first step. Raises SettingsError for a request that can't be met, ConfigError.

    `taken` are the names of earlier keys, which backups and archived files may still hold; `kms_taken` those of KMS
    providers that wrote before. Idle names govern nothing; an entry with idle names only gets no key.
    """
    configuration = load(raw, file)
    named = _entries(configuration, request.resources)
    entries = tuple(one for one in named if not all(map(is_idle, configuration.entries[one].resources)))
    if not entries:
        idle = ", ".join(dict.fromkeys(name for one in named for name in configuration.entries[one].resources))
        raise refused("--resource", f"{idle}: governs nothing, so a key would write nothing", "see `rewrap check`")
    primaries = [configuration.entries[index].providers[0] for index in entries]
    kind = request.provider or _common_type(primaries)
    require_no_weaker(kind, primaries)
    present = [provider for entry in configuration.entries for provider in entry.providers]
    names = [key.name for provider in present for key in keys_of(provider)]
    retired = dict.fromkeys(primary_of(provider) for provider in primaries)
    resources = dict.fromkeys(name for index in entries for name in configuration.entries[index].resources)
    planned = Rotation(
        id=new_id(now, os.urandom(2)),
        step=RotationStep.ADD,
        because=request.because,
        entries=entries,
        resources=tuple(name for name in resources if not is_idle(name)),
        provider=kind.value,
        key_name=new_key_name([*names, *taken], now.date()) if request.stanza is None else request.stanza.name,
        retired=tuple(retired),
        file=content_hash(raw),
        by_hand=request.by_hand,
        prune=request.prune,
        stanza=request.stanza_hash,
    )
    _require_free(planned, (one.name for one in present if isinstance(one, KmsProvider)), kms_taken)
    return planned


def _require_free(planned: Rotation, kms_names: Iterable[str], kms_taken: Collection[str]) -> None:
    """Raise SettingsError where a KMS provider to add has a name that was used: names are prefixes of values.

    Values under the former provider of that name, in etcd or in a backup, would be given to the new one's plugin.
    """
    names = {key.name for key in planned.new_keys} if planned.stanza else set()
    if clash := sorted(names & set(kms_names)):
        raise refused("--kms-file", f"the file has a KMS provider named {', '.join(clash)}", "choose another name")
    if clash := sorted(names & set(kms_taken)):
        message = (
            f"an earlier KMS provider was named {', '.join(clash)}: what is under it, in backups, too, has that name"
        )
        raise refused("--kms-file", message, "choose another name")


def _entries(configuration: EncryptionConfiguration, resources: Sequence[str]) -> tuple[int, ...]:
    if not resources:
        return tuple(range(len(configuration.entries)))
    found = entries_naming(configuration, [GroupResource.parse(name) for name in resources])
    missing = [name for name in resources if not entries_naming(configuration, [GroupResource.parse(name)])]
    if missing:
        raise refused("--resource", f"no entry of the file names {', '.join(missing)}", "name it as the file does")
    return found


def _common_type(primaries: Sequence[Provider]) -> ProviderType:
    kinds = {provider.type for provider in primaries}
    if len(kinds) == 1 and (kind := next(iter(kinds))) in _KEYED:
        return kind
    shown = ", ".join(sorted(kind.value for kind in kinds))
    raise refused(
        "--provider",
        f"the chosen resources are written with {shown}: what shall the new key be for?",
        f"choose one of {', '.join(kind.value for kind in _KEYED)}",
    )
