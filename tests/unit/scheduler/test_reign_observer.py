"""A reign ends with its observer, whatever it is at; the daemon begins another one."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry

from kube_rewrap.config.encryption.generation import NO_TARGETS
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.daemon.controllers import Controllers, Kept, Term
from kube_rewrap.scheduler.dispatch.celery import Sender
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.worker.errors import FencedError, StoppedError, UnavailableError
from kube_rewrap.worker.etcd.store import Expect, Put
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.observations import load, save
from tests.fakes.store import MemoryStore
from tests.unit.clock import without_waiting
from tests.unit.scheduler.campaigns.test_service import NEW, OLD, seal, service

pytestmark = pytest.mark.timeout(20)

LEADER = b"/kube-rewrap/v1/leader"


class Away(Sender):
    """No message leaves, so that a campaign never ends."""

    async def send(self, *_: object, **__: object) -> None:
        raise UnavailableError("away")

    async def length(self, *_: object) -> int:
        raise UnavailableError("away")


class NobodyKnows:
    """A ConvergenceProbe without any kube-apiserver."""

    async def probe(self, file_hash: str, targets: Mapping[str, str] = NO_TARGETS) -> Convergence:  # noqa: ARG002
        return Convergence(is_converged=False, generation=file_hash, because="no address is given")


async def reign_over(store: MemoryStore, brake: Brake) -> asyncio.Task[None]:
    """A reign in the middle of its first campaign."""
    one = service(store, NEW, OLD)
    elected = await store.commit([], [Put(LEADER, b"me")])
    guard, file = Expect(LEADER, elected.revision, created=True), ConfigurationFile("/nowhere", "/nowhere")
    term = Term(guard, brake, Kept(SchedulerMetrics(CollectorRegistry())), file, NobodyKnows(), lambda: None)
    task = asyncio.create_task(Controllers(Settings(), one, Away(Settings()), term).run())
    campaigns = Campaigns(store, one.engine.keyspace)
    while not task.done() and not await campaigns.unfinished():  # noqa: ASYNC110 - records have no event
        await asyncio.sleep(0.01)
    return task


@without_waiting
async def test_in_the_middle_of_a_campaign_a_fenced_observer_ends_the_reign() -> None:
    store = MemoryStore()
    seal(store, "/registry/secrets/default/a", OLD)
    task = await reign_over(store, Brake())
    keyspace = service(store, NEW, OLD).engine.keyspace
    seen = await load(store, keyspace)
    await save(store, keyspace, replace(seen, counts={"somebody": 1}), [])
    seal(store, "/registry/secrets/default/b", NEW)
    with pytest.raises(FencedError):
        await task


async def test_a_reign_that_is_stopped_records_what_its_observer_saw() -> None:
    store, brake = MemoryStore(), Brake()
    seal(store, "/registry/secrets/default/a", OLD)
    task = await reign_over(store, brake)
    seal(store, "/registry/secrets/default/b", NEW)
    brake.pull(StoppedError("enough"))
    with pytest.raises(StoppedError):
        await task
    keyspace = service(store, NEW, OLD).engine.keyspace
    assert sum((await load(store, keyspace)).counts.values()) == 1
