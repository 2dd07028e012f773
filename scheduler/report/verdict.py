"""Is the subject of a report proven, what weakens that, and what no report claims? Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kube_rewrap.scheduler.hardening.checklist import judge
from kube_rewrap.scheduler.hardening.facts import HardeningFacts, State, named
from kube_rewrap.scheduler.report.facts import ReportFacts, SubjectKind
from kube_rewrap.worker.records.audit_chain import Entry, detail_of
from kube_rewrap.worker.records.budget import BudgetState
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.rotation import Rotation, RotationStep

_OVER = {BudgetState.EXHAUSTED, BudgetState.RESTORED}

_PROVED = {CampaignState.COMPLETE, CampaignState.INCOMPLETE}

NOT_CLAIMED = (
    (
        "Backups",
        "Snapshots of etcd keep what they held. Archive each key: `rewrap keys --catalogue` says which may go.",
    ),
    (
        "Old values",
        "etcd's history and free pages, and freed blocks of the disk, hold them until they are overwritten.",
    ),
    (
        "The KMS' own keys",
        "Who may use them, and whether they were rotated or destroyed. Values carry unproven key ids.",
    ),
    ("Memory", "That of kube-apiserver, KMS plugins and this program; swap and core files."),
    ("Copies outside etcd", "In clients, caches, logs, controllers and repositories."),
    ("Flags and other files", "kube-apiserver's and etcd's flags, and files of other nodes beyond the reported hash."),
    ("Later writes", "What a client writes with another key after the named revision."),
    (
        "Genuine records",
        "A client that can write to etcd can forge them: compare the audit log's last hash with your logs.",
    ),
)
"""What a report does not claim, and why: a title and a sentence each."""


def judge_subject(facts: ReportFacts) -> tuple[bool, str]:
    """Return whether the subject is proven, and the sentence that says so."""
    match facts.subject.kind:
        case SubjectKind.NOW:
            return _judged_now(facts.judged)
        case SubjectKind.ROTATION:
            return _judged_rotation(facts.rotation)
        case SubjectKind.CAMPAIGN:
            campaign = facts.campaign.campaign if facts.campaign else None
            if facts.campaign is None or campaign is None:
                return False, "The campaign is not on record."
            if differing := _differing(campaign, facts.trail):
                return False, f"The campaign's record and the audit log's entry about its end differ: {differing}."
            if facts.campaign.is_complete:
                return True, f"Complete: {campaign.because}."
            return False, f"The campaign is {campaign.state.value}: {campaign.because}."


def _differing(campaign: Campaign, trail: Sequence[Entry]) -> str:
    """Return the names of the fields in which a campaign's record and the entry about its end differ, "" = none do.

    Entries of older versions have fewer fields.
    """
    entry = _end_of(campaign, trail)
    if entry is None:
        return ""
    counts = campaign.proof_counts
    recorded = detail_of(
        {
            "state": campaign.state.value,
            "proof_revision": campaign.proof_revision,
            "because": campaign.because,
            **({} if counts is None else {name: getattr(counts, name) for name in ("objects", "stale", "unreadable")}),
        }
    )
    return ", ".join(name for name, value in recorded.items() if entry.detail.get(name, value) != value)


def _end_of(campaign: Campaign, trail: Sequence[Entry]) -> Entry | None:
    ends = (one for one in reversed(trail) if one.event == "campaign.finished" and one.campaign == campaign.id)
    return next(ends, None)


def _judged_now(judged: HardeningFacts | None) -> tuple[bool, str]:
    if judged is None:
        return False, "Nothing was scanned."
    found = judged.proof
    counts = f"{found.objects:,} objects at revision {found.revision}"
    if judged.missing:
        return False, f"The scan read {counts}, but {judged.missing}."
    if found.is_clean:
        return True, f"Complete: a scan read all {counts} with their primary keys."
    return False, f"The scan read {counts}: {found.stale:,} stale, {found.unreadable:,} unreadable."


def _judged_rotation(rotation: Rotation | None) -> tuple[bool, str]:
    if rotation is None:
        return False, "The rotation is not on record."
    what = f"The rotation of {named(rotation.resources)} to {rotation.provider}:{rotation.key_name}"
    if rotation.step is RotationStep.DONE and rotation.proof_revision:
        return True, f"{what} is done: a scan at revision {rotation.proof_revision} found nothing under the old keys."
    return False, f"{what} is at the step {rotation.step.value}: {rotation.held or rotation.because}."


def caveats_of(facts: ReportFacts) -> tuple[str, ...]:
    """Return what weakens the verdict, or is not in order beside it, in sentences."""
    return (*_of_the_subject(facts), *_of_the_present(facts))


def _of_the_subject(facts: ReportFacts) -> Iterator[str]:
    campaign = facts.campaign.campaign if facts.campaign else None
    if campaign is not None and facts.subject.kind is SubjectKind.CAMPAIGN:
        if campaign.generation != facts.generation.hash:
            yield "The campaign belongs to another configuration than the given file."
        if not campaign.whole:
            yield "The campaign covers a part of what the configuration governs, not everything."
        if campaign.state in _PROVED and not campaign.options.repair and _end_of(campaign, facts.trail) is None:
            yield "The audit log has no entry about the campaign's end, which would confirm the record."
    if facts.damaged:
        yield f"Records that can't be read are left out: {named(facts.damaged)}."
    if facts.judged is None:
        yield "Nothing was scanned for this report: it does not show the present state."
    elif facts.subject.kind is not SubjectKind.NOW and not facts.judged.proof.is_clean:
        found = facts.judged.proof
        yield (
            f"The scan for this report, at revision {found.revision}, finds {found.stale:,} stale objects, "
            f"{found.unreadable:,} unreadable ones and {len(found.unknown)} paths of unknown resources."
        )


def _of_the_present(facts: ReportFacts) -> Iterator[str]:
    if facts.in_force and facts.in_force != facts.generation.hash:
        yield "The service follows another configuration than the given file."
    if not facts.convergence.is_converged:
        yield f"The kube-apiservers are not known to run this file: {facts.convergence.because}."
    if facts.audit.faults:
        yield f"The audit log is not whole: {facts.audit.faults[0]}."
    if worn := [one for one in facts.budgets.values() if one.state(facts.gcm_limit, facts.due_at) in _OVER]:
        yield f"Write budgets that are exhausted or restored: {len(worn)}."
    failed = [check.id for check in judge(facts.judged) if check.state is State.FAIL] if facts.judged else []
    if failed:
        yield f"Points of the hardening checklist that fail: {', '.join(failed)}."
