"""A decoded EncryptionConfiguration before it is validated: with Go's zero values and defaults, and keys as base64.

Mirrors the structs of apiserver: pkg/apis/apiserver/v1/types_encryption.go. Every part has its place in
the file, for the faults that `validate` finds. Reprs mask all texts, since any may be a misplaced key.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from kube_rewrap.config.errors import Fault

if TYPE_CHECKING:
    from kube_rewrap.config.encryption.provider import ProviderType


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a value in the file; of a missing value, the place where it belongs."""

    path: str
    line: int | None

    def child(self, name: str) -> Place:
        """Return the place of a field that is missing: the path of the field, the line of its parent."""
        return Place(f"{self.path}.{name}" if self.path else name, self.line)

    def item(self, index: int, line: int | None) -> Place:
        """Return the place of an element."""
        return Place(f"{self.path}[{index}]", line if line is not None else self.line)

    def fault(self, message: str, remedy: str) -> Fault:
        """Return a fault at this place."""
        return Fault(self.path, message, remedy, self.line)


@dataclass(frozen=True, slots=True, repr=False)
class Text:
    """A string field; empty where it is missing, null or of another type, as in Go."""

    value: str
    place: Place

    def __repr__(self) -> str:
        return f"Text({self.place.path})"


@dataclass(frozen=True, slots=True)
class DraftKey:
    """One element of `keys`. The secret is still base64."""

    name: Text
    secret: Text


@dataclass(frozen=True, slots=True)
class DraftKeyed:
    """An `aescbc`, `aesgcm` or `secretbox` field."""

    type: ProviderType
    keys: tuple[DraftKey, ...]
    place: Place
    """Of the field `keys`."""


@dataclass(frozen=True, slots=True)
class DraftKms:
    """A `kms` field with upstream's defaults filled in (pkg/apis/apiserver/v1/defaults.go)."""

    api_version: Text
    name: Text
    endpoint: Text
    timeout_nanoseconds: int
    timeout_place: Place
    cache_size: int | None
    cache_size_place: Place


@dataclass(frozen=True, slots=True)
class DraftProvider:
    """One element of `providers`: upstream's struct has a pointer for each type, of which one should be set."""

    place: Place
    kms: DraftKms | None
    keyed: tuple[DraftKeyed, ...]
    identity: bool

    @property
    def count(self) -> int:
        """Number of providers in the element; exactly 1 is valid."""
        return len(self.keyed) + (self.kms is not None) + self.identity


@dataclass(frozen=True, slots=True)
class DraftEntry:
    """One element of the top-level `resources`."""

    resources: tuple[Text, ...]
    resources_place: Place
    providers: tuple[DraftProvider, ...]
    providers_place: Place


@dataclass(frozen=True, slots=True)
class Draft:
    """The whole file."""

    api_version: Text
    kind: Text
    entries: tuple[DraftEntry, ...]
    entries_place: Place
