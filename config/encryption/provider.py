"""The providers of a checked EncryptionConfiguration, as values. Nothing here encrypts."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Literal

from kube_rewrap.config.encryption.address import Address, address_of

if TYPE_CHECKING:
    from kube_rewrap.config.encryption.secret import SecretBytes


class ProviderType(StrEnum):
    """The field name of a provider in the file; also its name in messages, and a part of its keys' fingerprints."""

    AESCBC = "aescbc"
    AESGCM = "aesgcm"
    SECRETBOX = "secretbox"
    IDENTITY = "identity"
    KMS = "kms"


@dataclass(frozen=True, slots=True)
class Key:
    """A named key of a local provider. Names need not be unique, and may hold colons, slashes and spaces."""

    name: str
    secret: SecretBytes
    """16, 24 or 32 bytes for aescbc and aesgcm, 32 for secretbox. Masked in the repr."""


@dataclass(frozen=True, slots=True)
class KeyedProvider:
    """aescbc, aesgcm or secretbox: encrypts with keys from the file."""

    type: ProviderType
    keys: tuple[Key, ...]
    """At least one, in file order. The first key encrypts if the provider is the first of its list."""


@dataclass(frozen=True, slots=True)
class IdentityProvider:
    """Stores and reads plaintext."""

    @property
    def type(self) -> Literal[ProviderType.IDENTITY]:
        """`identity`, always."""
        return ProviderType.IDENTITY


@dataclass(frozen=True, slots=True)
class KmsProvider:
    """A KMS plugin, which listens on a Unix socket."""

    api_version: Literal["v1", "v2"]
    name: str
    endpoint: str
    """The URL as written: `unix:///path`, or `unix:///@name` for an abstract socket."""
    timeout_seconds: float
    """For one call to the plugin; 3 unless the file says otherwise."""
    cache_size: int | None
    """v1 only: decrypted data keys to keep, negative for no cache. None in v2."""

    @property
    def type(self) -> Literal[ProviderType.KMS]:
        """`kms`, always."""
        return ProviderType.KMS

    @property
    def address(self) -> Address:
        """The socket that kube-apiserver dials."""
        return address_of(self.endpoint)


Provider = KeyedProvider | IdentityProvider | KmsProvider
