"""Compares the service with embedded runs of one and of as many processes as its worker has children.

Measures, too, how soon it starts, and resumes after a worker's death. The service's rate includes messages, claims and
waits: wall clock from the first swap to the end of the last batch. CPU time is that of the worker's processes alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from statistics import median

from bench.ground import RESOURCES, Ground
from bench.rewriting import OBJECTS, Speed, rewrap
from kube_rewrap.cli.demo.registry import REGISTRY, Era, Shape, configuration_of, make_key, seed
from kube_rewrap.cli.demo.throwaway import find_redis, throwaway_redis
from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.config.encryption.provider import KeyedProvider
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.campaign import CampaignState
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.claims import Claim, Claims
from kube_rewrap.worker.records.keyspace import Keyspace

CHILDREN = 4
TURNS = 3
_BOUND = 180.0
_LOOK = 0.02
_SLOW = "500"  # objects a second, so that the campaign is unfinished when the worker is killed
_START_SECONDS = 4.0  # until the second worker is up
_ENTRY = "from kube_rewrap.cli.main import run; run()"
_TICKS = os.sysconf("SC_CLK_TCK")


class Daemons:
    """Starts scheduler and worker, each in its own process."""

    def __init__(self, ground: Ground, redis: str) -> None:
        self.file = ground.directory / "service.json"
        self._log = ground.directory / "daemons.log"
        self._environment = {
            **os.environ,
            "REWRAP_ENDPOINTS": ground.settings.etcd.endpoints[0],
            "REWRAP_BROKER": redis,
            "REWRAP_ENCRYPTION_CONFIG": str(self.file),
            "REWRAP_RATE": "0",
            "REWRAP_QUOTA_BYTES": str(8 * 2**30),
            "REWRAP_GCM_LIMIT": str(2**32),
            "REWRAP_LOG_LEVEL": "warning",
        }

    def configure(self, *providers: KeyedProvider) -> None:
        fresh = self.file.with_suffix(".new")
        fresh.touch(mode=0o600)
        fresh.write_text(configuration_of(providers, RESOURCES))
        fresh.rename(self.file)

    @contextmanager
    def running(self, *words: str) -> Iterator[subprocess.Popen[bytes]]:
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _ENTRY, *words],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()


async def compare(ground: Ground) -> None:
    """Print the tables."""
    old = make_key(ProviderType.AESCBC, "first")
    await seed(ground.settings.etcd, [Era(old, 1)], Shape(OBJECTS, resources=RESOURCES))
    embedded: dict[int, list[Speed]] = {1: [], CHILDREN: []}
    for turn in range(TURNS):
        for processes, speeds in embedded.items():
            new = make_key(ProviderType.AESGCM, f"embedded-{turn}-{processes}")
            speeds.append((await rewrap(ground, new, old, processes=processes))[0])
            old = new
    alone, together = (median(one.rate for one in speeds) for speeds in embedded.values())
    cpu = median(one.cpu for one in embedded[1])
    print(
        f"embedded run, median of {TURNS}: {alone:,.0f}/s in one process, at {cpu:.0f} µs of CPU an object; "
        f"{together:,.0f}/s in {CHILDREN}"
    )
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(throwaway_redis(find_redis(None), ground.directory))
        store = await stack.enter_async_context(open_store(ground.settings.etcd, "/kube-rewrap"))
        daemons = Daemons(ground, redis)
        daemons.configure(old)
        known = await campaigns(store)
        stack.enter_context(daemons.running("scheduler"))
        with daemons.running("worker", "--children", str(CHILDREN)) as worker:
            await ended(store, known)
            print(f"{'service/s':>10} {'ratio':>6} {'of 1':>6} {'CPU µs':>7} {'file change to first swap, s':>29}")
            for _ in range(TURNS):
                old = await _turn(daemons, store, worker.pid, old, (together, alone))
        await _kill(daemons, store, old)


async def _turn(
    daemons: Daemons, store: Store, worker: int, old: KeyedProvider, embedded: tuple[float, float]
) -> KeyedProvider:
    new = make_key(ProviderType.AESGCM, f"service-{time.time_ns()}")
    known = await campaigns(store)
    revision, cpu = await store.revision(), cpu_of(worker)
    started = time.perf_counter()
    daemons.configure(new, old)
    first = await first_swap(store, revision)
    last = await ended(store, known, CampaignState.PROVING)
    service = Speed(OBJECTS / (last - first), (cpu_of(worker) - cpu) / OBJECTS * 1e6)
    await ended(store, known)
    print(
        f"{service.rate:10,.0f} {service.rate / embedded[0]:6.2f} {service.rate / embedded[1]:6.2f} "
        f"{service.cpu:7.0f} {first - started:29.2f}",
        flush=True,
    )
    return new


async def _kill(daemons: Daemons, store: Store, old: KeyedProvider) -> None:
    """Measure how long a batch waits after its worker is killed, while another worker is idle."""
    claims = Claims(store, Keyspace())
    known = await campaigns(store)
    with daemons.running("worker", "--children", "1", "--rate", _SLOW) as worker:
        daemons.configure(make_key(ProviderType.SECRETBOX, "last"), old)
        name, number = await _claimed(store, claims, known)
        with daemons.running("worker", "--children", "1", "--rate", _SLOW):
            await asyncio.sleep(_START_SECONDS)
            mine = [claim for claim in await claims.all(name) if _session(_pid(claim)) == worker.pid]
            number, dead = (mine[0].number, _pid(mine[0])) if mine else (number, None)
            os.killpg(worker.pid, signal.SIGKILL)
            killed = time.perf_counter()
            while True:
                holders = [_pid(claim) for claim in await claims.all(name) if claim.number == number]
                if any(pid != dead for pid in holders) or time.perf_counter() > killed + _BOUND:
                    break
                await asyncio.sleep(_LOOK)
            print(f"from the death of a worker until another claims its batch: {time.perf_counter() - killed:.1f} s")
            await ended(store, known)


def _pid(claim: Claim) -> int | None:
    return claim.holder.pid if claim.holder is not None else None


async def _claimed(store: Store, claims: Claims, known: set[str]) -> tuple[str, int]:
    until = time.perf_counter() + _BOUND
    while time.perf_counter() < until:
        for name in await campaigns(store) - known:
            for claim in await claims.all(name):
                return name, claim.number
        await asyncio.sleep(_LOOK)
    raise RuntimeError("no batch was claimed")


def _session(pid: object) -> int | None:
    """Return the session of a process; None if it has ended."""
    try:
        return os.getsid(int(str(pid)))
    except (OSError, ValueError):
        return None


async def campaigns(store: Store) -> set[str]:
    return {stored.value.id for stored in await Campaigns(store, Keyspace()).all()}


async def first_swap(store: Store, revision: int) -> float:
    registry = KeyRange.of_prefix(f"{REGISTRY}/".encode())
    until = time.perf_counter() + _BOUND
    while time.perf_counter() < until:
        if (await store.page(registry, 1, since=revision + 1)).items:
            return time.perf_counter()
        await asyncio.sleep(_LOOK)
    raise RuntimeError("the service did not begin")


async def ended(store: Store, known: set[str], state: CampaignState | None = None) -> float:
    """Wait until a campaign that is not in `known` is in a state, or has ended; returns the time (perf_counter)."""
    until = time.perf_counter() + _BOUND
    while time.perf_counter() < until:
        found = [one.value for one in await Campaigns(store, Keyspace()).all() if one.value.id not in known]
        if any(one.state.is_end or one.state is state for one in found):
            return time.perf_counter()
        await asyncio.sleep(_LOOK)
    raise RuntimeError("the campaign did not end")


def cpu_of(session: int) -> float:
    """Return the CPU seconds of all living processes of a session."""
    total = 0.0
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[3]) == session:
            total += (int(fields[11]) + int(fields[12])) / _TICKS
    return total
