"""Edits of the file at the steps of a rotation. Pure: text in, text out; the new key is an argument.

A record may be forged: an edit refuses a key name that no rotation makes, and a weaker cipher than the present one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Protocol

from kube_rewrap.config.editing.edit import add_read_key, add_read_kms, drop_identity, drop_key, promote
from kube_rewrap.config.encryption.configuration import load
from kube_rewrap.config.encryption.provider import Key, KeyedProvider, KmsProvider, Provider, ProviderType
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef

_KEY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")


class _Named(Protocol):
    @property
    def name(self) -> str: ...


def edit(
    rotation: Rotation, raw: bytes, file: str, fresh: SecretBytes, stanza: KmsProvider | None = None
) -> tuple[bytes, str]:
    """Return the file after the step's edit, and the new key's fingerprint ("" where the step adds none).

    `fresh` is the material of the key to add, which no process has used; `stanza` is the KMS provider that a rotation
    to KMS adds. Raises EditError when the text can't be edited unambiguously, ValueError when the record does not fit
    the file or the stanza.
    """
    kind = ProviderType(rotation.provider)
    configuration = load(raw, file)
    if not all(0 <= index < len(configuration.entries) for index in rotation.entries):
        raise ValueError("the record names an entry that the file does not have")
    match rotation.step:
        case RotationStep.ADD:
            if not _KEY_NAME.fullmatch(rotation.key_name):
                raise ValueError("the record names a key as no rotation does")
            require_no_weaker(kind, (configuration.entries[index].providers[0] for index in rotation.entries))
            if kind is ProviderType.KMS:
                return add_read_kms(raw, file, _stanzas(rotation, stanza)), ""
            key = Key(rotation.key_name, fresh)
            return add_read_key(raw, file, rotation.entries, kind, key), key.secret.fingerprint(kind.value)
        case RotationStep.PROMOTE:
            return _each(rotation, raw, lambda text, entry, name: promote(text, file, [entry], kind, name)), ""
        case RotationStep.WITHDRAW:
            return _each(rotation, raw, lambda text, entry, name: drop_key(text, file, [entry], kind, name)), ""
    return _pruned(rotation, raw, file), ""


def _each(rotation: Rotation, raw: bytes, change: Callable[[bytes, int, str], bytes]) -> bytes:
    """Return the text after a change of each entry, given the entry and the new key's name in it."""
    for entry in rotation.entries:
        raw = change(raw, entry, rotation.name_in(entry))
    return raw


def _stanzas(rotation: Rotation, stanza: KmsProvider | None) -> dict[int, KmsProvider]:
    if stanza is None or stanza.name != rotation.key_name:
        raise ValueError("the record names another KMS provider")
    return {entry: replace(stanza, name=rotation.name_in(entry)) for entry in rotation.entries}


def require_no_weaker(kind: ProviderType, primaries: Iterable[Provider]) -> None:
    """Refuse aescbc, which has no integrity, in the place of a cipher that authenticates. Raises SettingsError."""
    stronger = {one.type.value for one in primaries} & {ProviderType.AESGCM, ProviderType.SECRETBOX, ProviderType.KMS}
    if kind is ProviderType.AESCBC and stronger:
        raise refused(
            "--provider",
            f"aescbc has no integrity and would take the place of {', '.join(sorted(stronger))}",
            "choose secretbox or aesgcm",
        )


def _pruned(rotation: Rotation, raw: bytes, file: str) -> bytes:
    """Return the file without the retired keys, in the rotation's entries only."""
    for index in rotation.entries:
        providers = load(raw, file).entries[index].providers
        held = {_ref(provider, place) for provider in providers for place in range(len(keys_of(provider)) or 1)}
        for key in rotation.retired:
            if key in held and key.fingerprint == PLAINTEXT_FINGERPRINT:
                raw = drop_identity(raw, file, [index])
            elif key in held:
                raw = drop_key(raw, file, [index], ProviderType(key.provider), key.name)
    return raw


def primary_of(provider: Provider) -> KeyRef:
    """Return the key that this provider encrypts with; a KMS provider by its name and version, whatever its KEK."""
    if isinstance(provider, KeyedProvider):
        key = provider.keys[0]
        return KeyRef(provider.type.value, key.name, key.secret.fingerprint(provider.type.value))
    if isinstance(provider, KmsProvider):
        return KeyRef(ProviderType.KMS.value, provider.name, provider.api_version)
    return KeyRef(ProviderType.IDENTITY.value, "", PLAINTEXT_FINGERPRINT)


def keys_of(provider: Provider) -> Sequence[_Named]:
    """Return the keys that the file holds for this provider; none for KMS and identity."""
    return provider.keys if isinstance(provider, KeyedProvider) else ()


def _ref(provider: Provider, place: int) -> KeyRef:
    if isinstance(provider, KeyedProvider):
        key = provider.keys[place]
        return KeyRef(provider.type.value, key.name, key.secret.fingerprint(provider.type.value))
    return primary_of(provider)


def refused(place: str, message: str, remedy: str) -> SettingsError:
    """Return the error for a request that can't be met; `place` is the flag at fault."""
    return SettingsError("command line", (Fault(place, message, remedy),))
