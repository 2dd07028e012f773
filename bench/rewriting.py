"""Compares `rewrap run` with a bare loop of compare-and-swap puts over the same stubs, alternating, in one run.

The loop makes one transaction an object, the minimum of any rewrap. It does not decrypt, encrypt, check or record, and
its window is fixed: the fastest of several that are tried first, with swaps sent one by one or in groups.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from itertools import islice

from bench.ground import RESOURCES, Ground
from kube_rewrap.cli.demo.registry import REGISTRY, Era, Shape, make_key, seed
from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.config.encryption.provider import Provider
from kube_rewrap.scheduler.campaigns.embedded import run_embedded
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.registry.cluster import open_cluster
from kube_rewrap.scheduler.registry.scope import CampaignSpec
from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.ranges import KeyRange, after
from kube_rewrap.worker.etcd.store import Item, Outcome, Store
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.standing import Standing

OBJECTS = 20_000
WINDOWS = (64, 128, 256)
STREAMS = 3  # of groups side by side, as many as the engine has batches
TURNS = 3


@dataclass(frozen=True, slots=True)
class Speed:
    """Objects a second, and microseconds of this process' CPU for each."""

    rate: float
    cpu: float


async def read_everything(store: Store) -> list[Item]:
    """Return every object of the registry."""
    items: list[Item] = []
    rest = KeyRange.of_prefix(f"{REGISTRY}/".encode())
    while True:
        page = await store.page(rest, 500)
        items += page.items
        if not page.more:
            return items
        rest = rest.since(after(page.items[-1].key))


@dataclass(frozen=True, slots=True)
class Way:
    """How the bare loop sends: the number of swaps in flight, and whether one by one or in groups."""

    window: int
    grouped: bool

    def __str__(self) -> str:
        return f"{self.window} {'in groups' if self.grouped else 'one by one'}"


WAYS = tuple(Way(window, grouped) for grouped in (False, True) for window in WINDOWS)


async def bare_loop(ground: Ground, way: Way, most: int | None = None) -> Speed:
    """Swap every object, or the first `most`, for random bytes of its size, and back; only the first is timed."""
    async with open_store(ground.settings.etcd, "/bench") as store:
        items = (await read_everything(store))[:most]
        values = [os.urandom(len(item.value)) for item in items]
        started, cpu = time.perf_counter(), _cpu()
        await _swap_all(store, items, values, way)
        speed = Speed(len(items) / (time.perf_counter() - started), (_cpu() - cpu) / len(items) * 1e6)
        now = (await read_everything(store))[:most]
        await _swap_all(store, now, [item.value for item in items], way)
    return speed


async def _swap_all(store: Store, items: Sequence[Item], values: Sequence[bytes], way: Way) -> None:
    work = iter(zip(items, values, strict=True))
    streams, size = (STREAMS, way.window // STREAMS) if way.grouped else (way.window, 1)
    async with asyncio.TaskGroup() as group:
        for _ in range(streams):
            group.create_task(_swap_some(store, work, size))


async def _swap_some(store: Store, work: Iterator[tuple[Item, bytes]], size: int) -> None:
    while swaps := list(islice(work, size)):
        ends = await store.swap_all(swaps)
        if any(isinstance(end, WorkerError) or end.outcome is not Outcome.APPLIED for end in ends):
            raise RuntimeError("the bare loop lost a swap; something else writes here")


async def rewrap(
    ground: Ground,
    *providers: Provider,
    objects: int = OBJECTS,
    calls: Counter[str] | None = None,
    processes: int = 1,
) -> tuple[Speed, Speed]:
    """Run a campaign; returns the speed of its batches alone, and that of the whole run with plan and proof.

    Adds the calls to KMS plugins to `calls`, by method. With several processes, the batches' CPU is unknown.
    """
    children = ground.children(processes, *providers) if processes > 1 else []
    whole_started, whole_cpu = time.perf_counter(), _cpu()
    async with AsyncExitStack() as stack:
        cluster = await stack.enter_async_context(open_cluster(ground.settings, ground.generation(*providers)))
        brake = Brake()
        lock = await stack.enter_async_context(hold_lock(cluster, brake))
        plan = await plan_run(cluster, CampaignSpec())
        started, cpu = time.perf_counter(), _cpu()
        batches_done: list[tuple[float, float]] = []

        def watch(_campaign: object, standing: Standing) -> None:
            if standing.batches_left == 0 and not batches_done:
                batches_done.append((time.perf_counter(), _cpu()))

        result = await run_embedded(cluster, plan, lock, brake, watch, children=children)
        if calls is not None:
            for counts in cluster.engine.kms_counts():
                for (method, _), made in counts.calls.items():
                    calls[method] += made.calls
    if result.report.rewritten != objects or not result.proof.is_clean:
        raise RuntimeError(f"the campaign is not complete: {result.campaign.because}")
    ended, ended_cpu = batches_done[0]
    return (
        Speed(objects / (ended - started), (ended_cpu - cpu) / objects * 1e6),
        Speed(objects / (time.perf_counter() - whole_started), (_cpu() - whole_cpu) / objects * 1e6),
    )


async def compare(ground: Ground) -> None:
    """Print the table."""
    old = make_key(ProviderType.AESCBC, "first")
    await seed(ground.settings.etcd, [Era(old, 1)], Shape(OBJECTS, resources=RESOURCES))
    bare = {way: (await bare_loop(ground, way)).rate for way in WAYS}
    best = max(bare, key=lambda way: bare[way])
    tried = ", ".join(f"{way}: {rate:,.0f}/s" for way, rate in bare.items())
    print(f"bare loop, tried: {tried}; {best} it is")
    print(f"{'rewrap':<18} {'bare/s':>8} {'run/s':>8} {'ratio':>6} {'whole':>6} {'bare µs':>8} {'run µs':>8}")
    for kind in (ProviderType.AESCBC, ProviderType.AESGCM, ProviderType.SECRETBOX):
        for turn in range(TURNS):
            new = make_key(kind, f"{kind.value}-{turn}")
            loop = await bare_loop(ground, best)
            batches, whole = await rewrap(ground, new, old)
            print(
                f"{old.type.value + ' → ' + kind.value:<18} {loop.rate:8,.0f} {batches.rate:8,.0f} "
                f"{batches.rate / loop.rate:6.2f} {whole.rate / loop.rate:6.2f} {loop.cpu:8.0f} {batches.cpu:8.0f}"
            )
            old = new


def _cpu() -> float:
    """Return the CPU seconds of this process, and of its children that have ended."""
    usages = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return sum(usage.ru_utime + usage.ru_stime for usage in usages)
