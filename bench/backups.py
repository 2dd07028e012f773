"""Measures `rewrap backups` on a backup of 100,000 objects of 1 kB, or of 1,000,000 of 3 kB, which are 4 GiB."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from bench.ground import RESOURCES, Ground
from bench.scale import MEASURE
from kube_rewrap.cli.demo.registry import Era, Shape, make_key, seed
from kube_rewrap.config.encryption.configuration import ProviderType

_SMALL = Shape(100_000, resources=RESOURCES)
_MILLION = Shape(1_000_000, payload=2_900, resources=RESOURCES)
_COMMIT_SECONDS = 1.0
"""etcd commits to its database every 100 ms; a copy that lacks the last objects fails the run."""


async def compare(place: Ground) -> None:
    """Print the CPU of each verb for each object, in microseconds, the time that it took, and its memory in MiB."""
    await _compare(place, _SMALL)


async def compare_million(place: Ground) -> None:
    """Print the same of 1,000,000 objects. Takes 10 GiB of disk for a while."""
    await _compare(place, _MILLION)


async def _compare(place: Ground, shape: Shape) -> None:
    old, new = make_key(ProviderType.AESCBC, "old"), make_key(ProviderType.AESCBC, "new")
    await seed(place.settings.etcd, [Era(old, 1)], shape)
    configuration = place.configuration_file(new, old)
    backup = place.directory / "backup"
    await asyncio.sleep(_COMMIT_SECONDS)
    [database] = place.directory.rglob("member/snap/db")
    shutil.copyfile(database, backup)
    print(f"{shape.objects:,} objects, {backup.stat().st_size >> 20} MiB")
    print(f"{'':>8} {'CPU µs':>7} {'s':>6} {'MiB':>5}")
    for verb in ("inspect", "prove"):
        _measure(verb, backup, configuration, shape.objects)


def _measure(verb: str, backup: Path, configuration: Path, objects: int) -> None:
    words = ("backups", verb, str(backup), "--encryption-config", str(configuration), "-o", "json")
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "REWRAP_LOG_LEVEL": "error"},
    )
    seconds = time.perf_counter() - started
    if done.returncode or json.loads(done.stdout)["backups"][0]["objects"] != objects:
        raise RuntimeError(f"rewrap {' '.join(words)} failed: {done.stdout}{done.stderr}")
    cpu, memory = map(float, done.stderr.splitlines()[-1].split())
    print(f"{verb:>8} {cpu / objects * 1e6:7.1f} {seconds:6.1f} {memory / 1024:5.0f}", flush=True)
