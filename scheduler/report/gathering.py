"""Gathers the facts of a report: records, one probe of the kube-apiservers, and one scan unless it is left out.

Read only. The proof of a campaign or a rotation is what is on record; of the present state it is the scan.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from datetime import UTC, datetime

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.status import Overview, look
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.hardening.facts import Ages
from kube_rewrap.scheduler.hardening.survey import gather as gather_hardening
from kube_rewrap.scheduler.keys.removal_facts import ask_apiservers
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.report.facts import ReportFacts, Subject, SubjectKind
from kube_rewrap.worker.errors import RecordError, RefusedError
from kube_rewrap.worker.records.audit_chain import Entry
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.rotation import Rotation
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.usages import Usages

_TRAIL = 200
"""Newest entries of the audit log about the subject that a report shows."""


async def gather(
    cluster: Cluster, settings: Settings, subject: Subject | None, ages: Ages, version: str, *, scans: bool, names: bool
) -> ReportFacts:
    """Gather all facts once. `subject` None: the newest campaign that ended.

    `version` is that of this program. `scans` and `names` as in ReportFacts. Raises RefusedError where the subject is
    not on record, a scan's errors, and SettingsError for credentials that can't be read.
    """
    store, keyspace = cluster.engine.store, cluster.engine.keyspace
    stored, damaged = await cluster.campaigns().all_or_why()
    campaigns = [one.value for one in stored]
    rotations = tuple([one.value for one in await Rotations(store, keyspace).all()])
    found = subject or _newest(campaigns)
    rotation = _rotation(rotations, found.id) if found.kind is SubjectKind.ROTATION else None
    proving = found.id if found.kind is SubjectKind.CAMPAIGN else _proving(campaigns, rotation)
    campaign = await look(settings, proving) if proving else None
    if found.kind is SubjectKind.CAMPAIGN and (campaign is None or campaign.campaign is None):
        raise RefusedError(f"no campaign {found.id} is on record; see `rewrap campaign list`")
    judged = await gather_hardening(cluster, settings, ages) if scans else None
    convergence = judged.convergence if judged else await ask_apiservers(cluster, settings)
    return ReportFacts(
        subject=Subject(found.kind, campaign.name) if found.kind is SubjectKind.CAMPAIGN and campaign else found,
        at=datetime.now(UTC).isoformat(timespec="seconds"),
        made_by=f"rewrap report {socket.gethostname()}:{os.getpid()}",
        version=version,
        names=names,
        etcd_prefix=settings.keyspace.etcd_prefix,
        state_prefix=settings.keyspace.state_prefix,
        members=tuple(await store.members()),
        revision=judged.proof.revision if judged else await store.revision(),
        generation=describe(cluster.generation),
        in_force=await _in_force(cluster),
        gcm_limit=settings.budget.gcm_limit,
        due_at=settings.budget.due_at,
        budgets=judged.budgets if judged else await cluster.engine.ledger.all(),
        usage=(await Usages(store, keyspace).load()).value,
        convergence=convergence,
        judged=judged,
        campaign=campaign,
        rotation=rotation,
        rotations=rotations,
        damaged=tuple(f"campaign {name}" for name, _ in damaged),
        trail=await _trail(cluster, campaign, rotation),
        audit=await cluster.audit.verify(),
    )


def _newest(campaigns: Sequence[Campaign]) -> Subject:
    """Return the newest campaign that ended. Raises RefusedError without one."""
    ended = [one for one in campaigns if one.state.is_end and not one.options.repair]
    if not ended:
        raise RefusedError("no campaign that ended is on record; --now reports on the present state, by a scan")
    return Subject(SubjectKind.CAMPAIGN, max(ended, key=lambda one: one.planned_at).id)


def _rotation(rotations: Sequence[Rotation], name: str) -> Rotation:
    found = next((one for one in rotations if one.id == name), None)
    if found is None:
        known = ", ".join(one.id for one in rotations[-3:])
        raise RefusedError(f"no rotation {name} is on record" + (f"; the newest are {known}" if known else ""))
    return found


def _proving(campaigns: Sequence[Campaign], rotation: Rotation | None) -> str:
    """Return the id of the newest complete campaign by which a rotation was proven, "" = none is on record."""
    if rotation is None or not rotation.passed:
        return ""
    began = datetime.fromisoformat(rotation.passed[0].at)
    fitting = [
        one
        for one in campaigns
        if one.state is CampaignState.COMPLETE
        and one.proof_revision <= rotation.proof_revision
        and datetime.fromisoformat(one.planned_at) >= began
    ]
    return max(fitting, key=lambda one: one.proof_revision).id if fitting else ""


async def _in_force(cluster: Cluster) -> str:
    try:
        known = await Generations(cluster.engine.store, cluster.engine.keyspace).load()
    except RecordError:
        return ""
    return known.value.generation.hash if known is not None else ""


async def _trail(cluster: Cluster, campaign: Overview | None, rotation: Rotation | None) -> tuple[Entry, ...]:
    """Return the newest entries of the audit log about the campaign and the rotation, oldest first."""
    found: list[Entry] = []
    if campaign is None and rotation is None:
        return ()
    for entry in (await cluster.audit.snapshot()).entries:
        is_mine = campaign is not None and entry.campaign == campaign.name
        if is_mine or (rotation is not None and entry.detail.get("rotation") == rotation.id):
            found.append(entry)
    return tuple(found[-_TRAIL:])
