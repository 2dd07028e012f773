"""Measures by how much a scan slows down another client's writes to the same etcd.

Turns without a scan and turns with one of each kind alternate in one run, so that the machine's other work cancels out
of the ratio. The scan is that of `verify`, in a process of its own; the other client puts 1 kB every 10 ms.
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
SHARES = (1.0, 0.5, 0.25)
_IDLE_SECONDS = 4.0
_INTERVAL = 0.01
_SCAN = """
import sys, uvloop
from kube_rewrap.config.encryption.generation import load_generation
from kube_rewrap.config.settings.logs import configure_logs
from kube_rewrap.config.settings.schema import EtcdSettings, LogSettings, PaceSettings, Settings
from kube_rewrap.scheduler.registry.cluster import open_cluster
from kube_rewrap.scheduler.registry.scan import scan_cluster

async def scan(endpoint, file, share):
    settings = Settings(etcd=EtcdSettings(endpoints=(endpoint,)), pace=PaceSettings(read_share=float(share)))
    async with open_cluster(settings, load_generation(open(file, "rb").read(), "bench")) as cluster:
        print("ready", flush=True)
        sys.stdin.readline()
        await scan_cluster(cluster)

configure_logs(LogSettings(level="error"), "bench")
uvloop.run(scan(*sys.argv[1:]))
"""


@dataclass(slots=True)
class Seen:
    """What the other client saw: the seconds of each of its puts, without and with the scan, and those of the scans."""

    idle: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    scans: list[float] = field(default_factory=list)


async def compare(ground: Ground) -> None:
    """Print the table."""
    key = make_key(ProviderType.AESCBC, "old")
    await seed(ground.settings.etcd, [Era(key, 1)], Shape(OBJECTS, namespaces=NAMESPACES, resources=RESOURCES))
    file = ground.configuration_file(key)
    seen = {share: Seen() for share in SHARES}
    async with open_store(ground.settings.etcd, "/bench") as store:
        for _ in range(TURNS):
            for share in SHARES:
                seen[share].idle += await _write_until(store, asyncio.create_task(asyncio.sleep(_IDLE_SECONDS)))
                await _write_beside_scan(store, ground, file, share, seen[share])
    print(f"{'read_share':>10} {'scan s':>7} {'idle p50':>9} {'p99':>6} {'scan p50':>9} {'p99':>6} {'ratio p99':>9}")
    for share, one in seen.items():
        idle, busy = _percentile(one.idle, 0.99), _percentile(one.busy, 0.99)
        print(
            f"{share:10g} {_percentile(one.scans, 0.5):7.1f} {_percentile(one.idle, 0.5) * 1e3:9.1f} {idle * 1e3:6.1f} "
            f"{_percentile(one.busy, 0.5) * 1e3:9.1f} {busy * 1e3:6.1f} {busy / idle:9.2f}"
        )


async def _write_beside_scan(store: Store, ground: Ground, file: Path, share: float, seen: Seen) -> None:
    """Write while a child process scans. It has started when the first put is timed."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", _SCAN, ground.settings.etcd.endpoints[0], str(file), str(share)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    if child.stdin is None or child.stdout is None or not await child.stdout.readline():
        raise RuntimeError("the scan did not start")
    started = time.perf_counter()
    child.stdin.write(b"\n")
    seen.busy += await _write_until(store, asyncio.create_task(child.wait()))
    seen.scans.append(time.perf_counter() - started)
    if child.returncode:
        raise RuntimeError("the scan failed")


async def _write_until(store: Store, end: asyncio.Task[object]) -> list[float]:
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
