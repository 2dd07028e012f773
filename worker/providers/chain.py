"""The provider chain: opens a value with any key, reports which key opened it, and seals with the first key.

Follows kubernetes/apiserver pkg/storage/value/transformer.go:

1. `open` tries, in configured order, every key whose prefix the value has; after a failure it tries the next match.
   Two keys with the same name are legal, and it tries both.
2. `identity` has the empty prefix and refuses encrypted values; then `open` tries the later keys.
3. `seal` uses the first key of the first provider, the primary. A value is current when the primary opened it,
   which proves the key material, not just the name.

Beyond upstream: an opened value must also be a Kubernetes object, else `open` tries the next match; and `seal` opens
its result again and compares it before it returns it. For a cipher that does not authenticate, a verdict never
contains why a key failed: see `aescbc.py`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from kube_rewrap.config.encryption.configuration import (
    IdentityProvider,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
)
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import SealError, UnsupportedPrimaryError
from kube_rewrap.worker.providers import envelope
from kube_rewrap.worker.providers.aescbc import AesCbc
from kube_rewrap.worker.providers.aesgcm import AesGcm
from kube_rewrap.worker.providers.cipher import Cipher, OpenError
from kube_rewrap.worker.providers.identity import Identity
from kube_rewrap.worker.providers.kms import Kms, KmsUnsupportedError
from kube_rewrap.worker.providers.plaintext import is_kubernetes_object
from kube_rewrap.worker.providers.secretbox import Secretbox
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef, Quarantine, Reason

_LATE = (
    "plaintext, though a campaign had left none of this resource: not written by a kube-apiserver that is up to date"
)

_KEYED: dict[ProviderType, type[AesCbc | AesGcm | Secretbox]] = {
    ProviderType.AESCBC: AesCbc,
    ProviderType.AESGCM: AesGcm,
    ProviderType.SECRETBOX: Secretbox,
}


@dataclass(frozen=True, slots=True)
class Link:
    """One key of the chain: the prefix it writes, its cipher, and its public name."""

    prefix: bytes
    ref: KeyRef
    cipher: Cipher = field(repr=False)


@dataclass(frozen=True, slots=True)
class Opened:
    """A plaintext, the key that opened it, and whether that key is the primary."""

    plaintext: bytes = field(repr=False)
    ref: KeyRef
    is_primary: bool


class Chain:
    """The providers of one resource, in configured order."""

    def __init__(self, providers: Iterable[Provider], *, plaintext_is_late: bool = False) -> None:
        """Build the chain. Raises ValueError when it has no key.

        `plaintext_is_late`: a proof found no plaintext in this resource before, so `open` returns Quarantine for
        plaintext although identity could read it, unless identity is the primary.
        """
        self._plaintext_is_late = plaintext_is_late
        self._links = tuple(link for provider in providers for link in _links(provider))
        if not self._links:
            raise ValueError("a chain needs at least one provider")
        self._known = {envelope.provider_prefix(ProviderType(link.ref.provider)) for link in self._links} - {b""}

    def __repr__(self) -> str:
        return f"Chain({', '.join(str(ref) for ref in self.keys)})"

    @property
    def primary(self) -> KeyRef:
        """The key that writes."""
        return self._links[0].ref

    @property
    def keys(self) -> tuple[KeyRef, ...]:
        """All keys in the order in which `open` tries them."""
        return tuple(link.ref for link in self._links)

    def require_writable(self) -> None:
        """Raise UnsupportedPrimaryError when the primary is a KMS provider, with which rewrap can't write."""
        if self.primary.provider == ProviderType.KMS:
            raise UnsupportedPrimaryError(
                f"the primary provider is KMS ({self.primary.name!r}), which this version does not write with; "
                "make a local provider the first one, or leave this resource to kube-apiserver"
            )

    def open(self, stored: bytes, key: bytes) -> Opened | Quarantine:
        """Open a value stored under the etcd key `key`.

        Returns the plaintext if it is a Kubernetes object, else the reason why no key opened one.
        """
        failures: list[Quarantine] = []
        for link in self._links:
            if not stored.startswith(link.prefix):
                continue
            try:
                plaintext = _opened(link, stored[len(link.prefix) :], key)
            except OpenError as error:
                failures += _failed(link, error)
                continue
            if self._plaintext_is_late and not link.prefix and link is not self._links[0]:
                failures.append(Quarantine(Reason.LATE_PLAINTEXT, _LATE, (link.ref,)))
                continue
            return Opened(plaintext, link.ref, link is self._links[0])
        if not failures:
            return self._unmatched(stored)
        # The first failure is that of the first configured key with this prefix: the likeliest to have written it.
        return replace(failures[0], claimed=tuple(ref for failure in failures for ref in failure.claimed))

    def seal(self, plaintext: bytes, key: bytes) -> bytes:
        """Return the value to store under the etcd key `key`, sealed by the primary with a fresh nonce.

        The caller must hold a write token for the primary. Raises SealError when the sealed bytes
        do not open to the same plaintext; then the caller must not write them.
        """
        link = self._links[0]
        body = link.cipher.seal_with(os.urandom(link.cipher.nonce_size), plaintext, key)
        try:
            proven = link.cipher.open(body, key) == plaintext
        except OpenError:
            proven = False
        if not proven:
            raise SealError(f"{link.ref} sealed a value that does not open to the same bytes; nothing was written")
        return link.prefix + body

    def _unmatched(self, stored: bytes) -> Quarantine:
        if not stored.startswith(envelope.ENCRYPTED):
            if is_kubernetes_object(stored):
                return Quarantine(Reason.IDENTITY_MISSING, "plaintext, and identity is not among the providers")
            return Quarantine(Reason.UNKNOWN_BYTES, "no encryption prefix, and not a Kubernetes object")
        head = envelope.readable_head(stored)
        if stored.startswith(envelope.ENCRYPTED + b"kms:"):
            return Quarantine(Reason.KMS, f"under a KMS provider that is not configured: {head}")
        if any(stored.startswith(prefix) for prefix in self._known):
            return Quarantine(Reason.NO_SUCH_KEY, f"no key of the name in {head} is configured for this provider")
        return Quarantine(Reason.UNKNOWN_PREFIX, f"no provider is configured for {head}")


def _links(provider: Provider) -> Iterable[Link]:
    match provider:
        case KeyedProvider(type=kind, keys=keys):
            for key in keys:
                ref = KeyRef(kind.value, key.name, key.secret.fingerprint(kind.value))
                yield Link(envelope.key_prefix(kind, key.name), ref, _cipher(kind, key.secret))
        case KmsProvider(name=name, api_version=version):
            prefix = envelope.key_prefix(ProviderType.KMS, name, version)
            yield Link(prefix, KeyRef(ProviderType.KMS.value, name, "kms"), Kms())
        case IdentityProvider():
            yield Link(b"", KeyRef(ProviderType.IDENTITY.value, "", PLAINTEXT_FINGERPRINT), Identity())


def _cipher(kind: ProviderType, secret: SecretBytes) -> Cipher:
    return _KEYED[kind](secret)


def _opened(link: Link, sealed: bytes, key: bytes) -> bytes:
    """Return the Kubernetes object that a matching key opened. Raises OpenError."""
    if isinstance(link.cipher, AesCbc):
        return link.cipher.open_recognised(sealed, is_kubernetes_object)
    plaintext = link.cipher.open(sealed, key)
    if is_kubernetes_object(plaintext):
        return plaintext
    raise _UnrecognisedError


class _UnrecognisedError(OpenError):
    """An authenticating cipher, or identity, opened the value, but the plaintext is not a Kubernetes object."""


def _failed(link: Link, error: OpenError) -> list[Quarantine]:
    """Return why a matching key failed; nothing for identity's refusal of an encrypted value."""
    is_unrecognised = isinstance(error, _UnrecognisedError)
    if not link.prefix:
        garbage = Quarantine(Reason.UNKNOWN_BYTES, "no encryption prefix, and not a Kubernetes object")
        return [garbage] if is_unrecognised else []
    if is_unrecognised:
        detail = f"{link.ref} opened it, but what came out is not a Kubernetes object"
        return [Quarantine(Reason.NOT_KUBERNETES, detail, (link.ref,))]
    return [Quarantine(_reason(link, error), f"{link.ref}: {error}", (link.ref,))]


def _reason(link: Link, error: OpenError) -> Reason:
    if isinstance(link.cipher, AesCbc):
        return Reason.NOT_RECOGNISED
    return Reason.KMS if isinstance(error, KmsUnsupportedError) else Reason.AUTHENTICATION_FAILED
