"""Measures the CPU of etcd and of the command line for each object, on registries of several sizes.

A scan is linear when these figures do not grow with the number of objects. Each command runs in its own process; each
registry has its own etcd.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.ground import RESOURCES, Ground, ground
from kube_rewrap.cli.demo.registry import Era, Shape, make_key, seed
from kube_rewrap.config.encryption.configuration import ProviderType

SIZES = (100_000, 300_000)
MILLION = 1_000_000
NAMESPACES = (5_000, 20_000)
COMMANDS = {
    "status": ("status",),
    "plan": ("run", "--dry-run"),
    "run": ("run", "--rate", "0", "--quota-bytes", str(8 * 2**30)),
    "verify": ("verify",),
}
MEASURE = """
import os, resource, sys
from kube_rewrap.cli.main import main
code = main(sys.argv[1:])
own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime
print(seconds, max(own.ru_maxrss, children.ru_maxrss), file=sys.stderr)
sys.exit(code)
"""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a command cost: microseconds of CPU for each object, of etcd and its own; seconds; MiB of its largest."""

    etcd: float
    own: float
    seconds: float
    memory: float


async def compare(sizes: Sequence[int]) -> None:
    """Print the table; a ratio compares with the smallest registry of as many namespaces."""
    print(
        f"{'objects':>9} {'namespaces':>10} {'command':>8} {'etcd µs':>8} {'ratio':>6} {'own µs':>8} {'ratio':>6}",
        end="",
    )
    print(f" {'s':>7} {'MiB':>5}")
    for namespaces in NAMESPACES:
        first: dict[str, Cost] = {}
        for objects in sizes:
            with ground() as place:
                await _fill(place, objects, namespaces)
                for name, words in COMMANDS.items():
                    cost = _run(place, objects, words)
                    than = first.setdefault(name, cost)
                    print(
                        f"{objects:9,} {namespaces:10,} {name:>8} {cost.etcd:8.1f} {cost.etcd / than.etcd:6.2f} "
                        f"{cost.own:8.1f} {cost.own / than.own:6.2f} {cost.seconds:7.1f} {cost.memory:5.0f}",
                        flush=True,
                    )


async def _fill(place: Ground, objects: int, namespaces: int) -> None:
    """Fill the registry, and write the file whose new key is the primary."""
    old, new = make_key(ProviderType.AESCBC, "old"), make_key(ProviderType.AESCBC, "new")
    await seed(place.settings.etcd, [Era(old, 1)], Shape(objects, namespaces=namespaces, resources=RESOURCES))
    place.configuration_file(new, old)


def _run(place: Ground, objects: int, words: Sequence[str]) -> Cost:
    """Run a command in its own process, and measure it and etcd."""
    file = str(place.directory / "encryption.json")
    flags = ("--endpoints", place.settings.etcd.endpoints[0], "--encryption-config", file, "-o", "json")
    etcd = _only_child()
    started, before = time.perf_counter(), _cpu_seconds(etcd)
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, *words, *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "REWRAP_LOG_LEVEL": "error"},
    )
    seconds, after = time.perf_counter() - started, _cpu_seconds(etcd)
    try:
        own, memory = map(float, done.stderr.splitlines()[-1].split())
    except (IndexError, ValueError):
        raise RuntimeError(f"rewrap {' '.join(words)} failed: {done.stdout}{done.stderr}") from None
    return Cost((after - before) / objects * 1e6, own / objects * 1e6, seconds, memory / 1024)


def _only_child() -> int:
    """Return the process id of etcd, the one child of this process."""
    children = Path(f"/proc/self/task/{threading.get_native_id()}/children").read_text(encoding="ascii")
    (pid,) = map(int, children.split())
    return pid


def _cpu_seconds(pid: int) -> float:
    """Return the CPU time that a process has used, from fields 14 and 15 of proc(5)'s stat."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
