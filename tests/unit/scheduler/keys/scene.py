"""A cluster in memory with an observer, for tests of what it counts and reports."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    IdentityProvider,
    Key,
    KeyedProvider,
    Provider,
    ProviderType,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import BudgetSettings, Settings
from kube_rewrap.scheduler.engine import Engine
from kube_rewrap.scheduler.keys.observer import Listeners, Observer
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.observations import ObserverRecords
from kube_rewrap.worker.records.observed import Observations
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import KeyRef
from tests.fakes.store import MemoryStore

OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{}}'
NEW = KeyedProvider(ProviderType.AESGCM, (Key("new", SecretBytes(b"n" * 32)),))
OLD = KeyedProvider(ProviderType.AESGCM, (Key("old", SecretBytes(b"o" * 32)),))
BOX = KeyedProvider(ProviderType.SECRETBOX, (Key("box", SecretBytes(b"b" * 32)),))
IMPOSTOR = KeyedProvider(ProviderType.AESGCM, (Key("new", SecretBytes(b"x" * 32)),))
LEADER = b"/kube-rewrap/v1/leader"


def ref(provider: Provider) -> KeyRef:
    return Chain([provider]).primary


FP_NEW, FP_OLD, FP_BOX = (ref(provider).fingerprint for provider in (NEW, OLD, BOX))


@dataclass
class Scene:
    """A cluster in memory, its leader's lock, and what the observer reported."""

    store: MemoryStore
    engine: Engine
    cluster: Cluster
    drifted: list[tuple[str, str]] = field(default_factory=list)
    gaps: int = 0

    def _gap(self) -> None:
        self.gaps += 1

    def write(self, name: str, provider: Provider) -> None:
        """Write an object as kube-apiserver does."""
        self.store.put(name.encode(), Chain([provider]).seal(OBJECT, name.encode()))

    def observer(self) -> Observer:
        """Return an observer under a new leader; fences earlier ones."""
        self.store.delete(LEADER)
        guard = Expect(LEADER, self.store.put(LEADER, b"me").mod_revision, created=True)
        listeners = Listeners(lambda resource, namespace: self.drifted.append((resource, namespace)), self._gap)
        return Observer(self.cluster, guard, listeners)

    @asynccontextmanager
    async def observed(self) -> AsyncIterator[Observer]:
        """An observer at work, cancelled at the end."""
        before, observer = (await self.stored()).revision, self.observer()
        task = asyncio.create_task(observer.run())
        try:
            # Its record is there: from now on it sees what is written.
            await until(lambda: task.done() or observer.recorded.revision > before)
            await until(lambda: task.done() or not observer.lag)
            yield observer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def recorded(self) -> Observations:
        return (await self.stored()).value

    async def stored(self) -> Stored[Observations]:
        return await ObserverRecords(self.store, self.engine.keyspace).load()


async def until(condition: Callable[[], bool]) -> None:
    """The test's time-out is the bound."""
    while not condition():  # noqa: ASYNC110 - what an observer has seen has no event
        await asyncio.sleep(0.001)


async def scene(
    *providers: Provider,
    limit: int = 200_000,
    resources: tuple[str, ...] = ("secrets", "nodes"),
    store: MemoryStore | None = None,
) -> Scene:
    """A registry that is empty but for a namespace; with `store`, another configuration on the same one."""
    store = store or MemoryStore()
    if not await store.count(KeyRange.of_prefix(b"/registry/")):
        store.put(b"/registry/namespaces/default", b"x")
    return await scene_of([ResourceEntry(resources, providers or (NEW, OLD, BOX, IdentityProvider()))], store, limit)


async def scene_of(entries: Sequence[ResourceEntry], store: MemoryStore, limit: int = 200_000) -> Scene:
    generation = Generation("sha256:0", EncryptionConfiguration(tuple(entries)), "test")
    settings = replace(Settings(), budget=BudgetSettings(gcm_limit=limit, block=10))
    engine = Engine(store, settings, generation, LocalPace(0))
    return Scene(store, engine, Cluster(settings, Layout(), engine))


async def swap(there: Scene, count: int, by: Provider = NEW, name: str = "/registry/secrets/default/ours") -> None:
    """As a run of ours: tokens, writes, and what landed."""
    ledger, done = there.engine.ledger, 0
    while done < count:
        for _ in range(await ledger.spend(ref(by), 1, count - done)):
            there.write(f"{name}{done}", by)
            ledger.landed(ref(by), "secrets", await there.store.revision())
            done += 1
    await ledger.settle()
