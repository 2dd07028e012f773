"""Compares runs of one and of two processes with the best bare loop of one process, alternating, in one run."""

from __future__ import annotations

from bench.ground import RESOURCES, Ground
from bench.rewriting import WAYS, bare_loop, rewrap
from kube_rewrap.cli.demo.registry import Era, Shape, make_key, seed
from kube_rewrap.config.encryption.configuration import ProviderType

OBJECTS = 120_000  # a run gets several processes by itself from 50,000 on
TRIED = 6_000
"""Objects with which each way of the bare loop is tried."""

TURNS = 3


async def compare(ground: Ground) -> None:
    """Print the table: rates of the batches alone and of whole runs, as ratios to the bare loop."""
    old = make_key(ProviderType.AESGCM, "first")
    await seed(ground.settings.etcd, [Era(old, 1)], Shape(OBJECTS, resources=RESOURCES))
    bare = {way: (await bare_loop(ground, way, TRIED)).rate for way in WAYS}
    best = max(bare, key=lambda way: bare[way])
    print(f"bare loop: {best}")
    print(f"{'processes':<10} {'bare/s':>8} {'run/s':>8} {'ratio':>6} {'whole':>6} {'whole µs':>9}")
    for turn in range(TURNS):
        loop = await bare_loop(ground, best)
        for count in (1, 2):
            new = make_key(ProviderType.AESGCM, f"key-{turn}-{count}")
            batches, whole = await rewrap(ground, new, old, objects=OBJECTS, processes=count)
            print(
                f"{count:<10} {loop.rate:8,.0f} {batches.rate:8,.0f} {batches.rate / loop.rate:6.2f} "
                f"{whole.rate / batches.rate:6.2f} {whole.cpu:9.0f}",
                flush=True,
            )
            old = new
