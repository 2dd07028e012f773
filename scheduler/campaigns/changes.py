"""Compares the configuration at hand with the one that a scheduler has in force, for processes that are no leader."""

from __future__ import annotations

import structlog

from kube_rewrap.scheduler.configuration.detect import Change, detect, detect_in_store
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.inventory import Inventory

_log = structlog.get_logger()


async def find_changes(cluster: Cluster, found: Inventory) -> tuple[Change, ...]:
    """Return the changes from the generation that a scheduler accepted to this one.

    Where no scheduler has recorded a readable one, those that the stored values of a scan show. Never both: with a
    record, a value that anyone put into etcd must not stop all campaigns.
    """
    try:
        known = await Generations(cluster.engine.store, cluster.engine.keyspace).load()
    except RecordError as error:
        _log.warning("configuration.unknown", because=str(error))
        known = None
    if known is None:
        return detect_in_store(found)
    changes = detect(known.value.generation, describe(cluster.generation))
    return tuple(change for change in changes if not cluster.is_idle(change.resource))
