"""A cluster in memory for tests of campaigns: keys, objects under them, and an embedded run."""

from __future__ import annotations

from dataclasses import replace

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
from kube_rewrap.config.settings.schema import PageSettings, Settings
from kube_rewrap.scheduler.campaigns.cluster import Cluster
from kube_rewrap.scheduler.campaigns.embedded import run_embedded
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.campaigns.run import EVERYTHING, CampaignSpec, RunResult
from kube_rewrap.scheduler.dispatch.local import Engine
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from tests.fakes.store import MemoryStore

OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{}}'
NEW = KeyedProvider(ProviderType.AESGCM, (Key("new", SecretBytes(b"n" * 32)),))
OLD = KeyedProvider(ProviderType.AESCBC, (Key("old", SecretBytes(b"o" * 32)),))
PLAIN = IdentityProvider()
NOW = "2026-01-01T00:00:00+00:00"


def seal(store: MemoryStore, name: str, provider: Provider) -> None:
    """Store an object under the first key of `provider`, as kube-apiserver would."""
    store.put(name.encode(), Chain([provider]).seal(OBJECT, name.encode()))


def new_cluster(store: MemoryStore, *providers: Provider, resources: tuple[str, ...] = ("secrets",)) -> Cluster:
    """Return a cluster in memory, of which `resources` have these providers."""
    configuration = EncryptionConfiguration((ResourceEntry(resources, providers),))
    generation = Generation("sha256:0", configuration, "test")
    settings = replace(Settings(), page=PageSettings(objects=5))
    return Cluster(settings, Layout(), Engine(store, settings, generation, LocalPace(0)))


async def run(one: Cluster, spec: CampaignSpec = EVERYTHING) -> RunResult:
    """Plan and carry out an embedded run."""
    brake = Brake()
    async with hold_lock(one, brake, wait=spec.wait) as lock:
        return await run_embedded(one, await plan_run(one, spec), lock, brake, lambda _report, _batches: None)


def fill(store: MemoryStore, provider: Provider, count: int = 12, resource: str = "secrets") -> None:
    """Store `count` objects of a resource in the namespace `default`."""
    for number in range(count):
        seal(store, f"/registry/{resource}/default/{number:02d}", provider)
