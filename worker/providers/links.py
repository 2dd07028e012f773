"""The links of a provider chain: one local key, or one KMS provider, with the prefix of the values under it.

What a KMS link needs from a plugin is handed to it: the unwrapped keys to open with, the data key to seal with. The
keys of a KMS provider are named by the stored value, so what `open` returns names them; a local link always returns
its own name.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kube_rewrap.config.encryption.configuration import (
    IdentityProvider,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
)
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsRefusedError
from kube_rewrap.worker.providers import envelope, kms_v1, kms_v2
from kube_rewrap.worker.providers.aescbc import AesCbc
from kube_rewrap.worker.providers.aesgcm import AesGcm
from kube_rewrap.worker.providers.cipher import Cipher, MalformedError, OpenError
from kube_rewrap.worker.providers.identity import Identity
from kube_rewrap.worker.providers.plaintext import is_kubernetes_object
from kube_rewrap.worker.providers.secretbox import Secretbox
from kube_rewrap.worker.verdict import KMS_FINGERPRINT, PLAINTEXT_FINGERPRINT, KeyRef, Reason
from kube_rewrap.worker.wrapped import (
    DataKey,
    Plugin,
    RefusedKey,
    SourceType,
    UnwrappedKeys,
    WrappedKey,
    fingerprint_of,
    fingerprint_of_key_id,
    hash_of_key_id,
)

_KEYED: dict[ProviderType, type[AesCbc | AesGcm | Secretbox]] = {
    ProviderType.AESCBC: AesCbc,
    ProviderType.AESGCM: AesGcm,
    ProviderType.SECRETBOX: Secretbox,
}

_V1 = "v1"
_V1_CBC = "v1-cbc"


class UnrecognisedError(OpenError):
    """An authenticating cipher, or identity, opened the value, but the plaintext is not a Kubernetes object."""


class KeyRefusedError(OpenError):
    """The plugin does not unwrap the value's key; nothing was decrypted."""


class Link(Protocol):
    """One member of a chain. `body` is a stored value without the link's prefix, `key` its etcd key."""

    @property
    def prefix(self) -> bytes:
        """The start of each value under this link; empty for identity."""

    @property
    def ref(self) -> KeyRef:
        """The name in the configuration."""

    @property
    def described(self) -> KeyRef:
        """The name in the record of a generation."""

    @property
    def writes_as(self) -> KeyRef:
        """The name of the key that `seal` uses. A value that another key opened is stale."""

    def open(self, body: bytes, key: bytes, unwrapped: UnwrappedKeys) -> tuple[bytes, KeyRef]:
        """Return the Kubernetes object in a value, and the key that opened it. Raises OpenError."""

    def seal(self, plaintext: bytes, key: bytes, data_key: DataKey | None) -> bytes:
        """Return the body of a new value, sealed with fresh random bytes."""

    def reopen(self, body: bytes, key: bytes, data_key: DataKey | None) -> bytes:
        """Return the plaintext of a body that `seal` returned. Raises OpenError."""

    def reason_of(self, error: OpenError) -> Reason:
        """Return why a value with this prefix did not open."""


@dataclass(frozen=True, slots=True)
class LocalLink:
    """One key of the file, or identity."""

    prefix: bytes
    ref: KeyRef
    cipher: Cipher = field(repr=False)

    @property
    def described(self) -> KeyRef:
        """Its only name."""
        return self.ref

    @property
    def writes_as(self) -> KeyRef:
        """Its only name."""
        return self.ref

    def open(self, body: bytes, key: bytes, _: UnwrappedKeys) -> tuple[bytes, KeyRef]:
        """See Link."""
        if isinstance(self.cipher, AesCbc):
            return self.cipher.open_recognised(body, is_kubernetes_object), self.ref
        return _recognised(self.cipher.open(body, key)), self.ref

    def seal(self, plaintext: bytes, key: bytes, _: DataKey | None) -> bytes:
        """See Link."""
        return self.cipher.seal_with(os.urandom(self.cipher.nonce_size), plaintext, key)

    def reopen(self, body: bytes, key: bytes, _: DataKey | None) -> bytes:
        """See Link."""
        return self.cipher.open(body, key)

    def reason_of(self, error: OpenError) -> Reason:
        """See Link."""
        if isinstance(error, UnrecognisedError):
            return Reason.NOT_KUBERNETES
        return Reason.NOT_RECOGNISED if isinstance(self.cipher, AesCbc) else Reason.AUTHENTICATION_FAILED


@dataclass(frozen=True, slots=True)
class KmsLink:
    """One KMS provider.

    Its keys have the provider's name, and as fingerprint: that of the key id in v2, with `-type0` after it for a value
    of source type 0; `v1`, or `v1-cbc` where AES-CBC opened the value, in v1. `#2` after that is of the second
    provider of this name and version, and so on: with one name, a value does not show which of them sealed it.
    """

    prefix: bytes
    plugin: Plugin
    place: int = 1
    """Which of the providers of its name and version it is, from 1."""
    target: str | None = field(default=None, repr=False)
    """The KEK to write under, as `hash_of_key_id` names it; None = not known, or v1."""

    @property
    def ref(self) -> KeyRef:
        """All keys of the provider."""
        return KeyRef(ProviderType.KMS.value, self.plugin.name, KMS_FINGERPRINT)

    @property
    def described(self) -> KeyRef:
        """The name in the record of a generation: the KEK's where that is known, else by version."""
        return self._named(self.plugin.version) if self.target is None else self.writes_as

    @property
    def writes_as(self) -> KeyRef:
        """The name of the key under the target key id; while that is not known, `ref`, which no value is under."""
        if self.plugin.version == "v1":
            return self._named(_V1)
        return self.ref if self.target is None else self._named(fingerprint_of(self.target))

    def wanted(self, body: bytes) -> WrappedKey | None:
        """Return the wrapped key in a value, None if it is malformed."""
        try:
            return self._split(body)[0]
        except MalformedError:
            return None

    def claim(self, wrapped: WrappedKey) -> KeyRef:
        """Return the key that a value names. It proves nothing, and does not show v1's cipher."""
        if self.plugin.version == "v1":
            return self._named(_V1)
        suffix = "-type0" if wrapped.source_type is SourceType.AES_GCM_KEY else ""
        return self._named(fingerprint_of_key_id(wrapped.key_id) + suffix)

    def open(self, body: bytes, key: bytes, unwrapped: UnwrappedKeys) -> tuple[bytes, KeyRef]:
        """See Link. Raises LookupError if `unwrapped` has no answer for the value's key."""
        wrapped, inner = self._split(body)
        secret = unwrapped.get(wrapped)
        if secret is None:
            raise LookupError(f"{self.ref}: no plugin was asked for the wrapped key {wrapped.digest} before `open`")
        if isinstance(secret, RefusedKey):
            raise KeyRefusedError(secret.because)
        if self.plugin.version == "v2":
            return _recognised(kms_v2.open_with(secret, wrapped.source_type, inner, key)), self.claim(wrapped)
        plaintext, by_gcm = kms_v1.open_recognised(inner, secret, key, is_kubernetes_object)
        return _recognised(plaintext), self._named(_V1 if by_gcm else _V1_CBC)

    def seal(self, plaintext: bytes, key: bytes, data_key: DataKey | None) -> bytes:
        """See Link. Raises ValueError for a data key that is not this provider's.

        Raises KmsRefusedError for a data key under a key id other than the target.
        """
        if data_key is None or data_key.wrapped.plugin != self.plugin:
            raise ValueError(f"{self.ref}: a data key of this provider's plugin is needed to seal")
        if self.plugin.version == "v1":
            return kms_v1.seal_with(os.urandom(kms_v1.NONCE_SIZE), plaintext, key, data_key)
        if hash_of_key_id(data_key.wrapped.key_id) != self.target:
            raise KmsRefusedError(f"the data key is not under {self.writes_as}, the target; nothing was written")
        return kms_v2.seal_with(os.urandom(kms_v2.NONCE_SIZE), plaintext, key, data_key)

    def reopen(self, body: bytes, key: bytes, data_key: DataKey | None) -> bytes:
        """See Link."""
        wrapped, inner = self._split(body)
        if data_key is None or wrapped != data_key.wrapped:
            raise OpenError("the sealed value carries another wrapped key")
        if self.plugin.version == "v2":
            return kms_v2.open_with(data_key.secret, wrapped.source_type, inner, key)
        plaintext, by_gcm = kms_v1.open_recognised(inner, data_key.secret, key, lambda _: False)
        if not by_gcm:
            raise OpenError("the sealed value opened by AES-CBC")
        return plaintext

    def reason_of(self, error: OpenError) -> Reason:
        """See Link. Of a value of v1 that neither cipher opens, the reason is that of a cipher without integrity."""
        match error:
            case UnrecognisedError():
                return Reason.NOT_KUBERNETES
            case KeyRefusedError():
                return Reason.KMS_REFUSED
            case MalformedError():
                return Reason.AUTHENTICATION_FAILED
        return Reason.NOT_RECOGNISED if self.plugin.version == "v1" else Reason.AUTHENTICATION_FAILED

    def _split(self, body: bytes) -> tuple[WrappedKey, bytes]:
        return kms_v1.split(body, self.plugin) if self.plugin.version == "v1" else kms_v2.split(body, self.plugin)

    def _named(self, fingerprint: str) -> KeyRef:
        suffix = f"#{self.place}" if self.place > 1 else ""
        return KeyRef(ProviderType.KMS.value, self.plugin.name, fingerprint + suffix)


def links_of(providers: Iterable[Provider], targets: Mapping[str, str]) -> Iterable[LocalLink | KmsLink]:
    """Yield the links of a chain in configured order; `targets` are the KEKs to write under by KMS provider."""
    places: dict[bytes, int] = {}
    for provider in providers:
        match provider:
            case KeyedProvider(type=kind, keys=keys):
                for key in keys:
                    ref = KeyRef(kind.value, key.name, key.secret.fingerprint(kind.value))
                    yield LocalLink(envelope.key_prefix(kind, key.name), ref, _cipher(kind, key.secret))
            case KmsProvider(name=name, api_version=version):
                prefix = envelope.key_prefix(ProviderType.KMS, name, version)
                place = places[prefix] = places.get(prefix, 0) + 1
                target = targets.get(name) if version == "v2" else None
                yield KmsLink(prefix, _plugin_of(provider), place, target)
            case IdentityProvider():
                yield LocalLink(b"", KeyRef(ProviderType.IDENTITY.value, "", PLAINTEXT_FINGERPRINT), Identity())


def _plugin_of(provider: KmsProvider) -> Plugin:
    return Plugin(provider.name, provider.api_version, provider.endpoint, provider.timeout_seconds)


def _cipher(kind: ProviderType, secret: SecretBytes) -> Cipher:
    return _KEYED[kind](secret)


def _recognised(plaintext: bytes) -> bytes:
    """Return the plaintext if it is a Kubernetes object. Raises UnrecognisedError."""
    if is_kubernetes_object(plaintext):
        return plaintext
    raise UnrecognisedError
