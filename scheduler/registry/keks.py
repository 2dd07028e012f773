"""Records the KEKs that KMS plugins name where a run finds no leader that does, and says which are too new to use."""

from __future__ import annotations

import time
from functools import partial

from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.errors import KmsRefusedError, RefusedError
from kube_rewrap.worker.records.kek import observe
from kube_rewrap.worker.records.keks import Keks


async def note_keks(cluster: Cluster) -> None:
    """Record the KEKs that the plugins name, by the same rules as the leader (`configuration/keks.py`).

    A KEK that is named for the first time stands from now on, also if the run is refused because it is too new.
    """
    records, settle = Keks(cluster.engine.store, cluster.engine.keyspace), cluster.settings.kms.settle
    for name, named in cluster.generation.targets.items():
        await records.note(name, partial(observe, provider=name, named=named, now=time.time(), settle=settle))


async def kek_refusals(cluster: Cluster) -> list[RefusedError]:
    """Return why nothing may be written yet under KEKs of this generation. Writes nothing."""
    records, settle, held = Keks(cluster.engine.store, cluster.engine.keyspace), cluster.settings.kms.settle, []
    for name, named in cluster.generation.targets.items():
        stored = await records.get(name)
        seen = observe(stored.value if stored is not None else None, name, named, time.time(), settle)
        held.append(seen.why_held(settle))
    return [KmsRefusedError(because) for because in held if because]
