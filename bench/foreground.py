"""Measures by how much a scan, and a run, slow down another client's writes to the same etcd.

Turns without and with either alternate in one run, so that the machine's other work cancels out of the ratio. The scan
is that of `verify`; the run rewrites for some seconds, at the default rate, after its plan. Either is in a process of
its own; the other client puts 1 kB every 10 ms.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from bench.ground import RESOURCES, Ground
from kube_rewrap.cli.demo.registry import Era, Shape, make_key, seed
from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.store import Put, Store

OBJECTS = 100_000
NAMESPACES = 5_000
TURNS = 5
_IDLE_SECONDS = 4.0
_RUN_SECONDS = 6.0
_INTERVAL = 0.01
_CHILD = """
import asyncio, contextlib, sys, uvloop
from kube_rewrap.config.encryption.generation import load_generation
from kube_rewrap.config.settings.logs import configure_logs
from kube_rewrap.config.settings.schema import BudgetSettings, EtcdSettings, LogSettings, PaceSettings, Settings
from kube_rewrap.scheduler.campaigns.embedded import run_embedded
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.registry.cluster import open_cluster
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.scheduler.registry.scope import CampaignSpec
from kube_rewrap.worker.collector import spare_the_imports
from kube_rewrap.worker.rate.brake import Brake

async def signal(text):
    print(text, flush=True)
    await asyncio.to_thread(sys.stdin.readline)

async def scan(cluster):
    await signal("ready")
    await scan_cluster(cluster)

async def run(cluster):
    brake = Brake()
    async with hold_lock(cluster, brake) as lock:
        plan = await plan_run(cluster, CampaignSpec())
        await signal("ready")
        rewriting = asyncio.create_task(run_embedded(cluster, plan, lock, brake, lambda *_: None))
        await signal("running")
        rewriting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await rewriting

async def main(work, endpoint, file, share):
    settings = Settings(
        etcd=EtcdSettings(endpoints=(endpoint,)),
        pace=PaceSettings(read_share=float(share)),
        budget=BudgetSettings(gcm_limit=2**32),
    )
    async with open_cluster(settings, load_generation(open(file, "rb").read(), "bench")) as cluster:
        await {"scan": scan, "run": run}[work](cluster)

configure_logs(LogSettings(level="error"), "bench")
spare_the_imports()
uvloop.run(main(*sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True)
class Work:
    """What a child process does, and with which `pace.read_share`."""

    kind: str
    read_share: float


WORKS = (Work("scan", 1.0), Work("scan", 0.5), Work("scan", 0.25), Work("run", 0.5))


@dataclass(slots=True)
class Seen:
    """What the other client saw: the seconds of each of its puts, without and with the work, and those of the work."""

    idle: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    took: list[float] = field(default_factory=list)


async def compare(ground: Ground) -> None:
    """Print the table."""
    keys = [make_key(ProviderType.AESCBC, "first")]
    await seed(ground.settings.etcd, [Era(keys[0], 1)], Shape(OBJECTS, namespaces=NAMESPACES, resources=RESOURCES))
    seen = {work: Seen() for work in WORKS}
    async with open_store(ground.settings.etcd, "/bench") as store:
        for turn in range(TURNS):
            keys.insert(0, make_key(ProviderType.AESCBC, f"key-{turn}"))
            file = ground.configuration_file(*keys)
            for work in WORKS:
                seen[work].idle += await _write_until(store, asyncio.create_task(asyncio.sleep(_IDLE_SECONDS)))
                await _write_beside(work, store, ground, file, seen[work])
    print(f"{'work':<5} {'share':>5} {'s':>5} {'idle p50':>8} {'p99':>6} {'busy p50':>8} {'p99':>6} {'ratio p99':>9}")
    for work, one in seen.items():
        idle, busy = _percentile(one.idle, 0.99), _percentile(one.busy, 0.99)
        print(
            f"{work.kind:<5} {work.read_share:5g} {_percentile(one.took, 0.5):5.1f} "
            f"{_percentile(one.idle, 0.5) * 1e3:8.1f} {idle * 1e3:6.1f} "
            f"{_percentile(one.busy, 0.5) * 1e3:8.1f} {busy * 1e3:6.1f} {busy / idle:9.2f}"
        )


async def _write_beside(work: Work, store: Store, ground: Ground, file: Path, seen: Seen) -> None:
    """Write while a child process works. It has started when the first put is timed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _CHILD, work.kind, ground.settings.etcd.endpoints[0], str(file), str(work.read_share)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if child.stdin is None or child.stdout is None or not await child.stdout.readline():
        raise RuntimeError(f"the {work.kind} did not start")
    started = time.perf_counter()
    child.stdin.write(b"\n")
    end = child.wait() if work.kind == "scan" else asyncio.sleep(_RUN_SECONDS)
    seen.busy += await _write_until(store, asyncio.ensure_future(end))
    seen.took.append(time.perf_counter() - started)
    if work.kind == "run":
        child.stdin.write(b"\n")
    if await child.wait():
        raise RuntimeError(f"the {work.kind} failed")


async def _write_until(store: Store, end: asyncio.Future[object]) -> list[float]:
    """Put a key every `_INTERVAL` until a task ends; returns the seconds of each put."""
    took: list[float] = []
    while not end.done():
        started = time.perf_counter()
        await store.commit([], [Put(b"/bench/foreground", os.urandom(1_000))])
        took.append(time.perf_counter() - started)
        await asyncio.sleep(max(0.0, _INTERVAL - took[-1]))
    return took


def _percentile(seconds: list[float], share: float) -> float:
    return sorted(seconds)[int(len(seconds) * share)]
