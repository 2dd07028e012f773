"""The facts of a report on a cluster in order, and what makes each of them worse."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from kube_rewrap.scheduler.campaigns.status import Overview
from kube_rewrap.scheduler.report.facts import ReportFacts, Subject, SubjectKind
from kube_rewrap.worker.etcd.store import MemberStatus
from kube_rewrap.worker.records.audit import Verdict
from kube_rewrap.worker.records.audit_chain import Entry, Head
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.inventory import KeyState
from kube_rewrap.worker.records.proof_counts import KeyCount, ProofCounts
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.rotation import Passed, Rotation, RotationStep
from kube_rewrap.worker.records.usage import NOTHING
from kube_rewrap.worker.verdict import Reason
from tests.unit.scheduler.hardening.cluster import GCM, GCM_TWO, GOOD

AT = "2026-03-01T10:00:00+00:00"
SECRET_NAME = "/registry/secrets/payroll/salaries"

COUNTS = ProofCounts(5, 0, 0, 1, (KeyCount("secrets", GCM, KeyState.CURRENT, 5),))
CAMPAIGN = Campaign(
    id="20260301-095900-000aaa",
    state=CampaignState.COMPLETE,
    generation="sha256:0",
    scope=Scope(("secrets", "configmaps")),
    batches=2,
    planned_at="2026-03-01T09:59:00+00:00",
    ended_at="2026-03-01T09:59:30+00:00",
    because="a scan at revision 70 read all 5 objects with their primary key",
    proof_revision=70,
    whole=True,
    proof_counts=COUNTS,
)
ENTRY = Entry(
    number=1,
    at="2026-03-01T09:59:30.000+00:00",
    event="campaign.finished",
    campaign=CAMPAIGN.id,
    actor="rewrap run node-1:17",
    detail={"state": "complete", "proof_revision": 70, "because": CAMPAIGN.because, "objects": 5, "of": SECRET_NAME},
    previous="0" * 64,
).sealed()
ROTATION = Rotation(
    id="20260301-095000-000bbb",
    step=RotationStep.DONE,
    because="nothing is left under the old key",
    entries=(0,),
    resources=("secrets", "configmaps"),
    provider="aesgcm",
    key_name="one",
    fingerprint=GCM.fingerprint,
    retired=(GCM_TWO,),
    file="sha256:0",
    proof_revision=72,
    proof_counts=COUNTS,
    passed=(
        Passed(RotationStep.ADD, "2026-03-01T09:50:00+00:00", "the file is sha256:0"),
        Passed(RotationStep.PROVE, "2026-03-01T09:59:40+00:00", "a scan at revision 72 found nothing"),
    ),
)


def overview(campaign: Campaign = CAMPAIGN) -> Overview:
    left = QuarantinedObject(SECRET_NAME.encode(), Reason.NO_SUCH_KEY, f"no key opens {SECRET_NAME}", 5)
    done = Overview(campaign.id, campaign, None, datetime.fromisoformat(AT), BatchReport.of({"rewritten": 5}))
    if campaign.state is CampaignState.COMPLETE:
        return done
    return replace(
        done,
        report=BatchReport.of({"rewritten": 4, "quarantined": 1}),
        quarantined=(left,),
        quarantined_by={("secrets", Reason.NO_SUCH_KEY): 1},
    )


def report_facts(kind: SubjectKind = SubjectKind.NOW, **changes: Any) -> ReportFacts:
    """A cluster in order. `changes` replace fields."""
    ids = {SubjectKind.NOW: "", SubjectKind.CAMPAIGN: CAMPAIGN.id, SubjectKind.ROTATION: ROTATION.id}
    good = ReportFacts(
        subject=Subject(kind, ids[kind]),
        at=datetime(2026, 3, 1, 10, tzinfo=UTC).isoformat(),
        made_by="rewrap report node-1:18",
        version="0.1.0",
        names=False,
        etcd_prefix="/registry",
        state_prefix="/kube-rewrap",
        members=(MemberStatus("https://a", "3.5.16", 100, 50, 1000, 0xABC, 77),),
        revision=77,
        generation=GOOD.generation,
        in_force="",
        gcm_limit=200_000,
        due_at=0.8,
        budgets=GOOD.budgets,
        usage=NOTHING,
        convergence=GOOD.convergence,
        judged=GOOD,
        campaign=None if kind is SubjectKind.NOW else overview(),
        rotation=ROTATION if kind is SubjectKind.ROTATION else None,
        rotations=(ROTATION,),
        damaged=(),
        trail=() if kind is SubjectKind.NOW else (ENTRY,),
        audit=Verdict(Head(1, ENTRY.hash, 1), 1, ENTRY, ENTRY, ()),
    )
    return replace(good, **changes)
