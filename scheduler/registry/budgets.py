"""Creates and estimates the write budgets of configured keys; tells which budget is used up."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.discovery import Territory
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.scheduler.registry.scope import CampaignSpec, still_there
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.campaign import Scope
from kube_rewrap.worker.records.inventory import Estimate
from kube_rewrap.worker.records.ledger import exhausted
from kube_rewrap.worker.records.observations import ObserverRecords


async def begin_budgets(cluster: Cluster, estimate: Estimate | None, again: Collection[tuple[str, str]] = ()) -> None:
    """Record a budget for each configured key without one, with `estimate`, that of its earlier use.

    The use of keys in `again`, by resource and fingerprint, is estimated once more.
    """
    await cluster.engine.ledger.first_sight(cluster.limited_keys, estimate, again)


async def foresee_budgets(cluster: Cluster, estimate: Estimate | None = None) -> dict[str, Budget]:
    """Return, by fingerprint, the budgets as `begin_budgets` would leave them. Writes nothing."""
    return await cluster.engine.ledger.foreseen(cluster.limited_keys, estimate)


async def estimate_use(
    cluster: Cluster, resources: Collection[str] = (), again: Collection[tuple[str, str]] = ()
) -> None:
    """Scan these resources (none = all) and estimate what keys encrypted in them while no scheduler counted.

    `again` as in `begin_budgets`. Asks no KMS plugin: values under KMS use up no budget.
    """
    _, found = await scan_cluster(cluster, CampaignSpec(tuple(resources)), still_there, peeks=True)
    estimate = found.estimate()
    # The last object of a resource may be gone since the caller saw it.
    gone = {name: {key.fingerprint: 0 for key in cluster.engine.chains[name].keys} for name in resources}
    await begin_budgets(cluster, replace(estimate, versions={**gone, **estimate.versions}), again)


async def needs_estimate(cluster: Cluster, territory: Territory) -> bool:
    """Return whether a key of a governed resource has no budget yet, or its use in the resource is not estimated."""
    known, keys = await cluster.engine.ledger.all(), {key.fingerprint for key in cluster.limited_keys}
    seen = (await ObserverRecords(cluster.engine.store, cluster.engine.keyspace).load()).value
    return not keys <= set(known) or any(
        known[key.fingerprint].is_to_see(one.resource, seen)
        for one in territory.governed
        for key in cluster.engine.chains[one.resource].keys
        if key.fingerprint in keys
    )


async def note_restore(cluster: Cluster) -> None:
    """If etcd was restored from a backup, mark the budgets that this affects while etcd still shows it."""
    if await cluster.engine.ledger.was_restored():
        await estimate_use(cluster)


async def accept_budget(cluster: Cluster, fingerprint: str) -> Budget | None:
    """Accept a restored budget as it is, on an operator's request; None if there is no such key.

    Marks all budgets that the restore affects first: the request is about this one only.
    """
    await note_restore(cluster)
    return await cluster.engine.ledger.accept(fingerprint)


async def why_exhausted(cluster: Cluster, scope: Scope) -> str | None:
    """Return why a primary key of a scope has no write left, None if all have some."""
    budgets, limit = await cluster.engine.ledger.all(), cluster.settings.budget.gcm_limit
    for key in dict.fromkeys(cluster.engine.chains[resource].primary for resource in scope.resources):
        budget = budgets.get(key.fingerprint)
        if budget is not None and budget.left(limit) == 0:
            return str(exhausted(key, budget, limit, await cluster.engine.store.revision()))
    return None
