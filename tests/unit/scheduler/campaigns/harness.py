"""A cluster in memory for tests of campaigns, and an embedded run on it."""

from __future__ import annotations

from dataclasses import replace

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    IdentityProvider,
    Provider,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import PageSettings, Settings
from kube_rewrap.scheduler.campaigns.embedded import run_embedded
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.campaigns.run import RunResult
from kube_rewrap.scheduler.engine import Engine
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scope import EVERYTHING, CampaignSpec
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from tests.fakes.store import MemoryStore

PLAIN = IdentityProvider()
NOW = "2026-01-01T00:00:00+00:00"


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
