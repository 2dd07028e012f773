"""The scheduler's Prometheus metrics (docs/metrics.md). Setters only; the code that knows a value sets it.

An unknown value is not exported: a stale count of 0 means that a scan found none, not that no scan ran. Nor is a
figure of another configuration than the one in force. Scan figures are those of the last scan of everything; campaigns
over a part of it have series of their own.

The scrape's thread reads the values, so they are replaced, never mutated.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kube_rewrap.worker.records.batch import BatchState, Checkpoint
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause
from kube_rewrap.worker.records.kek import KekFigures
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.scan import Scan
from kube_rewrap.worker.records.standing import Standing
from kube_rewrap.worker.wrapped import provider_label

_STALE_TICK = 60.0
_ENDS = ("rewritten", "current", "gone", "quarantined")
_SKEW = 60.0
"""Seconds by which another host's clock may be ahead; a time beyond that has an unknown age."""

_EVERYTHING, _PART = "everything", "part"

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Campaign:
    """The progress of one campaign; `rate` in objects a second.

    `seconds_left` estimates the time until all batches are done, None if unknown.
    """

    state: CampaignState
    paused_for: Pause | None
    standing: Standing
    batches_parked: int
    rate: float
    seconds_left: float | None


@dataclass(frozen=True, slots=True)
class _Known:
    """Values that only a leader knows; None or empty until it does."""

    campaigns: Mapping[str, _Campaign] = field(default_factory=dict)
    scan: Scan | None = None
    proven_at: float = 0.0
    lag: int | None = None
    observed_until: int | None = None
    revisions_since: int | None = None
    budgets: tuple[Budget, ...] = ()
    gcm_limit: int = 0
    due: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class BackupFigures:
    """The figures of the catalogue of backups. `newest_proven_at`: when the newest readable one was made, 0 = none.

    `distrusted`: another user could have written the catalogue.
    """

    newest_proven_at: float
    kept: int
    not_readable: int
    damaged_lines: int
    distrusted: bool = False


class SchedulerMetrics(Collector):
    """The metrics of one scheduler, leading or not. `wall` is in seconds since the epoch, `steady` never jumps."""

    def __init__(self, registry: CollectorRegistry, wall: Clock = time.time, steady: Clock = time.monotonic) -> None:
        self._wall = wall
        self._steady = steady
        self._leads = False
        self._generation = ""
        self._queue: bool | None = None
        self._drift = 0
        self._known = _Known()
        self._keks: Mapping[str, KekFigures] = {}
        self._waits: bool | None = None
        self._backups: BackupFigures | None = None
        self._catalogue: bool | None = None
        self._rotation: Rotation | None = None
        self.ticked()
        registry.register(self)

    def leads(self, *, leads: bool) -> None:
        """Set whether this scheduler leads; if not, forget the values that only a leader can know."""
        self._leads = leads
        if not leads:
            self._generation, self._known, self._keks, self._waits = "", _Known(), {}, None
            self._rotation = None

    def configured(self, generation: str) -> None:
        """Set the configuration in force, and forget the values of the one before."""
        self._generation, self._known = generation, _Known()

    def ticked(self) -> None:
        """Record that the event loop runs."""
        self._tick_at = self._wall()
        self._ticked = self._steady()

    def alive(self) -> str:
        """See Question: "" if the loop ticked within the last 60 s."""
        age = self._steady() - self._ticked
        return f"the loop has not ticked for {age:.0f} s" if age > _STALE_TICK else ""

    def campaign(
        self,
        campaign: Campaign,
        batches: Iterable[Checkpoint],
        rate: float,
        *,
        whole: bool,
        seconds_left: float | None = None,
    ) -> None:
        """Set the progress of the newest campaign of everything (`whole`) or of a part; `rate` in objects a second.

        `seconds_left`: the estimated seconds until all batches are done, None if unknown. Ignores a campaign of another
        generation.
        """
        if campaign.generation != self._generation:
            return
        known = tuple(batches)
        shown_as = _Campaign(
            campaign.state,
            campaign.paused_for,
            Standing.of(known, campaign.sweeps),
            batches_parked=sum(batch.state is BatchState.PARKED for batch in known),
            rate=rate,
            seconds_left=seconds_left,
        )
        shown = {**self._known.campaigns, _EVERYTHING if whole else _PART: shown_as}
        self._known = replace(self._known, campaigns=shown)

    def scanned(self, scan: Scan) -> None:
        """Set the result of the last scan of everything; ignores a scan of another generation."""
        if scan.generation == self._generation:
            self._known = replace(self._known, scan=scan)
            self._proven(scan.proven_at)

    def proven(self, campaign: Campaign) -> None:
        """Set the last campaign that proved everything, as an earlier leader or a run recorded it."""
        if campaign.generation == self._generation:
            self._proven(datetime.fromisoformat(campaign.ended_at).timestamp())

    def _proven(self, at: float) -> None:
        """Keep the newest proof time; ignore one in the future, by another host's clock."""
        if at <= self._wall() + _SKEW:
            self._known = replace(self._known, proven_at=max(at, self._known.proven_at))

    def drifted(self) -> None:
        """Count one finding of drift."""
        self._drift += 1

    def observed(self, until: int, since: int) -> None:
        """Set before which revision all writes are counted, and how many revisions the store has had since."""
        self._known = replace(self._known, observed_until=until, revisions_since=since)

    def lags(self, revisions: int) -> None:
        """Set how many revisions the watch has not observed yet."""
        self._known = replace(self._known, lag=revisions)

    def queue(self, *, is_available: bool | None) -> None:
        """Set whether Redis takes messages, None before the first try."""
        self._queue = is_available

    def budgets(self, budgets: Iterable[Budget], gcm_limit: int, due: Iterable[str]) -> None:
        """Set the budgets of configured keys, the aesgcm limit, and the fingerprints of keys that should be rotated."""
        self._known = replace(self._known, budgets=tuple(budgets), gcm_limit=gcm_limit, due=frozenset(due))

    def keks(self, keks: Mapping[str, KekFigures], waits: bool = False) -> None:
        """Set the state of each KMS provider whose plugin the leader asks for its key id, by the provider's name.

        `waits`: whether the newest file is not in force, since one of these has never named a key id. `configured` does
        not forget them: they belong to the file that is followed, whether or not it is in force yet.
        """
        shown: dict[str, KekFigures] = {}
        for name, figures in keks.items():
            label = provider_label(name, shown)
            shown[label] = shown[label].worse(figures) if label in shown else figures
        self._keks, self._waits = shown, waits

    def backups(self, figures: BackupFigures | None) -> None:
        """Set the figures of the catalogue of backups, None while it can't be read."""
        self._backups = figures
        self._catalogue = figures is not None and not figures.distrusted

    def rotation(self, rotation: Rotation | None) -> None:
        """Set the newest rotation on record, None if there is none. `configured` keeps it: it changes the file."""
        self._rotation = rotation

    def _age(self, at: float) -> float | None:
        """Return the seconds since a time; None if it is 0 or in the future."""
        now = self._wall()
        return max(0.0, now - at) if 0 < at <= now + _SKEW else None

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        known = self._known
        yield GaugeMetricFamily("kube_rewrap_is_leader", "1 on the scheduler that leads.", self._leads)
        info = GaugeMetricFamily(
            "kube_rewrap_configuration_info", "Always 1; names the configuration in force.", labels=["generation"]
        )
        if self._generation:
            info.add_metric([self._generation], 1)
        yield info
        yield GaugeMetricFamily(
            "kube_rewrap_configuration_waiting",
            "1 while the newest file is not in force, since a KMS plugin has never named a key id.",
            self._waits,
        )
        yield GaugeMetricFamily("kube_rewrap_queue_available", "1 while Redis takes messages.", self._queue)
        yield GaugeMetricFamily(
            "kube_rewrap_last_tick_timestamp_seconds", "When the scheduler's loop last ticked.", self._tick_at
        )
        yield CounterMetricFamily("kube_rewrap_drift_found", "Writes under another key than the primary.", self._drift)
        yield GaugeMetricFamily("kube_rewrap_watch_lag_revisions", "Revisions not yet observed.", known.lag)
        yield GaugeMetricFamily(
            "kube_rewrap_observed_until_revision",
            "The revision before which each write of other clients is in its key's budget.",
            known.observed_until,
        )
        yield GaugeMetricFamily(
            "kube_rewrap_revisions_since_observed",
            "Revisions since then: at most that many writes are in no budget.",
            known.revisions_since,
        )
        yield from _of_scan(known.scan)
        yield GaugeMetricFamily(
            "kube_rewrap_last_scan_age_seconds",
            "Seconds since the last scan of everything.",
            self._age(known.scan.at if known.scan else 0.0),
        )
        yield GaugeMetricFamily(
            "kube_rewrap_last_proof_age_seconds",
            "Seconds since the last scan that found every object under its primary key.",
            self._age(known.proven_at),
        )
        yield from _of_campaigns(known.campaigns)
        yield from _of_keys(known)
        yield from self._of_keks()
        yield from self._of_backups()
        yield from self._of_rotation(self._rotation)

    def _of_backups(self) -> Iterable[Metric]:
        known = self._backups
        yield GaugeMetricFamily(
            "kube_rewrap_backup_catalogue_readable",
            "1 while the catalogue of backups can be read, and no other user could have written it.",
            self._catalogue,
        )
        yield GaugeMetricFamily(
            "kube_rewrap_backup_newest_proven_age_seconds",
            "Seconds since the newest backup was made that was proven readable.",
            self._age(known.newest_proven_at if known else 0.0),
        )
        yield GaugeMetricFamily(
            "kube_rewrap_backup_kept",
            "Backups in the catalogue that did not expire.",
            None if known is None else known.kept,
        )
        yield GaugeMetricFamily(
            "kube_rewrap_backup_not_readable",
            "Backups in the catalogue that were not readable whole, and did not expire.",
            None if known is None else known.not_readable,
        )
        yield GaugeMetricFamily(
            "kube_rewrap_backup_damaged_lines",
            "Lines of the catalogue that can't be read.",
            None if known is None else known.damaged_lines,
        )

    def _of_keks(self) -> Iterable[Metric]:
        status = GaugeMetricFamily(
            "kube_rewrap_kek_status_age_seconds", "Seconds since the plugin last named a key id.", labels=["provider"]
        )
        age = GaugeMetricFamily(
            "kube_rewrap_kek_age_seconds", "Seconds since the KEK in force took effect.", labels=["provider"]
        )
        held = GaugeMetricFamily(
            "kube_rewrap_kek_held", "1 while nothing may be written under the provider.", labels=["provider"]
        )
        for provider, figures in self._keks.items():
            for family, at in ((status, figures.named_at), (age, figures.since)):
                seconds = self._age(at)
                if seconds is not None:
                    family.add_metric([provider], seconds)
            held.add_metric([provider], figures.is_held)
        yield from (status, age, held)

    def _of_rotation(self, rotation: Rotation | None) -> Iterable[Metric]:
        steps = GaugeMetricFamily(
            "kube_rewrap_rotation_step", "1 for the step of the newest rotation, 0 for all others.", labels=["step"]
        )
        for step in RotationStep if rotation is not None else ():
            steps.add_metric([step.value], rotation is not None and step is rotation.step)
        yield steps
        began = rotation.step_began_at if rotation is not None else None
        yield GaugeMetricFamily(
            "kube_rewrap_rotation_step_age_seconds",
            "Seconds since the newest rotation began its step.",
            self._age(began.timestamp()) if began is not None else None,
        )
        yield GaugeMetricFamily(
            "kube_rewrap_rotation_held",
            "1 while the newest rotation is held until an operator acts.",
            None if rotation is None else bool(rotation.held),
        )


def _of_scan(scan: Scan | None) -> Iterable[Metric]:
    yield GaugeMetricFamily(
        "kube_rewrap_stale_objects",
        "Objects not under their primary key at the last scan of everything.",
        None if scan is None else scan.stale,
    )
    unreadable = GaugeMetricFamily(
        "kube_rewrap_unreadable_objects",
        "Objects that could not be read at the last scan of everything.",
        labels=["resource", "reason"],
    )
    for one in scan.unreadable if scan is not None else ():
        unreadable.add_metric([one.resource, one.reason.value], one.objects)
    yield unreadable


def _of_campaigns(campaigns: Mapping[str, _Campaign]) -> Iterable[Metric]:
    states = GaugeMetricFamily(
        "kube_rewrap_campaign_state",
        "1 for the state of the newest campaign of a scope, 0 for all others.",
        labels=["scope", "state"],
    )
    pauses = GaugeMetricFamily(
        "kube_rewrap_campaign_paused",
        "1 for the cause for which the newest campaign of a scope is paused.",
        labels=["scope", "cause"],
    )
    objects = GaugeMetricFamily(
        "kube_rewrap_campaign_objects",
        "Objects of the newest campaign of a scope, by how they ended.",
        labels=["scope", "outcome"],
    )
    planned = GaugeMetricFamily(
        "kube_rewrap_campaign_objects_planned", "Objects processed and left to process.", labels=["scope"]
    )
    processed = GaugeMetricFamily(
        "kube_rewrap_campaign_objects_processed", "Objects processed in the present sweep.", labels=["scope"]
    )
    eta = GaugeMetricFamily(
        "kube_rewrap_campaign_eta_seconds",
        "Estimated seconds until all batches are done, at the rate of the last minute.",
        labels=["scope"],
    )
    left = GaugeMetricFamily(
        "kube_rewrap_campaign_batches_left", "Batches that are neither done nor parked.", labels=["scope"]
    )
    parked = GaugeMetricFamily(
        "kube_rewrap_campaign_batches_parked",
        "Parked batches: five attempts in a row made no progress.",
        labels=["scope"],
    )
    rate = GaugeMetricFamily(
        "kube_rewrap_campaign_rate_objects_per_second", "Objects rewritten a second.", labels=["scope"]
    )
    for scope, campaign in campaigns.items():
        for state in CampaignState:
            states.add_metric([scope, state.value], state is campaign.state)
        for cause in Pause:
            is_cause = campaign.state is CampaignState.PAUSED and cause is campaign.paused_for
            pauses.add_metric([scope, cause.value], is_cause)
        for end in _ENDS:
            objects.add_metric([scope, end], getattr(campaign.standing.report, end))
        planned.add_metric([scope], campaign.standing.total)
        processed.add_metric([scope], campaign.standing.done)
        if campaign.seconds_left is not None:
            eta.add_metric([scope], campaign.seconds_left)
        left.add_metric([scope], campaign.standing.batches_left)
        parked.add_metric([scope], campaign.batches_parked)
        rate.add_metric([scope], campaign.rate)
    yield from (states, pauses, objects, planned, processed, eta, left, parked, rate)


def _of_keys(known: _Known) -> Iterable[Metric]:
    names = ["fingerprint", "provider"]
    used = GaugeMetricFamily("kube_rewrap_key_budget_used", "Counted encryptions under a key.", labels=names)
    limit = GaugeMetricFamily("kube_rewrap_key_budget_limit", "Encryptions that a key may make.", labels=names)
    due = GaugeMetricFamily("kube_rewrap_key_rotation_due", "1 for a key that should be rotated.", labels=names)
    restored = GaugeMetricFamily(
        "kube_rewrap_key_restored",
        "1 for a key whose use is unknown after a restore of etcd.",
        labels=names,
    )
    observed = CounterMetricFamily("kube_rewrap_key_observed_writes", "Observed writes, by any client.", labels=names)
    for budget in known.budgets:
        key = [budget.fingerprint, budget.provider]
        used.add_metric(key, budget.used)
        observed.add_metric(key, budget.observed)
        most = budget.limit(known.gcm_limit)
        if most is not None:
            limit.add_metric(key, most)
            due.add_metric(key, budget.fingerprint in known.due)
            restored.add_metric(key, budget.restored)
    yield from (used, limit, due, restored, observed)
