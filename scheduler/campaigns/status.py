"""Reads the status of campaigns and requests from their records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.plugin_calls import kms_v1_providers
from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.batch import BatchState, Checkpoint, quarantined_by
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.claims import Claims
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.handbacks import Handbacks
from kube_rewrap.worker.records.holder import UNNAMED
from kube_rewrap.worker.records.inventory import counts_json
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.report import NOTHING, BatchReport
from kube_rewrap.worker.records.request import Request, RequestKind, RequestState
from kube_rewrap.worker.records.requests import Requests
from kube_rewrap.worker.records.standing import Standing, processed
from kube_rewrap.worker.verdict import Reason

_LISTED = 1_000
_NAMED = 4
_HASH = len("sha256:") + 16


@dataclass(frozen=True, slots=True)
class Overview:
    """The status of a campaign, or of a request that has not led to one, at the time `at`.

    `kms_v1`: the KMS v1 providers of the configuration of an unfinished campaign; `kms_v1_rate`: the ceiling of calls a
    second to the plugin of each, 0 = none.
    """

    name: str
    campaign: Campaign | None
    request: Request | None
    at: datetime
    report: BatchReport = NOTHING
    batches: tuple[Checkpoint, ...] = ()
    workers: tuple[str, ...] = ()
    quarantined: tuple[QuarantinedObject, ...] = ()
    quarantined_by: Mapping[tuple[str, Reason], int] = field(default_factory=dict)
    outdated: tuple[str, ...] = ()
    in_force: str = ""
    kms_v1: tuple[str, ...] = ()
    kms_v1_rate: float = 0.0

    @property
    def scope(self) -> str:
        """The campaign's scope, in words."""
        if self.campaign is None:
            return "not planned yet"
        scope = self.campaign.scope
        where = f" in namespace {_some(scope.namespaces)}" if scope.namespaces else ""
        return f"{_some(scope.resources) or 'nothing'}{where}"

    @property
    def configuration(self) -> str:
        """The campaign's configuration, and the one in force if that is known and another one."""
        if self.campaign is None:
            return "not planned yet"
        name, other = self.campaign.generation, self.in_force
        return _short(name) if other in {"", name} else f"{_short(name)}, not the one in force, {_short(other)}"

    @property
    def state(self) -> str:
        """The campaign's state, or that of the request."""
        if self.campaign is not None:
            return self.campaign.state.value
        return self.request.state.value if self.request else ""

    @property
    def because(self) -> str:
        """Why it is in that state."""
        if self.campaign is not None:
            return self.campaign.because
        return (self.request.because if self.request else "") or "waiting for the scheduler"

    @property
    def is_end(self) -> bool:
        """Whether the campaign has ended, or its request was decided."""
        if self.campaign is not None:
            return self.campaign.state.is_end
        return self.request is not None and self.request.state is not RequestState.WAITING

    @property
    def is_complete(self) -> bool:
        """Whether a proof completed the campaign, or the request was accepted without one."""
        if self.campaign is not None:
            return self.campaign.state is CampaignState.COMPLETE
        return self.request is not None and self.request.state is RequestState.ACCEPTED

    @property
    def planned(self) -> int:
        """Objects in the batches when they were planned."""
        return sum(batch.spec.objects for batch in self.batches)

    @property
    def rate(self) -> float | None:
        """Objects processed a second since the plan; None if the campaign has ended, or has no plan yet."""
        if self.campaign is None or self.campaign.state.is_end:
            return None
        seconds = (self.at - datetime.fromisoformat(self.campaign.planned_at)).total_seconds()
        return self.report.objects / max(1.0, seconds)

    @property
    def standing(self) -> Standing:
        """How far the campaign is; nothing before its plan."""
        return Standing.of(self.batches, self.campaign.sweeps) if self.campaign is not None else Standing()

    @property
    def seconds_left(self) -> float | None:
        """Estimated seconds until all batches are done; None if unknown."""
        return self.standing.left / self.rate if self.rate else None

    @property
    def resources(self) -> list[tuple[str, int, int, int, int]]:
        """Each resource with its objects as counted for the plan, processed objects, batches and done batches."""
        rows: dict[str, list[Checkpoint]] = {}
        for batch in self.batches:
            rows.setdefault(batch.spec.resource, []).append(batch)
        sweeps = self.campaign.sweeps if self.campaign is not None else 1
        return [
            (
                resource,
                sum(one.spec.objects for one in batches),
                sum(processed(one, sweeps) for one in batches),
                len(batches),
                sum(one.state is BatchState.DONE for one in batches),
            )
            for resource, batches in rows.items()
        ]

    @property
    def namespaces(self) -> list[dict[str, object]]:
        """The objects of each namespace as counted for the plan, with the state of their batch."""
        return [
            {"resource": batch.spec.resource, "namespace": name, "objects": count, "state": batch.state.value}
            for batch in self.batches
            for name, count in batch.spec.namespaces
        ]

    def lines(self, most: int | None = None) -> list[tuple[str, object]]:
        """Return the text output: pairs of label and value. `most`: of the lines under one label, None = all."""
        counts = sorted(self.quarantined_by.items(), key=lambda one: -one[1])
        left_alone = [f"{count:,} of {resource}: {reason.value}" for (resource, reason), count in counts]
        done = sum(batch.state is BatchState.DONE for batch in self.batches)
        return [
            ("campaign", self.name),
            ("state", self.state),
            ("because", self.because),
            ("scope", self.scope),
            *self._since(),
            ("configuration", self.configuration),
            ("progress", self._progress()),
            ("batches", f"{done} of {len(self.batches)} done"),
            ("rewritten", f"{self.report.rewritten:,} of about {self.planned:,}, {self.report.current:,} were current"),
            *self._pace(),
            *self._times(),
            ("quarantined", self._quarantined()),
            *_labelled("left alone", left_alone, most),
            ("workers", (", ".join(self.workers) if most is None else _some(self.workers)) or "none at work"),
            *_labelled("outdated", self.outdated, most),
        ]

    def _progress(self) -> str:
        standing = self.standing
        return f"{standing.done:,} of about {standing.total:,} objects processed, {standing.percent:g} %"

    def _times(self) -> list[tuple[str, object]]:
        if self.campaign is None:
            return []
        planned, ended, took = self.campaign.planned_at[:19], self.campaign.ended_at[:19], self.campaign.seconds
        end = [("ended", f"{ended}, after {timedelta(seconds=took)}")] if took is not None else []
        return [("planned", planned), *end]

    def _since(self) -> list[tuple[str, object]]:
        known = self.campaign or self.request
        since = known.options.since if known is not None else 0
        return [("since", f"objects last written at or before revision {since} are rewritten, too")] if since else []

    def _pace(self) -> list[tuple[str, object]]:
        if self.rate is None:
            return []
        left = f", about {self.seconds_left:,.0f} s left" if self.seconds_left is not None else ""
        ceiling = f"at most {self.kms_v1_rate:g} a second (v1_rate)" if self.kms_v1_rate else "without a ceiling"
        calls = [
            ("kms calls", f"{ceiling}, to the plugin of the KMS v1 provider {name!r}: one for each object under it")
            for name in self.kms_v1
        ]
        return [("rate", f"{self.rate:,.0f} objects/s{left}"), *calls]

    @property
    def quarantined_total(self) -> int:
        """Quarantined objects, named or not. A complete campaign has none by its proof."""
        return 0 if self.campaign is not None and self.is_complete else self.report.quarantined

    def _quarantined(self) -> str:
        total, named = self.quarantined_total, len(self.quarantined)
        if named >= total:
            return f"{total:,}"
        if not named:
            return f"{total:,}; names are kept of the newest campaign only (`rewrap verify` names what can't be read)"
        return f"{total:,}, of which {named:,} are named"

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        left = self.seconds_left
        return {
            "id": self.name,
            "state": self.state,
            "because": self.because,
            "campaign": self.campaign.to_json() if self.campaign else None,
            "request": self.request.to_json() if self.request else None,
            "in_force": self.in_force or None,
            "report": self.report.to_json(),
            "done": self.standing.done,
            "total": self.standing.total,
            "percent": self.standing.percent if self.campaign else None,
            "rate": None if self.rate is None else round(self.rate, 1),
            "seconds_left": None if left is None else round(left, 1),
            "kms_calls": [{"provider": name, "calls_per_second": self.kms_v1_rate} for name in self.kms_v1],
            "workers": list(self.workers),
            "outdated": list(self.outdated),
            "quarantined": [one.to_json() for one in self.quarantined],
            "quarantined_total": self.quarantined_total,
            "quarantined_by": counts_json(self.quarantined_by),
            "parked": [
                {"batch": batch.spec.number, "because": batch.because}
                for batch in self.batches
                if batch.state is BatchState.PARKED
            ],
            "namespaces": self.namespaces,
        }


def _labelled(label: str, sentences: Sequence[str], most: int | None) -> list[tuple[str, object]]:
    """Return a line for each sentence, and where there are more than `most`, one for the number of the others."""
    shown = sentences[:most]
    left = len(sentences) - len(shown)
    rest: list[tuple[str, object]] = [(label, f"... {left:,} more with --namespaces")] if left else []
    return [*((label, sentence) for sentence in shown), *rest]


def _some(names: tuple[str, ...]) -> str:
    """Return names for one line of text: a few, and the number of the others."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more


def _short(generation: str) -> str:
    """Return enough of a configuration's hash to tell it from others; `-o json` has all of it."""
    return generation[:_HASH]


async def look(settings: Settings, name: str) -> Overview | None:
    """Return the status of a campaign or request from its records; None if there is none of that name."""
    keyspace = Keyspace(settings.keyspace.state_prefix)
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        overview = await _peek(store, keyspace, name)
        campaign = overview.campaign if overview is not None else None
        if overview is None or campaign is None:
            return overview
        overview = await _whole(store, keyspace, overview, campaign)
        in_force = await _in_force(store, keyspace)
    if in_force is None:
        return overview
    is_mine = campaign.generation == in_force.hash and not campaign.state.is_end
    slow = kms_v1_providers(in_force) if is_mine else ()
    return replace(overview, in_force=in_force.hash, kms_v1=slow, kms_v1_rate=settings.kms.v1_rate)


async def peek(settings: Settings, name: str) -> Overview | None:
    """As `look`, by the records of the campaign and the request alone: without batches, workers and quarantine."""
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        return await _peek(store, Keyspace(settings.keyspace.state_prefix), name)


async def _peek(store: Store, keyspace: Keyspace, name: str) -> Overview | None:
    request = await Requests(store, keyspace).get(name)
    campaign = request.value.campaign if request else name
    stored = await Campaigns(store, keyspace).get(campaign) if campaign else None
    if stored is None and request is None:
        return None
    named = stored.value.id if stored else name
    return Overview(named, stored.value if stored else None, request.value if request else None, datetime.now(UTC))


async def _in_force(store: Store, keyspace: Keyspace) -> GenerationRecord | None:
    """Return the configuration that the service follows, None if it is unknown."""
    try:
        known = await Generations(store, keyspace).load()
    except RecordError:
        return None  # the status is of use without it
    return known.value.generation if known is not None else None


async def _whole(store: Store, keyspace: Keyspace, overview: Overview, campaign: Campaign) -> Overview:
    """Return the overview with what the campaign's batches, claims and quarantine add."""
    batches = [one.value async for one in Checkpoints(store, keyspace).all(campaign.id)]
    claims = await Claims(store, keyspace).all(campaign.id)
    outdated = tuple(str(one) for one in await Handbacks(store, keyspace).all())
    listed = tuple(await QuarantineRecords(store, keyspace, campaign.id).some(_LISTED))
    counts = {} if campaign.state is CampaignState.COMPLETE else quarantined_by(batches)
    report = BatchReport.total(batch.report for batch in batches)
    holders = (claim.holder for claim in claims)
    workers = dict.fromkeys(f"{one.host}:{one.pid}" if one is not None else UNNAMED for one in holders)
    return replace(
        overview,
        report=report,
        batches=tuple(batches),
        workers=tuple(workers),
        quarantined=listed,
        quarantined_by=counts,
        outdated=outdated,
    )


async def look_at_all(settings: Settings) -> list[dict[str, object]]:
    """Return a row for each campaign, and each request without one; the newest first, unreadable records last."""
    keyspace = Keyspace(settings.keyspace.state_prefix)
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        campaigns, damaged = await Campaigns(store, keyspace).all_or_why()
        requests, lost = await Requests(store, keyspace).all_or_why()
    # Sorted by the full time; a row shows it to the second.
    rows = [(one.value.planned_at, _campaign_row(one.value)) for one in campaigns]
    started = (one.value for one in requests if one.value.kind is RequestKind.START and not one.value.campaign)
    rows += [(one.asked_at, _request_row(one)) for one in started]
    newest_first = sorted(rows, key=lambda row: row[0], reverse=True)
    last = [("campaign", *one) for one in damaged] + [("request", *one) for one in lost]
    return [row for _, row in newest_first] + [_unreadable_row(*one) for one in last]


def _campaign_row(campaign: Campaign) -> dict[str, object]:
    return {
        "id": campaign.id,
        "kind": "campaign",
        "state": campaign.state.value,
        "batches": campaign.batches,
        "resources": list(campaign.scope.resources),
        "namespaces": list(campaign.scope.namespaces),
        "at": campaign.planned_at[:19],
        "ended_at": campaign.ended_at[:19] or None,
        "seconds": campaign.seconds,
        "because": campaign.because,
    }


def _unreadable_row(kind: str, name: str, because: str) -> dict[str, object]:
    unknown = {"batches": 0, "resources": [], "namespaces": [], "at": "", "ended_at": None, "seconds": None}
    return {"id": name, "kind": kind, "state": "unreadable", **unknown, "because": because}


def _request_row(request: Request) -> dict[str, object]:
    return {
        "id": request.id,
        "kind": "request",
        "state": request.state.value,
        "batches": 0,
        "resources": list(request.resources),
        "namespaces": list(request.namespaces),
        "at": request.asked_at[:19],
        "ended_at": None,
        "seconds": None,
        "because": request.because or "waiting for the scheduler",
    }
