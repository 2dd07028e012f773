"""Compares the configuration at hand with the one that a scheduler has in force, for processes that are no leader."""

from __future__ import annotations

import structlog

from kube_rewrap.scheduler.campaigns.cluster import Cluster
from kube_rewrap.scheduler.configuration.detect import Change, detect
from kube_rewrap.scheduler.dispatch.local import describe
from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.records.generations import Generations

_log = structlog.get_logger()


async def changes_since_acceptance(cluster: Cluster) -> tuple[Change, ...]:
    """Return the changes from the generation on record to this one; () where no scheduler recorded a readable one."""
    try:
        known = await Generations(cluster.engine.store, cluster.engine.keyspace).load()
    except RecordError as error:
        _log.warning("configuration.unknown", because=str(error))
        return ()
    if known is None:
        return ()
    changes = detect(known.value.generation, describe(cluster.generation))
    return tuple(change for change in changes if not cluster.is_idle(change.resource))
