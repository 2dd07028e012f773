"""Objects in a store in memory, sealed with one of two keys: what campaigns are run on where no etcd is needed."""

from __future__ import annotations

from kube_rewrap.config.encryption.provider import Key, KeyedProvider, Provider, ProviderType
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.providers.chain import Chain
from tests.fakes.store import MemoryStore

OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{}}'
NEW = KeyedProvider(ProviderType.AESGCM, (Key("new", SecretBytes(b"n" * 32)),))
OLD = KeyedProvider(ProviderType.AESCBC, (Key("old", SecretBytes(b"o" * 32)),))


def seal(store: MemoryStore, name: str, provider: Provider) -> None:
    """Puts one object at an etcd key."""
    store.put(name.encode(), Chain([provider]).seal(OBJECT, name.encode()))


def fill(store: MemoryStore, provider: Provider, count: int = 12, resource: str = "secrets") -> None:
    """Puts so many objects of a resource."""
    for number in range(count):
        seal(store, f"/registry/{resource}/default/{number:02d}", provider)
