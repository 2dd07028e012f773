"""How the write observer ends: fenced, it ends all controllers; stopped by the brake, it records its counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.daemon.controllers import ControllerContext, Controllers, LeaderState
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.worker.errors import FencedError, StoppedError
from kube_rewrap.worker.etcd.store import Expect, Put
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.observations import ObserverRecords
from tests.fakes.objects import NEW, OLD, seal
from tests.fakes.store import MemoryStore
from tests.unit.clock import without_waiting
from tests.unit.scheduler.campaigns.harness import new_cluster
from tests.unit.scheduler.daemon.leader import LEADER, UnknownConvergence, UnreachableSender

pytestmark = pytest.mark.timeout(20)


async def controllers_at_work(store: MemoryStore, brake: Brake) -> asyncio.Task[None]:
    """Start a leader's controllers, and return their task when the first campaign is unfinished."""
    one = new_cluster(store, NEW, OLD)
    elected = await store.commit([], [Put(LEADER, b"me")])
    guard, file = Expect(LEADER, elected.revision, created=True), ConfigurationFile("/nowhere", "/nowhere")
    context = ControllerContext(
        guard, brake, LeaderState(SchedulerMetrics(CollectorRegistry())), file, UnknownConvergence(), lambda: None, str
    )
    task = asyncio.create_task(Controllers(Settings(), one, UnreachableSender(Settings()), context).run())
    campaigns = Campaigns(store, one.engine.keyspace)
    while not task.done() and not await campaigns.unfinished():  # noqa: ASYNC110 - records have no event
        await asyncio.sleep(0.01)
    return task


@without_waiting
async def test_a_fenced_observer_ends_all_controllers_in_the_middle_of_a_campaign() -> None:
    store = MemoryStore()
    seal(store, "/registry/secrets/default/a", OLD)
    task = await controllers_at_work(store, Brake())
    keyspace = new_cluster(store, NEW, OLD).engine.keyspace
    records = ObserverRecords(store, keyspace)
    seen = await records.load()
    await records.save(seen.holding(replace(seen.value, counts={"another": 1})))
    seal(store, "/registry/secrets/default/b", NEW)
    with pytest.raises(FencedError):
        await task


async def test_the_observer_records_its_counts_when_the_brake_stops_the_controllers() -> None:
    store, brake = MemoryStore(), Brake()
    seal(store, "/registry/secrets/default/a", OLD)
    task = await controllers_at_work(store, brake)
    seal(store, "/registry/secrets/default/b", NEW)
    brake.pull(StoppedError("enough"))
    with pytest.raises(StoppedError):
        await task
    keyspace = new_cluster(store, NEW, OLD).engine.keyspace
    assert sum((await ObserverRecords(store, keyspace).load()).value.counts.values()) == 1
