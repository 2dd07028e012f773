"""Turns the facts of one look into what `rewrap top` shows. Pure.

1. Unfinished campaigns come first, oldest first; then waiting requests; then ended campaigns, newest first.
2. A campaign's rate is that of the last `RATE_SECONDS`; before `LEAST_SECONDS` have been watched, the mean since the
   plan. A campaign that is neither running nor new has no rate, and without a rate there is no estimate of its end.
3. A worker is a process that holds a claim: an idle worker process has no record.
4. While a campaign is proven, its claims are on parts of the proof. A part counts as done in proportion to the objects
   that it has counted, of the size that parts are cut to, and whole only when it has ended.
5. A key's date is when it reaches its limit at the rate at which others wrote since a scheduler watches.

Not handled: the counts of ended campaigns (`rewrap campaign show` has them).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime

from kube_rewrap.config.settings.schema import BudgetSettings, Settings, SpaceSettings
from kube_rewrap.scheduler.keys.alerts import judge_state, reached_at, writing
from kube_rewrap.scheduler.top.facts import CampaignFacts, EtcdFacts, Facts, Lock, Probed
from kube_rewrap.worker.rate.pressure import judge_space
from kube_rewrap.worker.records.audit_chain import Entry
from kube_rewrap.worker.records.batch import BatchState
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.holder import UNNAMED
from kube_rewrap.worker.records.kek import Kek
from kube_rewrap.worker.records.proof import PART_OBJECTS, ProofPart
from kube_rewrap.worker.records.request import Request
from kube_rewrap.worker.records.standing import Standing

RATE_SECONDS = 30.0
LEAST_SECONDS = 3.0
_FAR = 253_402_300_799.0  # the end of the year 9999


@dataclass(frozen=True, slots=True)
class Sample:
    """The objects that a campaign had processed at one moment; `at` is in Unix seconds."""

    at: float
    objects: int


History = Mapping[str, Sequence[Sample]]
"""Samples by campaign, oldest first."""


@dataclass(frozen=True, slots=True)
class EtcdRow:
    """etcd's state. Sizes in bytes, of the fullest member; `trouble`: why rewrap does not write, "" = it may."""

    versions: tuple[str, ...]
    answering: int
    endpoints: int
    size: int
    in_use: int
    quota: int
    latency_ms: float
    revision: int
    trouble: str


@dataclass(frozen=True, slots=True)
class CampaignRow:
    """A campaign, or a request that waits. Counts of objects; None = not known. `rate` in objects a second.

    While it is proven: `parts` of the proof, how many of them are done, the objects `proven` so far, and the share of
    the proof that is done, 0 to 1. None: it is not proven now, or the parts are not planned yet.
    """

    id: str
    state: str
    because: str
    at: str
    scope: str
    is_end: bool
    done: int | None = None
    planned: int | None = None
    rate: float | None = None
    seconds_left: float | None = None
    batches_done: int | None = None
    batches: int | None = None
    conflicts: int = 0
    quarantined: int = 0
    parts_done: int | None = None
    parts: int | None = None
    proven: int | None = None
    proven_share: float | None = None


@dataclass(frozen=True, slots=True)
class WorkerRow:
    """A process at work on a batch, or on a part of a proof (`job`), by its number.

    `namespaces` is a name, or the first and the last one; counts of objects. `planned` is 0 for a part.
    """

    worker: str
    command: str
    campaign: str
    job: str
    batch: int
    resource: str
    namespaces: str
    done: int
    planned: int


@dataclass(frozen=True, slots=True)
class KeyRow:
    """A key's budget. `limit` None = it has none; `writes`: a primary key; `reached_on`: ISO date, None = not known."""

    fingerprint: str
    provider: str
    names: tuple[str, ...]
    used: int
    limit: int | None
    state: str
    writes: bool
    reached_on: str | None


@dataclass(frozen=True, slots=True)
class KekRow:
    """The key-encryption key (KEK) of a KMS provider. `since`: ISO time from which on it is in force, "" = not known.

    `writes`: of the provider of a primary key. `held`: why nothing is written under it, "" = it may be. KMS keys have
    no write budget.
    """

    provider: str
    fingerprint: str
    since: str
    former: int
    writes: bool
    held: str


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    """One kube-apiserver."""

    address: str
    name: str
    state: str
    is_converged: bool
    because: str


@dataclass(frozen=True, slots=True)
class ApiserversRow:
    """Whether all kube-apiservers run the configuration in force; None = not known."""

    converged: bool | None
    because: str
    replicas: tuple[ReplicaRow, ...] = ()


@dataclass(frozen=True, slots=True)
class EventRow:
    """An entry of the audit log."""

    at: str
    event: str
    campaign: str
    because: str


@dataclass(frozen=True, slots=True)
class RotationRow:
    """The rotation that has not ended. `held` and `waits` as in its record."""

    id: str
    step: str
    key: str
    provider: str
    held: str
    waits: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that one screen shows. `leader` and `owner` are sentences' parts, None where no process holds the lock."""

    at: str
    etcd: EtcdRow
    leader: str | None
    owner: str | None
    rotation: RotationRow | None
    campaigns: tuple[CampaignRow, ...]
    workers: tuple[WorkerRow, ...]
    outdated: tuple[str, ...]
    keys: tuple[KeyRow, ...]
    keks: tuple[KekRow, ...]
    apiservers: ApiserversRow
    events: tuple[EventRow, ...]
    gaps: tuple[str, ...]

    def to_json(self) -> dict[str, object]:
        """Return the JSON form (docs/top.md)."""
        return asdict(self)


def snapshot(facts: Facts, history: History, settings: Settings) -> Snapshot:
    """Return what the facts show. `history` may lack a campaign."""
    now = facts.at.timestamp()
    rotation = facts.rotation
    return Snapshot(
        at=facts.at.isoformat(timespec="seconds"),
        etcd=_etcd(facts.etcd, settings.space),
        leader=_holder(facts.leader),
        owner=_holder(facts.owner),
        rotation=None
        if rotation is None
        else RotationRow(
            rotation.id, rotation.step.value, rotation.key_name, rotation.provider, rotation.held, rotation.waits
        ),
        campaigns=_campaigns(facts, history),
        workers=tuple(row for one in facts.campaigns for row in _workers(one)),
        outdated=tuple(str(one) for one in facts.handbacks),
        keys=_keys(facts, settings.budget, now),
        keks=tuple(_kek(kek, facts, settings.kms.settle) for kek in facts.keys.keks),
        apiservers=_apiservers(facts.apiservers),
        events=tuple(map(_event, facts.events)),
        gaps=facts.gaps,
    )


def sampled(history: History, facts: Facts) -> dict[str, tuple[Sample, ...]]:
    """Return the history with one more sample of each unfinished campaign, and without samples that are too old."""
    now = facts.at.timestamp()
    found = {}
    for one in facts.campaigns:
        if not one.campaign.state.is_end:
            recent = [sample for sample in history.get(one.campaign.id, ()) if now - RATE_SECONDS <= sample.at < now]
            found[one.campaign.id] = (*recent, Sample(now, _standing(one).done))
    return found


def _etcd(facts: EtcdFacts, space: SpaceSettings) -> EtcdRow:
    room = judge_space(facts.members, facts.alarms, 0, space)
    return EtcdRow(
        versions=tuple(dict.fromkeys(member.version for member in facts.members)),
        answering=len(facts.members),
        endpoints=facts.endpoints,
        size=room.projected,
        in_use=max((member.db_size_in_use for member in facts.members), default=0),
        quota=room.quota,
        latency_ms=round(facts.latency * 1000, 1),
        revision=facts.revision,
        trouble=room.refusal or "",
    )


def _holder(lock: Lock | None) -> str | None:
    if lock is None:
        return None
    return str(lock.holder) if lock.holder is not None else UNNAMED


def _campaigns(facts: Facts, history: History) -> tuple[CampaignRow, ...]:
    unfinished = [one for one in facts.campaigns if not one.campaign.state.is_end]
    ended = [one.campaign for one in reversed(facts.campaigns) if one.campaign.state.is_end]
    return (
        *(_unfinished(one, history.get(one.campaign.id, ()), facts.at) for one in unfinished),
        *(_waiting(request) for request in facts.requests),
        *(_ended(campaign) for campaign in ended),
    )


def _unfinished(facts: CampaignFacts, samples: Sequence[Sample], now: datetime) -> CampaignRow:
    campaign, standing = facts.campaign, _standing(facts)
    rate = _rate(campaign, standing.done, samples, now)
    parts = _parts(facts)
    return CampaignRow(
        id=campaign.id,
        state=campaign.state.value,
        because=campaign.because,
        at=campaign.planned_at,
        scope=_scope(campaign),
        is_end=False,
        done=standing.done,
        planned=standing.total,
        rate=None if rate is None else round(rate, 1),
        seconds_left=round(standing.left / rate, 1) if rate else None,
        batches_done=sum(batch.state is BatchState.DONE for batch in facts.batches),
        batches=campaign.batches,
        conflicts=standing.report.conflicts,
        quarantined=standing.report.quarantined,
        parts_done=sum(part.is_done for part in parts) if parts else None,
        parts=len(parts) or None,
        proven=sum(map(_counted, parts)) if parts else None,
        proven_share=round(sum(map(_share, parts)) / len(parts), 3) if parts else None,
    )


def _standing(facts: CampaignFacts) -> Standing:
    return Standing.of(facts.batches, facts.campaign.sweeps)


def _parts(facts: CampaignFacts) -> tuple[ProofPart, ...]:
    """Return the parts of the present proof; those of an earlier scan, at another revision, may still be on record."""
    newest = max((part.revision for part in facts.parts), default=0)
    return tuple(part for part in facts.parts if part.revision == newest)


def _counted(part: ProofPart) -> int:
    known = part.found or part.partial
    return known.objects if known is not None else 0


def _share(part: ProofPart) -> float:
    return 1.0 if part.is_done else min(0.99, _counted(part) / PART_OBJECTS)


def _rate(campaign: Campaign, done: int, samples: Sequence[Sample], now: datetime) -> float | None:
    if campaign.state is not CampaignState.RUNNING:
        return None
    if samples and (watched := samples[-1].at - samples[0].at) >= LEAST_SECONDS:
        return max(0, samples[-1].objects - samples[0].objects) / watched
    return done / max(1.0, (now - datetime.fromisoformat(campaign.planned_at)).total_seconds())


def _scope(campaign: Campaign) -> str:
    where = f" in {', '.join(campaign.scope.namespaces)}" if campaign.scope.namespaces else ""
    return f"{', '.join(campaign.scope.resources)}{where}"


def _waiting(request: Request) -> CampaignRow:
    because = request.because or "waiting for the scheduler"
    return CampaignRow(request.id, request.state.value, because, request.asked_at, "", is_end=False)


def _ended(campaign: Campaign) -> CampaignRow:
    return CampaignRow(
        id=campaign.id,
        state=campaign.state.value,
        because=campaign.because,
        at=campaign.ended_at or campaign.planned_at,
        scope=_scope(campaign),
        is_end=True,
        batches=campaign.batches,
    )


def _workers(facts: CampaignFacts) -> list[WorkerRow]:
    """Return a row for each claim, sorted by its process."""
    proves = facts.campaign.state is CampaignState.PROVING
    batches = {} if proves else {batch.spec.number: batch for batch in facts.batches}
    parts = {part.number: part for part in _parts(facts)}
    rows = defaultdict[str, list[WorkerRow]](list)
    for number, holder in facts.claims:
        batch, part = batches.get(number), parts.get(number)
        name = f"{holder.host}:{holder.pid}" if holder is not None else UNNAMED
        names = [namespace for namespace, _ in batch.spec.namespaces] if batch is not None else []
        row = WorkerRow(
            worker=name,
            command=holder.command if holder is not None else "",
            campaign=facts.campaign.id,
            job="part" if proves else "batch",
            batch=number,
            resource=batch.spec.resource if batch is not None else _resources(part),
            namespaces="" if not names else names[0] if len(names) == 1 else f"{names[0]}..{names[-1]}",
            done=batch.report.objects if batch is not None else _counted(part) if part is not None else 0,
            planned=batch.spec.objects if batch is not None else 0,
        )
        rows[name].append(row)
    return [row for name in sorted(rows) for row in rows[name]]


def _resources(part: ProofPart | None) -> str:
    return ", ".join(dict.fromkeys(one.resource for one in part.ranges)) if part is not None else ""


def _kek(kek: Kek, facts: Facts, settle: float) -> KekRow:
    primaries = (chain[0] for _, chain in facts.in_force.resources if chain) if facts.in_force is not None else ()
    since = datetime.fromtimestamp(kek.since, UTC).isoformat(timespec="seconds") if 0 < kek.since < _FAR else ""
    return KekRow(
        provider=kek.provider,
        fingerprint=kek.fingerprint,
        since=since,
        former=len(kek.former),
        writes=any((key.provider, key.name) == ("kms", kek.provider) for key in primaries),
        held=kek.why_held(settle),
    )


def _keys(facts: Facts, settings: BudgetSettings, now: float) -> tuple[KeyRow, ...]:
    """Return the keys: primary ones first, then those with a limit, the most used first."""
    writes = writing(facts.in_force) if facts.in_force is not None else frozenset[str]()
    rows = [_key(budget, facts, writes, settings, now) for budget in facts.keys.budgets]
    return tuple(sorted(rows, key=lambda row: (not row.writes, row.limit is None, -row.used, row.fingerprint)))


def _key(budget: Budget, facts: Facts, writes: frozenset[str], settings: BudgetSettings, now: float) -> KeyRow:
    limit = settings.gcm_limit
    if facts.in_force is not None:
        state, _ = judge_state(budget, facts.in_force, limit, settings.due_at, facts.keys.usage)
    else:
        state = budget.state(limit, settings.due_at)
    reached = reached_at(budget, limit, facts.keys.since.get(budget.fingerprint, 0), now)
    return KeyRow(
        fingerprint=budget.fingerprint,
        provider=budget.provider,
        names=budget.names,
        used=budget.used,
        limit=budget.limit(limit),
        state=state.value,
        writes=budget.fingerprint in writes,
        reached_on=_date(reached),
    )


def _date(reached: float | None) -> str | None:
    if reached is None or reached > _FAR:
        return None
    return datetime.fromtimestamp(reached, UTC).date().isoformat()


def _apiservers(probed: Probed) -> ApiserversRow:
    found = probed.found
    if found is None:
        return ApiserversRow(None, probed.because)
    replicas = (
        ReplicaRow(one.address, one.name or one.id, one.state.value, one.state.is_converged, one.because)
        for one in found.replicas
    )
    # Without an address to ask, nothing is known, unless an operator stated that all run it.
    if not found.is_converged and not found.replicas:
        return ApiserversRow(None, f"not known: {found.because}")
    return ApiserversRow(found.is_converged, found.because, tuple(replicas))


def _event(entry: Entry) -> EventRow:
    because = entry.detail.get("because")
    told = because if isinstance(because, str) else ", ".join(f"{name} {value}" for name, value in entry.detail.items())
    return EventRow(entry.at, entry.event, entry.campaign, told)
