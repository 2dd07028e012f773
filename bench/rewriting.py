"""`run` against a bare loop of compare-and-swap puts over the same stubs, turn about, in one run.

The loop does what no rewrap can do without: one transaction an object. It decrypts, encrypts,
checks, records and adapts nothing, and its window is the best of several that are tried first.
"""

from __future__ import annotations

import asyncio
import os
import resource
import time
from collections.abc import Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass

from bench.ground import RESOURCES, Ground
from config.encryption import ProviderType
from config.provider import KeyedProvider
from scheduler.service import Order, open_service
from worker.demo_keyspace import REGISTRY, Era, Shape, make_key, seed
from worker.etcd.client import open_store
from worker.etcd.store import Item, Outcome, Store
from worker.model.keys import KeyRange, after
from worker.pace.brake import Brake

OBJECTS = 20_000
WINDOWS = (64, 128, 256)
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


async def bare_loop(ground: Ground, window: int) -> Speed:
    """Swap every object for random bytes of its size, and back; only the first is timed."""
    async with open_store(ground.settings.etcd, "/bench") as store:
        items = await read_everything(store)
        values = [os.urandom(len(item.value)) for item in items]
        started, cpu = time.perf_counter(), _cpu()
        await _swap_all(store, items, values, window)
        speed = Speed(len(items) / (time.perf_counter() - started), (_cpu() - cpu) / len(items) * 1e6)
        now = await read_everything(store)
        await _swap_all(store, now, [item.value for item in items], window)
    return speed


async def _swap_all(store: Store, items: Sequence[Item], values: Sequence[bytes], window: int) -> None:
    work = iter(zip(items, values, strict=True))
    async with asyncio.TaskGroup() as group:
        for _ in range(window):
            group.create_task(_swap_some(store, work))


async def _swap_some(store: Store, work: Iterator[tuple[Item, bytes]]) -> None:
    for item, value in work:
        if (await store.swap(item, value)).outcome is not Outcome.APPLIED:
            raise RuntimeError("the bare loop lost a swap; something else writes here")


async def rewrap(ground: Ground, *providers: KeyedProvider) -> tuple[Speed, Speed]:
    """Run a campaign; returns the speed of its batches alone, and of the whole with plan and proof."""
    whole_started, whole_cpu = time.perf_counter(), _cpu()
    async with AsyncExitStack() as stack:
        service = await stack.enter_async_context(open_service(ground.settings, ground.generation(*providers)))
        brake = Brake()
        lock = await stack.enter_async_context(service.owned(Order(), brake))
        plan = await service.plan(Order())
        started, cpu = time.perf_counter(), _cpu()
        batches_done: list[tuple[float, float]] = []

        def watch(_report: object, left: int) -> None:
            if left == 0 and not batches_done:
                batches_done.append((time.perf_counter(), _cpu()))

        result = await service.run(plan, Order(), lock.guard, brake, watch)
    if result.report.rewritten != OBJECTS or not result.proof.is_clean:
        raise RuntimeError(f"the campaign is not complete: {result.campaign.because}")
    ended, ended_cpu = batches_done[0]
    return (
        Speed(OBJECTS / (ended - started), (ended_cpu - cpu) / OBJECTS * 1e6),
        Speed(OBJECTS / (time.perf_counter() - whole_started), (_cpu() - whole_cpu) / OBJECTS * 1e6),
    )


async def compare(ground: Ground) -> None:
    """Print the table."""
    old = make_key(ProviderType.AESCBC, "first")
    await seed(ground.settings.etcd, [Era(old, 1)], Shape(OBJECTS, resources=RESOURCES))
    bare = {window: (await bare_loop(ground, window)).rate for window in WINDOWS}
    best = max(bare, key=lambda window: bare[window])
    tried = ", ".join(f"{window}: {rate:,.0f}/s" for window, rate in bare.items())
    print(f"bare loop, windows tried: {tried}; {best} it is")
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
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime
