"""The registry that a real kube-apiserver left behind (tests/golden/README.md), loaded into a real etcd."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tests.integration.apiserver import IDENTITY, Key
from tests.servers.gateway import Gateway

_FOLDER = Path(__file__).parents[1] / "golden" / "kube-apiserver-1.36"
_LEASE_SECONDS = 3_600


@dataclass(frozen=True, slots=True)
class Recorded:
    """One key as recorded. `plaintext` is upstream's own, None where nothing governs the key."""

    key: str
    value: bytes
    lease: bool
    resource: str | None
    plaintext: bytes | None

    @property
    def is_kms(self) -> bool:
        return self.value.startswith(b"k8s:enc:kms:")


@cache
def recorded() -> tuple[Recorded, ...]:
    return tuple(map(_parse, (_FOLDER / "objects.jsonl").read_text().splitlines()))


def _parse(line: str) -> Recorded:
    row: dict[str, Any] = json.loads(line)
    plaintext = base64.b64decode(row["plaintext"]) if row["resource"] else None
    return Recorded(row["key"], base64.b64decode(row["value"]), row["lease"], row["resource"], plaintext)


@cache
def _document() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((_FOLDER / "encryption-config.json").read_text())
    return document


def keys() -> list[Key]:
    """The local keys of the recorded configuration, in its order."""
    found = []
    for provider in _document()["resources"][0]["providers"]:
        [(kind, body)] = provider.items()
        if kind == "identity":
            found.append(IDENTITY)
        elif kind != "kms":
            found += [Key(kind, key["name"], base64.b64decode(key["secret"])) for key in body["keys"]]
    return found


def configuration_with(primary: Key, *, plugin: str = "") -> str:
    """The recorded configuration with another of its keys as the one that writes, and this endpoint for KMS."""
    document = json.loads(json.dumps(_document()))
    [entry] = document["resources"]
    for provider in entry["providers"]:
        if "kms" in provider and plugin:
            provider["kms"]["endpoint"] = plugin
    first = next(one for one in entry["providers"] if one == primary.block())
    entry["providers"] = [first, *(one for one in entry["providers"] if one != first)]
    return json.dumps(document)


def load(gateway: Gateway) -> int:
    """Puts every recorded key into an empty etcd; returns the lease that the leased ones hang on."""
    lease = gateway.grant_lease(_LEASE_SECONDS)
    gateway.put_all({one.key: one.value for one in recorded() if not one.lease})
    for one in recorded():
        if one.lease:
            gateway.put(one.key, one.value, lease)
    return lease
