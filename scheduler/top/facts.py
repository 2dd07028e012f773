"""Values that `gather` reads for one look at the cluster. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.worker.etcd.store import MemberStatus
from kube_rewrap.worker.records.audit_chain import Entry
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.campaign import Campaign
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.holder import Handback, Holder
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.request import Request
from kube_rewrap.worker.records.rotation import Rotation
from kube_rewrap.worker.records.usage import NOTHING, Usage


@dataclass(frozen=True, slots=True)
class EtcdFacts:
    """Answers of etcd: `latency` is the duration of one linearizable read, in seconds; `endpoints` their number."""

    latency: float
    revision: int
    endpoints: int
    members: tuple[MemberStatus, ...] = ()
    alarms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Lock:
    """A lock that a process holds; `holder` is None where its record can't be read."""

    holder: Holder | None


@dataclass(frozen=True, slots=True)
class CampaignFacts:
    """A campaign; of an unfinished one its batches, too, and the claims on them: a batch's number, and the holder.

    While it is proven, `parts` are those of the proof, and a claim is on one of them. A holder is None where its record
    can't be read.
    """

    campaign: Campaign
    batches: tuple[Checkpoint, ...] = ()
    claims: tuple[tuple[int, Holder | None], ...] = ()
    parts: tuple[ProofPart, ...] = ()


@dataclass(frozen=True, slots=True)
class KeyFacts:
    """Budgets, and what judges them. `since`: when the watch began to count a key, by fingerprint, in Unix seconds."""

    budgets: tuple[Budget, ...] = ()
    since: Mapping[str, int] = field(default_factory=dict)
    usage: Usage = NOTHING
    keks: tuple[Kek, ...] = ()


NO_KEYS = KeyFacts()


@dataclass(frozen=True, slots=True)
class Probed:
    """The result of one probe of the kube-apiservers; `because`: why there is none, "" = there is one."""

    found: Convergence | None = None
    because: str = ""


NOT_PROBED = Probed(because="they were not probed yet")


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One look, at the time `at`. `leader` and `owner` are None where no process holds the lock.

    `campaigns` are oldest first, `requests` those that wait, `events` newest first. `in_force` is None where no
    scheduler has recorded a configuration. `gaps` has a sentence for each part that could not be read.
    """

    at: datetime
    etcd: EtcdFacts
    leader: Lock | None = None
    owner: Lock | None = None
    campaigns: tuple[CampaignFacts, ...] = ()
    requests: tuple[Request, ...] = ()
    handbacks: tuple[Handback, ...] = ()
    rotation: Rotation | None = None
    keys: KeyFacts = NO_KEYS
    in_force: GenerationRecord | None = None
    apiservers: Probed = NOT_PROBED
    events: tuple[Entry, ...] = ()
    gaps: tuple[str, ...] = ()
