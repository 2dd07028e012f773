"""Compares the proof scan with a bare paged Range over the same stubs, alternating, in one run."""

from __future__ import annotations

import time

from bench.ground import RESOURCES, Ground
from bench.rewriting import read_everything
from kube_rewrap.cli.demo.registry import Era, Shape, make_key, seed
from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.scheduler.registry.cluster import open_cluster
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.worker.etcd.client import open_store

OBJECTS = 20_000
TURNS = 5


async def compare(ground: Ground) -> None:
    """Print the table."""
    keys = [make_key(kind, kind.value) for kind in (ProviderType.AESCBC, ProviderType.AESGCM, ProviderType.SECRETBOX)]
    await seed(ground.settings.etcd, [Era(key, 1) for key in keys], Shape(OBJECTS, resources=RESOURCES))
    print(f"{'scan':<14} {'range/s':>9} {'proof/s':>9} {'ratio':>6}")
    for _ in range(TURNS):
        async with open_store(ground.settings.etcd, "/bench") as store:
            started = time.perf_counter()
            count = len(await read_everything(store))
            bare = count / (time.perf_counter() - started)
        async with open_cluster(ground.settings, ground.generation(*keys)) as cluster:
            started = time.perf_counter()
            _, found = await scan_cluster(cluster)
            proof = found.objects / (time.perf_counter() - started)
        print(f"{'three providers':<14} {bare:9,.0f} {proof:9,.0f} {proof / bare:6.2f}")
