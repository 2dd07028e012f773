"""The places where a Store is tried: in memory, and on real etcd of both versions, with a foreign writer beside it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Protocol

import pytest

from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.store import Item, Store
from tests.conftest import SharedClusters
from tests.fakes.store import MemoryStore
from tests.servers.etcd import EtcdCluster, EtcdOptions, EtcdVersion
from tests.servers.kms_plugin import KmsPlugin, start_plugin

STATE_PREFIX = "/kube-rewrap"


class Place(Protocol):
    """A store, and what others do to it."""

    @property
    def store(self) -> Store: ...

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        """As a foreign writer."""

    def delete(self, key: bytes) -> None:
        """As a foreign writer."""

    def compact(self) -> None:
        """Every revision before the current one is gone when this returns."""


class InMemory:
    def __init__(self) -> None:
        self.store = MemoryStore()

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        self.store.put(key, value, lease)

    def delete(self, key: bytes) -> None:
        self.store.delete(key)

    def compact(self) -> None:
        self.store.compact()


class OnEtcd:
    """The foreign writer is etcd's own gateway, which shares nothing with our client."""

    def __init__(self, store: Store, cluster: EtcdCluster) -> None:
        self.store = store
        self._admin = cluster.admin()

    def put(self, key: bytes, value: bytes, lease: int = 0) -> None:
        self._admin.put(key.decode(), value, lease)

    def delete(self, key: bytes) -> None:
        self._admin.delete(key.decode())

    def compact(self) -> None:
        self._admin.compact(self._admin.revision())


def settings_of(endpoint: str) -> EtcdSettings:
    return EtcdSettings(endpoints=(endpoint,), call_timeout=5.0, give_up_after=10.0, connect_timeout=5.0)


@pytest.fixture(params=["memory", *EtcdVersion], ids=lambda kind: kind if isinstance(kind, str) else kind.name)
async def place(request: pytest.FixtureRequest, shared_etcd: SharedClusters) -> AsyncIterator[Place]:
    if request.param == "memory":
        yield InMemory()
        return
    cluster = shared_etcd.empty(EtcdOptions(version=request.param))
    async with open_store(settings_of(cluster.endpoints[0]), STATE_PREFIX) as store:
        yield OnEtcd(store, cluster)


@pytest.fixture
def store(place: Place) -> Store:
    return place.store


async def stored(place: Place, key: bytes, value: bytes = b"old", lease: int = 0) -> Item:
    """A key that a foreign writer wrote, as our store reads it."""
    place.put(key, value, lease)
    item = await place.store.get(key)
    assert item is not None
    return item


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    """A KMS plugin in this process, on a socket of its own."""
    with start_plugin(str(tmp_path / "kms.sock")) as running:
        yield running
