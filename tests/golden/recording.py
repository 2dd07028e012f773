"""The recorded cluster: every stored object, and the configuration that reads them. See README.md."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from pathlib import Path

from kube_rewrap.config.encryption.configuration import KeyedProvider, KmsProvider, Provider, load

FOLDER = Path(__file__).parent / "kube-apiserver-1.36"


@dataclass(frozen=True)
class Recorded:
    """One line of the recording; `plaintext` and `stale` where a resource is governed."""

    key: bytes
    value: bytes = field(repr=False)
    resource: str | None
    plaintext: bytes | None = field(repr=False)
    stale: bool | None

    @property
    def is_kms(self) -> bool:
        return self.value.startswith(b"k8s:enc:kms:")

    def __str__(self) -> str:
        return self.key.decode()


def _recorded(line: str) -> Recorded:
    row = json.loads(line)
    plaintext = base64.b64decode(row["plaintext"]) if "plaintext" in row else None
    return Recorded(row["key"].encode(), base64.b64decode(row["value"]), row["resource"], plaintext, row.get("stale"))


ALL = [_recorded(line) for line in (FOLDER / "objects.jsonl").read_text().splitlines()]
GOVERNED = [one for one in ALL if one.resource is not None]
UNGOVERNED = [one for one in ALL if one.resource is None]
READABLE = [one for one in GOVERNED if not one.is_kms]
KMS = [one for one in GOVERNED if one.is_kms]

CONFIGURATION = load((FOLDER / "encryption-config.json").read_bytes(), "encryption-config.json")
PROVIDERS: tuple[Provider, ...] = CONFIGURATION.entries[0].providers
LOCAL = tuple(provider for provider in PROVIDERS if not isinstance(provider, KmsProvider))


def name_of(provider: Provider) -> str:
    """The key's name, `identity` where there is none."""
    return provider.keys[0].name if isinstance(provider, KeyedProvider) else str(provider.type)


def under(provider: Provider) -> list[Recorded]:
    """The readable objects that this provider sealed."""
    if not isinstance(provider, KeyedProvider):
        return [one for one in READABLE if not one.value.startswith(b"k8s:enc:")]
    head = f"k8s:enc:{provider.type}:v1:{provider.keys[0].name}:".encode()
    return [one for one in READABLE if one.value.startswith(head)]
