"""Surveys a registry for what the configuration governs, and counts its objects by key, at one revision."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import structlog

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.discovery import survey
from kube_rewrap.scheduler.registry.scope import EVERYTHING, CampaignSpec, choose
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.errors import CompactedError, RefusedError
from kube_rewrap.worker.etcd.ranges import KeyRange, key_text
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange

_RESTARTS = 5
_ALWAYS_THERE = b"namespaces/kube-system"
"""Below the registry's root: every kube-apiserver creates it when it starts."""
_log = structlog.get_logger()

Choose = Callable[[Territory, CampaignSpec], tuple[ResourceRange, ...]]
"""Returns the ranges of a surveyed registry to scan."""
SinceOf = Callable[[Territory], int]
"""Returns, for a surveyed registry, the revision `since` of `CampaignOptions`."""


async def survey_cluster(cluster: Cluster) -> Territory:
    """As `survey_registry`, for the configuration of the cluster's generation."""
    return await survey_registry(cluster.engine.store, cluster.generation.configuration, cluster.layout)


async def survey_registry(store: Store, configuration: EncryptionConfiguration, layout: Layout) -> Territory:
    """Return what the configuration governs in this registry.

    Raises RefusedError when the registry is empty, or no configured name governs anything.
    """
    root = KeyRange.of_prefix(layout.root)
    # For the second request etcd visits every key of the registry, and holds up all writes meanwhile.
    if await store.get(layout.root + _ALWAYS_THERE) is None and not (await store.keys(root, 1))[0]:
        raise RefusedError(
            f"no key exists under {key_text(root.start)}: is this the right etcd, and what is kube-apiserver's "
            "--etcd-prefix?"
        )
    territory = await survey(store, configuration, layout)
    if because := layout.why_all_idle(map(GroupResource.parse, configuration.resource_names())):
        raise RefusedError(because)
    return territory


async def scan_cluster(
    cluster: Cluster,
    spec: CampaignSpec = EVERYTHING,
    chosen: Choose = choose,
    since_of: SinceOf | None = None,
    *,
    peeks: bool = False,
    by_namespace: bool = False,
) -> tuple[Territory, Inventory]:
    """Scan what `spec` covers, at one revision; a scan of everything also lists unknown paths.

    Current objects up to the revision `since` count as stale, as `CampaignOptions` describes: that of `since_of`, or
    of `spec`. With `peeks`, values under KMS count by the key that they name: no plugin is asked, and nothing is proven
    of them. With `by_namespace`, the inventory has a census.

    Surveys the registry after the revision is pinned, so that the scan includes a resource that just got its first
    object. When etcd compacts the revision away, the scan restarts. Raises CompactedError when that happens too often,
    RefusedError as `survey_cluster` does.
    """
    await cluster.engine.load_proven_resources()
    for _ in range(_RESTARTS):
        revision = await cluster.engine.store.revision()
        territory = await survey_cluster(cluster)
        try:
            ranges = chosen(territory, spec)
            since = spec.options.since if since_of is None else since_of(territory)
            found = await cluster.engine.inventory(
                ranges, revision, kek_since=since, peeks=peeks, by_namespace=by_namespace
            )
        except CompactedError:
            _log.info("scan.restarted", revision=revision, because="etcd compacted the revision away")
            continue
        return territory, replace(found, unknown=territory.unknown) if spec.covers_everything else found
    raise CompactedError(
        f"etcd compacted every revision away within one scan, {_RESTARTS} times; compact less often, or scan less "
        "at a time with --resource"
    )
