"""The data keys of KMS providers, as values between the chain, which needs them, and `kms`, which asks the plugins.

A KMS provider seals each object with a data key (v1), or with a key derived from a seed (v2). The plugin wraps that
data key or seed with the key-encryption key (KEK), which never leaves the KMS; the wrapped one lies beside the object.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.config.encryption.secret import SecretBytes

KmsVersion = Literal["v1", "v2"]

MOST_LABELS = 32
"""KMS providers that metrics tell apart. The file bounds their number, and a provider has some sixty series."""

LONGEST_LABEL = 100


class SourceType(IntEnum):
    """What a wrapped key of v2 unwraps to; the numbers are those of upstream's `EncryptedDEKSourceType`."""

    AES_GCM_KEY = 0
    """The data key itself; read only. Also used for v1, whose wrapped keys are data keys."""
    HKDF_SHA256_XNONCE_AES_GCM_SEED = 1
    """A seed, from which each object's key is derived."""


@dataclass(frozen=True, slots=True)
class Plugin:
    """Which plugin serves a stanza of the configuration. Two stanzas may share a name, and two a plugin."""

    name: str
    """The provider's name, a part of each value's prefix."""
    version: KmsVersion
    endpoint: str
    timeout_seconds: float = 3.0
    """For one call."""


def plugin_of(provider: KmsProvider) -> Plugin:
    """Return the plugin of a stanza."""
    return Plugin(provider.name, provider.api_version, provider.endpoint, provider.timeout_seconds)


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A wrapped data key or seed, and everything that a plugin gets to see when it unwraps it.

    Two that differ in anything are unwrapped apart: else the plugin's own checks of key id and annotations would be
    skipped. Nothing here is authenticated: anyone who can write to etcd can change it.
    """

    plugin: Plugin
    wrapped: bytes = field(repr=False)
    key_id: str = field(default="", repr=False)
    """Of the KEK, as the plugin names it: up to 1,024 bytes of untrusted text. "" in v1, which records none."""
    annotations: tuple[tuple[str, bytes], ...] = field(default=(), repr=False)
    """Sorted by name. Opaque: they go back to the plugin unchanged."""
    source_type: SourceType = SourceType.AES_GCM_KEY
    _hash: int = field(init=False, repr=False, compare=False)
    """Kept, for each step asks for it, and there may be 8,000 annotations."""

    def __post_init__(self) -> None:
        """Fill `_hash`."""
        parts = (self.plugin, self.wrapped, self.key_id, self.annotations, self.source_type)
        object.__setattr__(self, "_hash", hash(parts))

    def __hash__(self) -> int:
        """Return the hash of all that is compared."""
        return self._hash

    @property
    def digest(self) -> str:
        """Name it in logs and records by 16 hexadecimal digits, in place of its bytes."""
        return self.full_digest.hex()[:16]

    @property
    def full_digest(self) -> bytes:
        """SHA-256 over all but the plugin's address and the source type."""
        parts = [self.plugin.name.encode(), self.plugin.version.encode(), self.key_id.encode(), self.wrapped]
        for name, value in self.annotations:
            parts += name.encode(), value
        return hashlib.sha256(
            b"".join([one for part in parts for one in (len(part).to_bytes(4, "big"), part)])
        ).digest()


@dataclass(frozen=True, slots=True)
class RefusedKey:
    """The plugin works, and does not unwrap this key. `because` is a sentence of ours, never the plugin's text."""

    because: str


UnwrappedKeys = Mapping[WrappedKey, SecretBytes | RefusedKey]
"""What the plugins said of wrapped keys."""


@dataclass(frozen=True, slots=True)
class DataKey:
    """A data key or seed of this process: one object's in v1, any number of objects' in v2."""

    wrapped: WrappedKey
    secret: SecretBytes


def provider_label(name: str, known: Collection[str] = ()) -> str:
    """Return a provider's name as a label of metrics: printable, of at most `LONGEST_LABEL` characters.

    `known` are the labels in use; beyond `MOST_LABELS` of them, other providers share the label `other`.
    """
    label = (name if name.isprintable() else ascii(name)[1:-1])[:LONGEST_LABEL]
    return label if label in known or len(known) < MOST_LABELS else "other"


def hash_of_key_id(key_id: str) -> str:
    """Return `sha256:` and 64 hexadecimal digits: a KEK's `key_id_hash` in kube-apiserver's metrics."""
    return f"sha256:{hashlib.sha256(key_id.encode()).hexdigest()}"


def fingerprint_of(key_id_hash: str) -> str:
    """Return the first 16 hexadecimal digits of what `hash_of_key_id` returned."""
    return key_id_hash.removeprefix("sha256:")[:16]


def fingerprint_of_key_id(key_id: str) -> str:
    """Return the first 16 hexadecimal digits of `hash_of_key_id`."""
    return fingerprint_of(hash_of_key_id(key_id))
