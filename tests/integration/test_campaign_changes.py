"""Every change of a campaign's record reaches the batches, and the campaign its proof: with workers as they are.

The leader's loop and the workers' work, without the processes and the queue between them.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, ResourceEntry
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import BrokerSettings, PageSettings, Settings
from kube_rewrap.scheduler.campaigns.lock import Lock, hold_lock
from kube_rewrap.scheduler.campaigns.loop import Reconciler, Records, Round
from kube_rewrap.scheduler.campaigns.pausing import Pressure, judge_pause
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.campaigns.proof import PartsProver
from kube_rewrap.scheduler.campaigns.take_up import supersede, take_up
from kube_rewrap.scheduler.engine import Engine
from kube_rewrap.scheduler.registry.budgets import begin_budgets
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scope import EVERYTHING, CampaignSpec
from kube_rewrap.worker.errors import StoppedError, UnavailableError, WorkerError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect, Item, SwapResult
from kube_rewrap.worker.queue.execution import ChildTools, MessageResult, prove, rewrite
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.rate.shared import SharedPace, open_pace
from kube_rewrap.worker.records.batch import BatchSpec, BatchState
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.proofs import Proofs
from kube_rewrap.worker.records.request import RequestKind
from kube_rewrap.worker.records.requests import Requests
from tests.fakes.objects import NEW, OLD, fill, seal
from tests.fakes.store import MemoryStore
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.timeout(120)

SETTINGS = replace(Settings(), page=PageSettings(objects=5))
FIRST, SECOND = "sha256:" + "1" * 64, "sha256:" + "2" * 64
RESOURCES = ("configmaps", "pods", "secrets")
CALM = Pressure(None, None, None)


def generation(name: str) -> Generation:
    return Generation(name, EncryptionConfiguration((ResourceEntry(RESOURCES, (NEW, OLD)),)), "test")


class CountingStore(MemoryStore):
    """Counts the reads of single keys; refuses swaps while it `is_broken`."""

    def __init__(self) -> None:
        super().__init__()
        self.got: Counter[bytes] = Counter()
        self.is_broken = False

    async def swap_all(
        self, swaps: Sequence[tuple[Item, bytes]], guard: Expect | None = None
    ) -> list[SwapResult | WorkerError]:
        if self.is_broken:
            return [UnavailableError("etcd does not answer") for _ in swaps]
        return await super().swap_all(swaps, guard)

    async def get(self, key: bytes) -> Item | None:
        self.got[key] += 1
        return await super().get(key)


@dataclass
class Workers:
    """Takes batches and parts as the queue does, and lets a worker of this process do each at once."""

    tools: ChildTools
    done: list[MessageResult] = field(default_factory=list)

    async def offer(self, batches: Sequence[BatchSpec], claimed: frozenset[int]) -> None:
        for one in [one for one in batches if one.number not in claimed][:1]:
            self.done.append(await rewrite(self.tools, one.campaign, one.number))

    async def offer_proof(self, campaign: str, numbers: Sequence[int], claimed: frozenset[int]) -> None:
        for number in [number for number in numbers if number not in claimed][:1]:
            self.done.append(await prove(self.tools, campaign, number))

    async def wait(self, seconds: float) -> None:
        await asyncio.sleep(min(seconds, 0.0))


@dataclass
class World:
    """A registry of which every object is under the old key, one campaign, and who works on it."""

    store: CountingStore
    pace: SharedPace
    lock: Lock
    cluster: Cluster
    name: str
    workers: Workers
    loop: Reconciler

    @property
    def campaigns(self) -> Campaigns:
        return Campaigns(self.store, self.cluster.engine.keyspace)

    async def change(self, change: Callable[[Campaign], Campaign]) -> None:
        assert await self.campaigns.change(self.name, change) is not None

    async def said(self, kind: RequestKind) -> None:
        await Requests(self.store, self.cluster.engine.keyspace).control(kind, self.name, f"by-hand-{kind}")

    async def turn_to(self, name: str) -> None:
        """The file is another one of the same meaning: a new leader's loop, and workers that hold it."""
        await self.change(lambda campaign: replace(campaign, generation=name))
        await self.restart(name)

    async def restart(self, name: str) -> None:
        """A new leader's loop, and workers that hold this file."""
        self.cluster = at(self.store, name)
        self.workers = Workers(ChildTools(SETTINGS, self.cluster.engine, self.pace))
        self.loop = loop(self.cluster, self.name, self.workers, self.lock)

    async def until(self, holds: Callable[[Round], bool]) -> Round:
        for _ in range(200):
            done = await self.loop.round(self.name)
            if holds(done):
                return done
        raise AssertionError([one.because for one in self.workers.done[-3:]])

    async def finish(self) -> Campaign:
        return (await self.until(lambda done: done.is_end)).stored.value


def at(store: MemoryStore, name: str) -> Cluster:
    one = generation(name)
    return Cluster(SETTINGS, Layout(), Engine(store, SETTINGS, one, LocalPace(0)))


def loop(cluster: Cluster, name: str, workers: Workers, lock: Lock) -> Reconciler:
    prover = PartsProver(cluster, workers, lock.guard, EVERYTHING, part_objects=10)
    records = Records.of(cluster.engine.store, cluster.engine.keyspace, name, lock.guard)
    return Reconciler(records, workers, prover, lambda _campaign, _standing: None)


@pytest.fixture
async def world(redis: RedisServer) -> AsyncIterator[World]:
    store = CountingStore()
    for resource in RESOURCES:
        fill(store, OLD, 12, resource)
    cluster = at(store, FIRST)
    broker = BrokerSettings(url=SecretBytes(redis.url.encode()))
    async with hold_lock(cluster, Brake()) as lock, open_pace(broker, "test", 0.0, 8) as pace:
        plan = await plan_run(cluster, EVERYTHING)
        await begin_budgets(cluster, plan.estimate)
        name = (await take_up(cluster, plan, lock.guard)).value.id
        workers = Workers(ChildTools(SETTINGS, cluster.engine, pace))
        yield World(store, pace, lock, cluster, name, workers, loop(cluster, name, workers, lock))


def one_batch_is_done(world: World) -> Callable[[Round], bool]:
    return lambda _: any(one.state is BatchState.DONE for one in world.loop.checkpoints)


def is_proving(done: Round) -> bool:
    return done.stored.value.state is CampaignState.PROVING


async def test_a_slice_that_finishes_its_batch_reads_the_checkpoint_once(world: World) -> None:
    await world.until(one_batch_is_done(world))
    one = world.loop.checkpoints[0].spec
    assert world.store.got[world.cluster.engine.keyspace.batch(world.name, one.number)] == 1
    assert world.workers.done[0].report == world.loop.checkpoints[0].report


@pytest.mark.parametrize(
    ("slice_seconds", "is_broken", "outcome"),
    [
        pytest.param(0.0, False, "worked", id="stopped when the slice is over"),
        pytest.param(60.0, True, "failed", id="failed when etcd does not answer the swaps"),
    ],
)
async def test_a_slice_that_ends_before_its_batch_reads_the_checkpoint_once(
    world: World, *, slice_seconds: float, is_broken: bool, outcome: str
) -> None:
    settings = replace(SETTINGS, service=replace(SETTINGS.service, slice=slice_seconds))
    world.store.is_broken = is_broken
    done = await rewrite(ChildTools(settings, world.cluster.engine, world.pace), world.name, 0)
    assert world.store.got[world.cluster.engine.keyspace.batch(world.name, 0)] == 1
    recorded = (await Checkpoints(world.store, world.cluster.engine.keyspace).load(world.name, 0)).value
    assert (done.outcome, recorded.state, recorded.attempts) == (outcome, BatchState.RUNNING, 1)
    assert recorded.because == (done.because if is_broken else "")


async def test_a_file_of_the_same_meaning_is_adopted_in_the_middle_of_the_batches(world: World) -> None:
    await world.until(one_batch_is_done(world))
    await world.turn_to(SECOND)
    ended = await world.finish()
    assert (ended.state, ended.generation) == (CampaignState.COMPLETE, SECOND)
    assert {one.because for one in world.workers.done} == {""}


async def test_a_file_of_the_same_meaning_is_adopted_in_the_middle_of_the_proof(world: World) -> None:
    await world.until(is_proving)
    await world.turn_to(SECOND)
    ended = await world.finish()
    assert (ended.state, ended.generation) == (CampaignState.COMPLETE, SECOND)


@pytest.mark.parametrize("when", ["batches", "proof"])
async def test_every_pause_ends_and_the_campaign_comes_to_its_proof(world: World, when: str) -> None:
    await world.until(is_proving if when == "proof" else one_batch_is_done(world))
    for pressure in (Pressure("full", None, None), Pressure(None, "used up", None), Pressure(None, None, "at night")):
        await world.change(partial(judge_pause, pressure=pressure))
        await world.loop.round(world.name)
        await world.change(partial(judge_pause, pressure=CALM))
    await world.said(RequestKind.PAUSE)
    assert (await world.loop.round(world.name)).stored.value.paused_for is Pause.OPERATOR
    await world.turn_to(SECOND)
    await world.said(RequestKind.RESUME)
    await world.change(partial(judge_pause, pressure=CALM))
    assert (await world.finish()).state is CampaignState.COMPLETE


async def test_a_proof_without_batches_is_cut_by_size_and_goes_on_after_each_slice(world: World) -> None:
    await world.finish()
    plan = await plan_run(world.cluster, EVERYTHING)
    stored = await take_up(world.cluster, plan, world.lock.guard)
    world.name = stored.value.id
    short_slices = replace(SETTINGS, service=replace(SETTINGS.service, slice=0.0))
    world.workers = Workers(ChildTools(short_slices, world.cluster.engine, world.pace))
    prover = PartsProver(world.cluster, world.workers, world.lock.guard, EVERYTHING, part_objects=10)
    records = Records.of(world.store, world.cluster.engine.keyspace, world.name, world.lock.guard)
    world.loop = Reconciler(records, world.workers, prover, lambda _campaign, _standing: None)
    with capture_logs() as logs:
        ended = await world.until(lambda done: done.is_end)
    assert (ended.stored.value.batches, ended.stored.value.state) == (0, CampaignState.COMPLETE)
    # Of each of three resources one of ten objects, and one of two.
    assert [one["parts"] for one in logs if one["event"] == "proof.planned"] == [6]
    assert ended.proof is not None
    assert ended.proof.objects == 36


async def test_a_proof_from_before_a_pause_is_not_used_after_it(world: World) -> None:
    await world.until(is_proving)
    proofs = Proofs(world.store, world.cluster.engine.keyspace)
    while not all(one.value.is_done for one in await proofs.all(world.name)):
        for one in await proofs.all(world.name):
            await prove(world.workers.tools, world.name, one.value.number)
    await world.said(RequestKind.PAUSE)
    await world.loop.round(world.name)
    fill(world.store, OLD, 1, RESOURCES[0])  # long after the scan
    await world.said(RequestKind.RESUME)
    await world.change(partial(judge_pause, pressure=CALM))
    ended = await world.finish()
    assert (ended.state, ended.sweeps) == (CampaignState.COMPLETE, 2)


async def test_a_proof_that_another_leader_left_long_ago_begins_again(world: World) -> None:
    await world.until(is_proving)
    proofs = Proofs(world.store, world.cluster.engine.keyspace)
    while not all(one.value.is_done for one in await proofs.all(world.name)):
        for one in await proofs.all(world.name):
            await prove(world.workers.tools, world.name, one.value.number)
    fill(world.store, OLD, 1, RESOURCES[0])
    world.store.compact()
    await world.restart(FIRST)
    assert (await world.finish()).sweeps == 2


async def test_a_scope_of_which_the_last_object_is_gone_is_proven_over_nothing_else(world: World) -> None:
    """And a clock of a worker that is days ahead puts nothing off."""
    checkpoints = Checkpoints(world.store, world.cluster.engine.keyspace)
    stored = await checkpoints.load(world.name, 0)
    ahead = replace(stored.value, tried_at=time.time() + 3 * 86_400, stalled=2)
    await checkpoints.save(stored.holding(ahead))
    gone = CampaignSpec(("gone.example.com",))
    prover = PartsProver(world.cluster, world.workers, world.lock.guard, gone)
    records = Records.of(world.store, world.cluster.engine.keyspace, world.name, world.lock.guard)
    world.loop = Reconciler(records, world.workers, prover, lambda _campaign, _standing: None)
    deadline = time.monotonic() + 40
    while not (done := await world.loop.round(world.name)).is_end:
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)
    assert done.proof is not None
    assert (done.proof.objects, done.stored.value.state) == (0, CampaignState.COMPLETE)


async def test_damaged_records_cost_themselves_and_the_campaign_ends(world: World) -> None:
    """One of each kind beside the good ones, and a batch of this very campaign."""
    space = world.cluster.engine.keyspace
    for key in (
        space.campaign("damaged"),
        space.request("damaged"),
        space.rotation("damaged"),
        space.ledger("0123456789abcdef"),
        space.assumption,
        space.handback("damaged"),
        space.claim(world.name, 7),
        space.claim(world.name, 0)[:-8] + b"no-number",
        space.proof(world.name, 99),
        space.quarantined(world.name, b"/registry/secrets/a/b"),
        space.batch(world.name, 0),
    ):
        world.store.put(key, b'{"v":1,"number":' + b"9" * 400 + b',"rate":NaN}')
    ended = await world.finish()
    assert ended.state is CampaignState.INCOMPLETE
    assert "the records of 1 batches are missing or can't be read; 12 objects" in ended.because
    assert [one.value.id for one in await world.campaigns.all()] == [world.name]
    # The next one mends it. The key whose budget can't be read is refused, and not begun at nothing.
    plan = await plan_run(world.cluster, EVERYTHING)
    world.name = (await take_up(world.cluster, plan, world.lock.guard)).value.id
    await world.restart(FIRST)
    assert (await world.finish()).state is CampaignState.COMPLETE
    assert (await world.cluster.engine.ledger.all())["0123456789abcdef"].left(200_000) == 0


async def test_a_batch_that_reaches_beyond_its_resource_is_parked_and_nothing_is_written(world: World) -> None:
    seal(world.store, "/registry/leases/kube-system/x", OLD)
    before = await world.store.get(b"/registry/leases/kube-system/x")
    checkpoints = Checkpoints(world.store, world.cluster.engine.keyspace)
    stored = await checkpoints.load(world.name, 0)
    wide = replace(stored.value.spec, range=KeyRange.of_prefix(b"/registry/"))
    await checkpoints.save(stored.holding(replace(stored.value, spec=wide, stalled=4)))
    ended = await world.finish()
    assert (ended.state, "batch 0 is parked" in ended.because) == (CampaignState.INCOMPLETE, True)
    assert await world.store.get(b"/registry/leases/kube-system/x") == before


async def test_a_sweep_in_the_middle_comes_to_its_proof(world: World) -> None:
    await world.until(one_batch_is_done(world))
    fill(world.store, OLD, 1, RESOURCES[0])
    await world.until(lambda done: done.stored.value.sweeps == 2)
    await world.turn_to(SECOND)
    ended = await world.finish()
    assert (ended.state, ended.sweeps) == (CampaignState.COMPLETE, 2)


@pytest.mark.parametrize("how", ["cancelled", "superseded"])
async def test_an_ended_campaign_is_left_and_the_next_one_comes_to_its_proof(world: World, how: str) -> None:
    await world.until(one_batch_is_done(world))
    if how == "cancelled":
        await world.said(RequestKind.CANCEL)
    else:
        await supersede(world.cluster, await world.campaigns.unfinished(), "a test", world.lock.guard)
    with pytest.raises(StoppedError, match=how):
        await world.finish()
    plan = await plan_run(world.cluster, EVERYTHING)
    world.name = (await take_up(world.cluster, plan, world.lock.guard)).value.id
    await world.restart(FIRST)
    assert (await world.finish()).state is CampaignState.COMPLETE


async def test_what_a_batch_raises_counts_against_it_and_the_others_go_on(world: World) -> None:
    """Its record names a resource that nothing governs: no message gets to the work itself."""
    checkpoints = Checkpoints(world.store, world.cluster.engine.keyspace)
    stored = await checkpoints.load(world.name, 0)
    strange = replace(stored.value.spec, resource="nodes")
    await checkpoints.save(stored.holding(replace(stored.value, spec=strange, stalled=4)))
    ended = await world.finish()
    assert (ended.state, "batch 0 is parked" in ended.because) == (CampaignState.INCOMPLETE, True)
    assert sum(one.report.rewritten for one in world.loop.checkpoints) == 24
