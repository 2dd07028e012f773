"""The EncryptionConfiguration that kube-apiserver would run, as frozen values, and how a file becomes one.

bytes → `document` (text to tree) → `decode` (strict names and types) → `validate` (upstream's rules) → here.
Accepts and refuses what kube-apiserver's own loader does (apiserver: pkg/server/options/encryptionconfig/config.go).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kube_rewrap.config.encryption.decode import decode, decode_provider
from kube_rewrap.config.encryption.provider import (
    IdentityProvider,
    Key,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
)
from kube_rewrap.config.encryption.resources import ANY, GroupResource
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.encryption.validate import is_encryption_kind, validate, validate_provider
from kube_rewrap.config.errors import EncryptionConfigError, Fault
from kube_rewrap.config.parsing.document import parse
from kube_rewrap.config.parsing.golang import decode_base64
from kube_rewrap.config.parsing.node import Node, NodeKind

if TYPE_CHECKING:
    from kube_rewrap.config.encryption.decode import Decoded
    from kube_rewrap.config.encryption.draft import Draft, DraftKey, DraftKms, DraftProvider

__all__ = [
    "EncryptionConfiguration",
    "IdentityProvider",
    "Key",
    "KeyedProvider",
    "KmsProvider",
    "Provider",
    "ProviderType",
    "ResourceEntry",
    "load",
]

_NANOSECONDS = 1_000_000_000
_ONE_PROVIDER = "write one element of `providers` alone, which begins with its type, such as `kms:`"


@dataclass(frozen=True, slots=True)
class ResourceEntry:
    """One element of the top-level `resources` list."""

    resources: tuple[str, ...]
    """Names as written: `secrets`, `widgets.example.com`, `*.apps`, `*.`, `*.*`."""
    providers: tuple[Provider, ...]
    """In file order; the first one encrypts."""


@dataclass(frozen=True, slots=True)
class EncryptionConfiguration:
    """A checked configuration. Its repr holds no key."""

    entries: tuple[ResourceEntry, ...]

    def providers_for(self, resource: GroupResource) -> tuple[Provider, ...] | None:
        """Return the providers that govern a resource, the one that encrypts first; None when no entry names it.

        Entries with the exact name govern it, else those with `*.<group>`, else those with `*.*`. The providers of
        several entries with the same name are concatenated in file order; a wildcard is in one entry only (in a second
        one it would be masked). For None kube-apiserver reads and writes plaintext, and can't read encrypted objects.
        """
        for name in (resource, GroupResource("*", resource.group), ANY):
            governing = [entry for entry in self.entries if name in map(GroupResource.parse, entry.resources)]
            if governing:
                return tuple(provider for entry in governing for provider in entry.providers)
        return None

    def resource_names(self) -> tuple[str, ...]:
        """Return the names as written, in file order, each once."""
        return tuple(dict.fromkeys(name for entry in self.entries for name in entry.resources))


def load(raw: bytes, file: str) -> EncryptionConfiguration:
    """Return the configuration in `raw`; `file` is its name for messages.

    Raises DocumentError when the text can't be read, and EncryptionConfigError with all faults when kube-apiserver
    would refuse it. Neither holds key material, nor does any error that is chained to them.
    """
    decoded = decode(parse(raw, file))
    faults = _faults(decoded)
    if faults:
        raise EncryptionConfigError(file, faults)
    return _build(decoded.draft)


def load_provider(raw: bytes, file: str) -> Provider:
    """Return the provider in `raw`, which is written as one element of `providers`. Raises as `load` does."""
    root = parse(raw, file)
    if found := _other_than_provider(root):
        raise EncryptionConfigError(file, [Fault("", f"it is {found}, where one provider is expected", _ONE_PROVIDER)])
    decoded = decode_provider(root)
    faults = decoded.faults + [one for one in validate_provider(decoded.draft) if one.path not in decoded.broken]
    if faults:
        raise EncryptionConfigError(file, faults)
    return _provider(decoded.draft.entries[0].providers[0])


def _other_than_provider(root: Node) -> str:
    """Name what a document seems to be that an operator may take for a provider's file; "" for any other."""
    if root.kind is NodeKind.SEQUENCE:
        return "a list"
    names = {one.name for one in root.fields}
    if "kind" in names or "resources" in names:
        return "a whole EncryptionConfiguration, or another object"
    if "endpoint" in names:
        return "the inner part of a provider"
    return "a list of providers" if "providers" in names else ""


def _faults(decoded: Decoded) -> list[Fault]:
    found = [fault for fault in validate(decoded.draft) if fault.path not in decoded.broken]
    if not is_encryption_kind(decoded.draft):
        # The file is another kind of object: the list of its unknown fields would not help the operator.
        about_kind = [fault for fault in decoded.faults + found if fault.path in {"", "kind", "apiVersion"}]
        return about_kind or found
    # Faults in JSON have no lines; since sorting is stable, they keep their order.
    return sorted(decoded.faults + found, key=lambda fault: fault.line or 0)


def _build(draft: Draft) -> EncryptionConfiguration:
    entries = tuple(
        ResourceEntry(
            resources=tuple(text.value for text in entry.resources),
            providers=tuple(_provider(provider) for provider in entry.providers),
        )
        for entry in draft.entries
    )
    return EncryptionConfiguration(entries)


def _provider(draft: DraftProvider) -> Provider:
    if draft.kms is not None:
        return _kms(draft.kms)
    for keyed in draft.keyed:
        return KeyedProvider(keyed.type, tuple(_key(key) for key in keyed.keys))
    return IdentityProvider()


def _key(draft: DraftKey) -> Key:
    return Key(draft.name.value, SecretBytes(decode_base64(draft.secret.value) or b""))


def _kms(draft: DraftKms) -> KmsProvider:
    return KmsProvider(
        api_version="v1" if draft.api_version.value == "v1" else "v2",
        name=draft.name.value,
        endpoint=draft.endpoint.value,
        timeout_seconds=draft.timeout_nanoseconds / _NANOSECONDS,
        cache_size=draft.cache_size,
    )
