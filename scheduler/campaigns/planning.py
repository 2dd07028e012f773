"""Plans a campaign before its first write: one survey, one scan, and every reason not to start. Writes nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from kube_rewrap.scheduler.campaigns.changes import find_changes
from kube_rewrap.scheduler.campaigns.plugin_calls import calls_to_rewrap, slow_proofs
from kube_rewrap.scheduler.campaigns.preflight import growth_of, preflight, space_of_records
from kube_rewrap.scheduler.campaigns.run import RunPlan, resumable
from kube_rewrap.scheduler.configuration.detect import why_refused
from kube_rewrap.scheduler.registry.arguments import require_objects
from kube_rewrap.scheduler.registry.budgets import foresee_budgets, needs_estimate
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.keks import kek_refusals
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.scheduler.registry.scope import CampaignSpec, choose, scope_of, uncovered
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.errors import CompactedError, KmsRefusedError, RefusedError
from kube_rewrap.worker.rate.pressure import judge_space
from kube_rewrap.worker.records.inventory import Estimate, Inventory, ResourceRange, merged
from kube_rewrap.worker.verdict import KeyRef

Grow = Callable[[Sequence[ResourceRange], int], Awaitable[int]]
"""Returns by how many bytes values in ranges of one primary are larger than their plaintext, at a revision."""


async def plan_run(cluster: Cluster, spec: CampaignSpec) -> RunPlan:
    """Return what a run would do, with every reason not to start it.

    Measures the growth under a KMS provider by a trial seal with a seed that the run uses, too.

    Raises SettingsError for a resource that the configuration does not govern, and for a named resource or namespace
    without objects unless `spec` allows it; UnsupportedPrimaryError for a primary that this tool can't write with;
    KmsUnavailableError when a plugin names no KEK to write under.
    """

    async def growth_of_value(ranges: Sequence[ResourceRange], _: int) -> int:
        return await cluster.engine.growth(ranges[0].resource)

    return await _plan(cluster, spec, growth_of_value)


async def foresee_run(cluster: Cluster, spec: CampaignSpec) -> RunPlan:
    """Return the plan of `plan_run` for a dry run, which makes no seed; raises the same errors.

    The growth under a KMS provider is that of the values under it. Only where there is none, the plugin wraps one key.
    """
    return await _plan(cluster, spec, cluster.engine.expected_growth)


async def _plan(cluster: Cluster, spec: CampaignSpec, grow: Grow) -> RunPlan:
    unfinished, asked = await cluster.campaigns().unfinished(), spec.options.since

    def choose_writable(territory: Territory, spec: CampaignSpec) -> tuple[ResourceRange, ...]:
        chosen = choose(territory, spec)
        try:
            for one in chosen:
                cluster.engine.chains[one.resource].require_writable()
        except KmsRefusedError:
            cluster.engine.require_aimed()  # it knows why
            raise
        return chosen

    def since_of(territory: Territory) -> int:
        resumes = resumable(unfinished, cluster.generation.hash, scope_of(territory, spec), asked)
        return resumes.value.options.since if resumes else asked

    territory, found = await scan_cluster(cluster, spec, choose_writable, since_of, peeks=True, by_namespace=True)
    options = replace(spec.options, since=since_of(territory))
    if not spec.options.allow_empty:
        await require_objects(cluster.engine.store, territory, spec)
    estimate = await _estimate(cluster, territory, found, spec)
    store, settings, scope = cluster.engine.store, cluster.settings, scope_of(territory, spec)
    growth = await _growth_of(choose(territory, spec), found, grow)
    to_write = found.stale_bytes + growth + space_of_records(found, settings.page.objects)
    room = judge_space(await store.members(), await store.alarms(), to_write, settings.space)
    budgets = await foresee_budgets(cluster, estimate)
    refusals = preflight(
        found,
        budgets,
        room,
        settings.budget,
        await store.revision(),
        allow_plaintext=options.allow_plaintext,
        since=options.since,
    )
    changes = await find_changes(cluster, found)
    refused = why_refused(changes, cluster.generation.file_hash)
    return RunPlan(
        scope=scope,
        options=options,
        territory=territory,
        found=found,
        room=room,
        estimate=estimate,
        refusals=(*([RefusedError(refused)] if refused else []), *await kek_refusals(cluster), *refusals),
        resumes=resumable(await cluster.campaigns().unfinished(), cluster.generation.hash, scope, options.since),
        growth=growth,
        calls=calls_to_rewrap(found, settings.kms),
        warnings=(
            *dict.fromkeys(one.because for one in changes if one.is_warning and not one.is_refused),
            *slow_proofs(found, settings.kms),
        ),
    )


async def _growth_of(ranges: Sequence[ResourceRange], found: Inventory, grow: Grow) -> int:
    """Return by how many bytes a campaign makes the objects larger; asks a plugin only for objects to move."""
    moving: dict[KeyRef, list[ResourceRange]] = {}
    for tally in found.resources:
        if tally.elsewhere:
            moving.setdefault(tally.primary, []).extend(one for one in ranges if one.resource == tally.resource)
    return growth_of(found, {primary: await grow(ones, found.revision) for primary, ones in moving.items()})


async def _estimate(cluster: Cluster, territory: Territory, found: Inventory, spec: CampaignSpec) -> Estimate | None:
    """Estimate each key's encryptions by all governed objects, not only those of `spec`; None if none is needed.

    Scans the objects outside of `spec` at the revision of `found`, so that a plan reads each object once.
    """
    if spec.covers_everything:
        return found.estimate()
    if not await needs_estimate(cluster, territory):
        return None
    try:
        ranges = uncovered(territory, choose(territory, spec))
        rest = await cluster.engine.inventory(ranges, found.revision, peeks=True)
    except CompactedError:
        _, everything = await scan_cluster(cluster, peeks=True)
        return everything.estimate()
    return replace(found, resources=merged([*found.resources, *rest.resources])).estimate()
