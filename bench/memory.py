"""Measures the peak resident memory of commands, each in its own process, on a small and on a large etcd."""

from __future__ import annotations

import json
import os
import subprocess
import sys

from bench.ground import RESOURCES, ground
from kube_rewrap.cli.demo.registry import Era, Shape, make_key, seed
from kube_rewrap.config.encryption.configuration import ProviderType

SIZES = (10_000, 200_000)
_MEASURE = """
import resource, sys
from kube_rewrap.cli.main import main
code = main(sys.argv[1:])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr)
sys.exit(code)
"""


async def compare() -> None:
    """Print the table; each size has its own etcd."""
    print(f"{'objects':>9} {'verify MiB':>11} {'run MiB':>9} {'run s':>7}")
    for objects in SIZES:
        with ground() as place:
            old, new = make_key(ProviderType.AESCBC, "old"), make_key(ProviderType.AESCBC, "new")
            await seed(place.settings.etcd, [Era(old, 1)], Shape(objects, resources=RESOURCES))
            file = str(place.configuration_file(new, old))
            flags = ["--endpoints", place.settings.etcd.endpoints[0], "--encryption-config", file, "-o", "json"]
            verify, _ = _peak("verify", *flags)
            run, document = _peak("run", "--rate", "0", "--quota-bytes", str(8 * 2**30), *flags)
            print(f"{objects:9,} {verify:11.0f} {run:9.0f} {json.loads(document)['seconds']:7.1f}", flush=True)


def _peak(*words: str) -> tuple[float, str]:
    """Run a command in its own process; returns its peak memory in MiB, and its output."""
    environment = {**os.environ, "REWRAP_LOG_LEVEL": "warning"}
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, *words], capture_output=True, text=True, check=False, env=environment
    )
    return int(done.stderr.splitlines()[-1]) / 1024, done.stdout
