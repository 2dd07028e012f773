"""Fills a throw-away etcd with generated objects, under generated keys of several providers.

`rewrap demo`, the benchmarks and tests use it. It refuses a registry that is not empty.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, count, islice
from pathlib import Path

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, ProviderType
from kube_rewrap.config.encryption.provider import IdentityProvider, Key, KeyedProvider, KmsProvider, Provider
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Put
from kube_rewrap.worker.providers.chain import Chain

REGISTRY = "/registry"
RESOURCES = ("secrets", "configmaps", "events", "widgets.example.com")
_PER_COMMIT = 100
_EVENT_SECONDS = 3600


@dataclass(frozen=True, slots=True)
class Era:
    """A period of a cluster's life: the provider that its apiservers wrote with, and its share of the objects."""

    provider: Provider
    share: int


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of the registry: number of objects, payload bytes of each, number of namespaces."""

    objects: int = 5_000
    payload: int = 1_000
    namespaces: int = 40
    resources: tuple[str, ...] = RESOURCES


def make_key(kind: ProviderType, name: str, size: int = 32) -> KeyedProvider:
    """Return a provider with one fresh key of `size` bytes."""
    return KeyedProvider(kind, (Key(name, SecretBytes(os.urandom(size))),))


def configuration_of(providers: Sequence[Provider], resources: Sequence[str]) -> str:
    """Return an EncryptionConfiguration file (JSON, which is YAML) with these providers, the first one writing."""
    return json.dumps(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [{"resources": list(resources), "providers": [_block(one) for one in providers]}],
        },
        indent=2,
    )


def with_next_key(configuration: EncryptionConfiguration) -> str:
    """Return a demonstration's EncryptionConfiguration with a new aesgcm key before its keys."""
    [entry] = configuration.entries
    names = {key.name for one in entry.providers if isinstance(one, KeyedProvider) for key in one.keys}
    name = next(name for number in count(1) if (name := f"key{number}") not in names)
    return configuration_of([make_key(ProviderType.AESGCM, name), *entry.providers], entry.resources)


def put_in_place(path: Path, text: str) -> None:
    """Replace a file as an operator should: write another one, and rename it."""
    fresh = path.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(text)
    fresh.rename(path)


def _block(provider: Provider) -> dict[str, object]:
    if isinstance(provider, KmsProvider):
        stanza = {"apiVersion": provider.api_version, "name": provider.name, "endpoint": provider.endpoint}
        return {"kms": {**stanza, "timeout": f"{provider.timeout_seconds:g}s"}}
    if not isinstance(provider, KeyedProvider):
        return {"identity": {}}
    keys = [
        {"name": key.name, "secret": base64.b64encode(key.secret.reveal()).decode("ascii")} for key in provider.keys
    ]
    return {provider.type.value: {"keys": keys}}


async def seed(settings: EtcdSettings, eras: Sequence[Era], shape: Shape) -> int:
    """Fill an empty registry with objects and their namespaces; returns the number of objects without these.

    Raises RefusedError when the registry is not empty.
    """
    # The one place where several registry keys share a transaction: no kube-apiserver watches this etcd.
    async with open_store(settings, REGISTRY) as store:
        if await store.count(KeyRange.of_prefix(f"{REGISTRY}/".encode())):
            raise RefusedError("this etcd holds a registry already; the demonstration wants an empty one")
        lease = await store.grant_lease(_EVENT_SECONDS)  # kube-apiserver puts events on a lease of an hour, too
        puts = chain(_namespaces(shape), _objects(eras, shape, lease))
        while some := list(islice(puts, _PER_COMMIT)):
            await store.commit([], some)
    return shape.objects


def _namespaces(shape: Shape) -> Iterator[Put]:
    """Yield the namespaces, in plaintext: the configurations here do not name them."""
    used = min(shape.namespaces, -(-shape.objects // len(shape.resources)))
    for name in ("kube-system", *map(_namespace, range(used))):
        metadata = _field(1, name.encode()) + _field(5, os.urandom(16).hex().encode())
        yield Put(f"{REGISTRY}/namespaces/{name}".encode(), _envelope("Namespace", _field(1, metadata)))


def _namespace(number: int) -> str:
    return f"team-{number:03d}"


def _objects(eras: Sequence[Era], shape: Shape, lease: int) -> Iterator[Put]:
    """Yield the objects: eras by their share, resources and namespaces evenly."""
    chains = [one for era in eras for one in [Chain([era.provider])] * era.share]
    for number in range(shape.objects):
        resource = shape.resources[number % len(shape.resources)]
        namespace = _namespace(number // len(shape.resources) % shape.namespaces)
        name = f"object-{number:06d}"
        plural, _, group = resource.partition(".")
        path = f"{group}/{plural}" if group else plural
        key = f"{REGISTRY}/{path}/{namespace}/{name}".encode()
        plaintext = _custom(namespace, name, shape) if group else _builtin(plural, namespace, name, shape)
        seal = chains[(number // len(shape.resources)) % len(chains)].seal
        yield Put(key, seal(plaintext, key), lease if resource == "events" else 0)


def _builtin(plural: str, namespace: str, name: str, shape: Shape) -> bytes:
    kind = {"secrets": "Secret", "configmaps": "ConfigMap", "events": "Event"}[plural]
    metadata = _field(1, name.encode()) + _field(3, namespace.encode()) + _field(5, os.urandom(16).hex().encode())
    entry = _field(1, b"payload") + _field(2, os.urandom(shape.payload // 2).hex().encode())
    return _envelope(kind, _field(1, metadata) + _field(2, entry))


def _envelope(kind: str, body: bytes) -> bytes:
    """Encode an object of `v1` as kube-apiserver does: a magic number and a protobuf envelope around the object."""
    type_meta = _field(1, b"v1") + _field(2, kind.encode())
    return b"k8s\x00" + _field(1, type_meta) + _field(2, body) + _field(3, b"") + _field(4, b"")


def _custom(namespace: str, name: str, shape: Shape) -> bytes:
    document = {
        "apiVersion": "example.com/v1",
        "kind": "Widget",
        "metadata": {"name": name, "namespace": namespace, "uid": os.urandom(16).hex()},
        "spec": {"payload": os.urandom(shape.payload // 2).hex()},
    }
    return json.dumps(document, separators=(",", ":")).encode()


def _field(number: int, payload: bytes) -> bytes:
    """Encode one length-delimited protobuf field."""
    return bytes([number << 3 | 2]) + _varint(len(payload)) + payload


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def plaintext_era(share: int) -> Era:
    """Return the era before encryption was turned on."""
    return Era(IdentityProvider(), share)
