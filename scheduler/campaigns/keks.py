"""Records the KEKs that KMS plugins name where a run finds no leader that does, and says which are too new to use."""

from __future__ import annotations

import time

from kube_rewrap.scheduler.campaigns.cluster import Cluster
from kube_rewrap.worker.errors import KmsRefusedError, RefusedError
from kube_rewrap.worker.records.kek import Kek, observe
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.table import Stored


async def note_keks(cluster: Cluster) -> None:
    """Record the KEKs that the plugins name, by the same rules as the leader (`configuration/keks.py`).

    A KEK that is named for the first time stands from now on, also if the run is refused because it is too new.
    Raises FencedError when another process changes the same record at the same time.
    """
    records = Keks(cluster.engine.store, cluster.engine.keyspace)
    for stored, seen in await _seen(cluster):
        if stored is None or seen != stored.value:
            await records.save(stored.holding(seen) if stored is not None else Stored(seen))


async def kek_refusals(cluster: Cluster) -> list[RefusedError]:
    """Return why nothing may be written yet under KEKs of this generation. Writes nothing."""
    held = [seen.why_held(cluster.settings.kms.settle) for _, seen in await _seen(cluster)]
    return [KmsRefusedError(because) for because in held if because]


async def _seen(cluster: Cluster) -> list[tuple[Stored[Kek] | None, Kek]]:
    """Return the record of each KMS v2 provider that writes, and what it becomes by what the plugin names now."""
    records, found = Keks(cluster.engine.store, cluster.engine.keyspace), []
    for name, named in cluster.generation.targets.items():
        stored = await records.get(name)
        known = stored.value if stored is not None else None
        found.append((stored, observe(known, name, named, time.time(), cluster.settings.kms.settle)))
    return found
