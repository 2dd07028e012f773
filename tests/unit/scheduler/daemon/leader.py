"""A leader in memory for tests of its controllers: cluster, lock, a queue that is unreachable, no kube-apiserver."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from prometheus_client import CollectorRegistry

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    Provider,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import NO_TARGETS, Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.campaigns.pausing import Pressure
from kube_rewrap.scheduler.daemon.controllers import ControllerContext, Controllers, LeaderState
from kube_rewrap.scheduler.dispatch.celery import Sender
from kube_rewrap.scheduler.engine import Engine
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.registry.cluster import Cluster as OpenCluster
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.scheduler.upkeep.repairs import Drift
from kube_rewrap.worker.data_keys import DataKeys
from kube_rewrap.worker.errors import StoppedError, UnavailableError
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.requests import Requests
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from tests.fakes.objects import NEW
from tests.fakes.store import MemoryStore

LEADER = b"/kube-rewrap/v1/leader"


class UnreachableSender(Sender):
    """A Sender that can't reach Redis, so that a campaign never ends."""

    async def send(self, *_: object, **__: object) -> None:
        raise UnavailableError("away")

    async def length(self, *_: object) -> int:
        raise UnavailableError("away")


class UnknownConvergence:
    """A ConvergenceProbe without any kube-apiserver."""

    async def probe(self, file_hash: str, targets: Mapping[str, str] = NO_TARGETS) -> Convergence:  # noqa: ARG002
        return Convergence(is_converged=False, file_hash=file_hash, because="no address is given")


KEYSPACE = Keyspace("/kube-rewrap")
NOW = "2026-01-01T00:00:00+00:00"
CAMPAIGN = Campaign(
    id="c",
    state=CampaignState.RUNNING,
    generation="sha256:0",
    scope=Scope(("secrets",)),
    batches=1,
    planned_at=NOW,
    because="why",
)
ROTATION = Rotation(
    id="r",
    step=RotationStep.WITHDRAW,
    because="",
    entries=(0,),
    resources=("secrets",),
    provider=NEW.type.value,
    key_name=NEW.keys[0].name,
    retired=(),
    file="sha256:2",
)
FREE = Pressure(None, None, None)


@dataclass
class Cluster:
    """A registry in memory with one object under the old key, and the leader's lock."""

    store: MemoryStore
    guard: Expect

    @property
    def campaigns(self) -> Campaigns:
        return Campaigns(self.store, KEYSPACE)

    @property
    def requests(self) -> Requests:
        return Requests(self.store, KEYSPACE)

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    drift: Drift = field(default_factory=Drift)
    names: tuple[str, ...] = ("secrets",)
    data_keys: DataKeys | None = None

    def shown(self) -> dict[str, float]:
        """Return the metrics of scans, campaigns and due rotations."""
        return {
            sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
            for family in self.registry.collect()
            for sample in family.samples
            if any(word in sample.name for word in ("scan", "objects", "campaign", "proof", "rotation_due"))
        }

    def controllers(self, name: str, *providers: Provider, brake: Brake, before: str = "") -> Controllers:
        configuration = EncryptionConfiguration((ResourceEntry(self.names, providers),))
        generation = Generation(name, configuration, "test")
        engine = Engine(self.store, Settings(), generation, LocalPace(0), self.data_keys)
        one = OpenCluster(Settings(), Layout(), engine)
        file = ConfigurationFile("/nowhere", "/nowhere")
        self.registry = CollectorRegistry()
        metrics = SchedulerMetrics(self.registry)
        metrics.configured(name)
        state = LeaderState(metrics, drift=self.drift)
        context = ControllerContext(self.guard, brake, state, file, UnknownConvergence(), lambda: None, str, before)
        return Controllers(Settings(), one, UnreachableSender(Settings()), context)

    @asynccontextmanager
    async def under(self, name: str, *providers: Provider, before: str = "") -> AsyncIterator[Controllers]:
        """Run a leader's controllers under this file; enters the block when the generation is accepted."""
        brake = Brake()
        controllers = self.controllers(name, *providers, brake=brake, before=before)
        task = asyncio.create_task(controllers.run())
        await until(self.has_accepted(name), task)
        try:
            yield controllers
        finally:
            brake.pull(StoppedError("enough"))
            with pytest.raises(StoppedError):
                await task

    def has_accepted(self, name: str) -> Callable[[], Awaitable[bool]]:
        async def holds() -> bool:
            stored = await Generations(self.store, KEYSPACE).load()
            return stored is not None and stored.value.generation.hash == name

        return holds

    async def campaign(self, states: CampaignState | set[CampaignState], *others: str) -> Campaign:
        """Wait for a campaign in one of the states whose id is not among the others, and return it."""
        wanted = states if isinstance(states, set) else {states}
        found: list[Campaign] = []

        async def holds() -> bool:
            all_ = [one.value for one in await self.campaigns.all()]
            found[:] = [one for one in all_ if one.state in wanted and one.id not in others]
            return bool(found)

        await until(holds)
        return found[-1]


async def until(condition: Callable[[], Awaitable[bool]], task: asyncio.Task[None] | None = None) -> None:
    """Wait until the condition holds, or raise the task's error; the test's time-out is the bound."""
    while not await condition():
        if task is not None and task.done():
            await task
        await asyncio.sleep(0.005)
