"""What a report is about, and the facts that it rests on. Values only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.campaigns.status import Overview
from kube_rewrap.scheduler.hardening.facts import HardeningFacts
from kube_rewrap.worker.etcd.store import MemberStatus
from kube_rewrap.worker.records.audit import Verdict
from kube_rewrap.worker.records.audit_chain import Entry
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.rotation import Rotation
from kube_rewrap.worker.records.usage import Usage


class SubjectKind(StrEnum):
    """What a report proves something of. The values are stable: JSON holds them."""

    NOW = "now"
    CAMPAIGN = "campaign"
    ROTATION = "rotation"


@dataclass(frozen=True, slots=True)
class Subject:
    """The subject of a report; `id` is that of the campaign or the rotation, "" for the present state."""

    kind: SubjectKind
    id: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportFacts:
    """The input of a report's document.

    `at` is when the facts were gathered (ISO 8601, UTC), `revision` the store's then. `generation` is that of the
    given file, `in_force` the hash of the one that the service follows, "" = not on record. `campaign` is the subject,
    or the campaign that proved the rotation which is; `trail` has the audit log's entries about it. `damaged` names
    the campaigns whose records can't be read. `audit` is the check of the whole log. `judged` has what one scan of
    everything found, for the checklist and the keys; None = the report was asked for without a scan. `names`: whether
    the document may name objects and namespaces.
    """

    subject: Subject
    at: str
    made_by: str
    version: str
    names: bool
    etcd_prefix: str
    state_prefix: str
    members: tuple[MemberStatus, ...]
    revision: int
    generation: GenerationRecord
    in_force: str
    gcm_limit: int
    due_at: float
    budgets: Mapping[str, Budget]
    usage: Usage
    convergence: Convergence
    judged: HardeningFacts | None
    campaign: Overview | None
    rotation: Rotation | None
    rotations: tuple[Rotation, ...]
    damaged: tuple[str, ...]
    trail: tuple[Entry, ...]
    audit: Verdict
