"""Takes up the campaign of a plan: resumes the unfinished one of the same scope, else records a new one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from kube_rewrap.scheduler.campaigns.batches import plan_batches
from kube_rewrap.scheduler.campaigns.pausing import plan_quarantine_limit
from kube_rewrap.scheduler.campaigns.plugin_calls import slow_proofs
from kube_rewrap.scheduler.campaigns.run import RunPlan, resumable
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause, new_id
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.table import Stored

_log = structlog.get_logger()


async def take_up(cluster: Cluster, plan: RunPlan, guard: Expect, *, attended: bool = True) -> Stored[Campaign]:
    """Return the campaign to work on: the unfinished one that does what is asked (`resumable`), else a new one.

    Supersedes all other unfinished ones. `attended`: an operator asked for it, so its quarantine may grow without
    limit.
    """
    campaigns = cluster.campaigns(guard)
    unfinished = await campaigns.unfinished()
    same = resumable(unfinished, cluster.generation.hash, plan.scope, plan.options.since)
    because = "a campaign under another configuration or of another scope replaces it; rewritten objects stay so"
    await supersede(cluster, [other for other in unfinished if other is not same], because, guard)
    if same is not None:
        return await _resume(same, plan, campaigns, attended=attended)
    await campaigns.forget_old()
    return await _start(cluster, plan, campaigns, attended=attended)


async def supersede(cluster: Cluster, others: Iterable[Stored[Campaign]], because: str, guard: Expect) -> None:
    """End campaigns that newer work replaces; fences their workers."""
    campaigns = cluster.campaigns(guard)
    for other in others:
        since = other.value.options.since
        again = f"; objects last written up to revision {since} may be left: ask again with --since" if since else ""
        moved = other.value.moved(CampaignState.SUPERSEDED, because + again)
        # The cause of its pause stays on record: an operator's pause outlives a change of the file.
        ended_at = datetime.now(UTC).isoformat(timespec="seconds")
        moved = replace(moved, ended_at=ended_at, paused_for=other.value.paused_for)
        await campaigns.save(other.holding(moved))
        _log.info("campaign.superseded", **moved.log_context(), because=moved.because)
        await cluster.audit.append("campaign.superseded", moved.id, because=moved.because)


async def _resume(same: Stored[Campaign], plan: RunPlan, campaigns: Campaigns, *, attended: bool) -> Stored[Campaign]:
    _log.info("campaign.resumed", **same.value.log_context(), because=same.value.because)
    quarantine_limit = replace(same.value.quarantine_limit, most=None) if attended else same.value.quarantine_limit
    resumed = replace(same.value, quarantine_limit=quarantine_limit, whole=plan.is_whole)
    ended_by_operator = {None, Pause.OPERATOR} if attended else {None, Pause.OPERATOR, Pause.QUARANTINE}
    if resumed.paused_for not in ended_by_operator:
        # This plan has checked the cause of the pause again.
        resumed = resumed.moved(CampaignState.RUNNING, "resumed under a new plan")
    return same if resumed == same.value else await campaigns.save(same.holding(resumed))


async def _start(cluster: Cluster, plan: RunPlan, campaigns: Campaigns, *, attended: bool) -> Stored[Campaign]:
    now, options = datetime.now(UTC), plan.options
    name, generation = new_id(now, os.urandom(2)), cluster.generation.hash
    batches = plan_batches(name, generation, () if plan.found.is_clean else plan.found.census)
    because = f"{plan.found.stale} of {plan.found.objects} objects are not under their primary key"
    if options.since:
        because += f", or were last written at or before revision {options.since}"
    known = [stored.value for stored in await campaigns.all()]
    campaign = Campaign(
        id=name,
        state=CampaignState.RUNNING,
        generation=generation,
        scope=plan.scope,
        batches=len(batches),
        planned_at=now.isoformat(),
        because=f"{options.reason}: {because}" if options.reason else because,
        options=options,
        quarantine_limit=plan_quarantine_limit(known, plan.scope, plan.found.revision, attended=attended),
        whole=plan.is_whole,
        convergence=plan.convergence,
    )
    if options.paused:
        campaign = campaign.paused(Pause.OPERATOR, f"paused by an operator before it began; {campaign.because}")
    found = {"total": plan.found.objects, "stale": plan.found.stale}
    _log.info("campaign.planned", **campaign.log_context(), batches=len(batches), **found, because=campaign.because)
    for because in slow_proofs(plan.found, cluster.settings.kms):
        _log.warning("proof.slow", **campaign.log_context(), because=because)
    created = await campaigns.create(campaign, [Checkpoint(spec=batch) for batch in batches])
    await campaigns.forget_quarantines_but(_with_quarantine([*known, campaign]))
    if not options.repair:
        asked = {"convergence": plan.convergence} if plan.convergence else {}
        await cluster.audit.append("campaign.planned", name, generation=generation, because=campaign.because, **asked)
    return created


def _with_quarantine(known: list[Campaign]) -> set[str]:
    """Return the campaigns whose quarantine records are kept: the new one (last), and the last over everything."""
    whole = [one.id for one in sorted(known, key=lambda one: one.planned_at) if one.whole]
    return {known[-1].id, *whole[-1:]}
