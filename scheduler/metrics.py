"""What a scheduler tells Prometheus (docs/metrics.md). Setters only; whoever knows a value sets it.

What is not known is not shown: a stale count of 0 says that a scan found none, not that nobody looked.
Another thread asks, so values are replaced, never changed.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from worker.model.batch import BatchState, Checkpoint
from worker.model.budget import Budget, BudgetState
from worker.model.campaign import Campaign, CampaignState
from worker.model.outcome import BatchReport

_STALE_TICK = 60.0
_ENDS = ("rewritten", "current", "gone", "quarantined")

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Campaign:
    """How far a campaign is."""

    state: CampaignState
    report: BatchReport
    batches_left: int
    batches_parked: int
    rate: float


@dataclass(frozen=True, slots=True)
class _Known:
    """What only a leader knows; None or nothing where it does not know it yet."""

    campaign: _Campaign | None = None
    stale: int | None = None
    proven_at: float | None = None
    lag: int | None = None
    budgets: tuple[Budget, ...] = ()
    gcm_limit: int = 0
    due_at: float = 1.0
    hasty: frozenset[str] = frozenset()


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
        self.ticked()
        registry.register(self)

    def leads(self, *, leads: bool) -> None:
        """Set whether this scheduler leads. Who no longer does forgets what only a leader can know."""
        self._leads = leads
        if not leads:
            self._known = _Known()

    def configured(self, generation: str) -> None:
        """Set the configuration in force."""
        self._generation = generation

    def ticked(self) -> None:
        """Note that the loop is alive."""
        self._tick_at = self._wall()
        self._ticked = self._steady()

    def alive(self) -> str:
        """See Question: whether the loop ticked lately."""
        age = self._steady() - self._ticked
        return f"the loop has not ticked for {age:.0f} s" if age > _STALE_TICK else ""

    def campaign(self, campaign: Campaign, report: BatchReport, batches: Iterable[Checkpoint], rate: float) -> None:
        """Set how far the newest campaign is; `rate` in objects a second."""
        states = Counter(batch.state for batch in batches)
        left = states.total() - states[BatchState.DONE]
        now = _Campaign(campaign.state, report, left, states[BatchState.PARKED], rate)
        self._known = replace(self._known, campaign=now)

    def scanned(self, stale: int, *, clean: bool) -> None:
        """Set what a scan found; a clean one is a proof."""
        self._known = replace(self._known, stale=stale, proven_at=self._wall() if clean else self._known.proven_at)

    def proven(self, at: float) -> None:
        """Set when all was last proven, in seconds since the epoch: what is on record, from an earlier leader."""
        self._known = replace(self._known, proven_at=at)

    def drifted(self) -> None:
        """Count drift."""
        self._drift += 1

    def lags(self, revisions: int) -> None:
        """Set how far the watch is behind."""
        self._known = replace(self._known, lag=revisions)

    def queue(self, *, is_available: bool) -> None:
        """Set whether Redis takes messages."""
        self._queue = is_available

    def budgets(self, budgets: Mapping[str, Budget], gcm_limit: int, due_at: float, hasty: Iterable[str] = ()) -> None:
        """Set the use of every key on record, its limit, and from which share on, or by its rate, a key is due."""
        self._known = replace(
            self._known,
            budgets=tuple(budgets.values()),
            gcm_limit=gcm_limit,
            due_at=due_at,
            hasty=frozenset(hasty),
        )

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
        yield GaugeMetricFamily("kube_rewrap_queue_available", "1 while Redis takes messages.", self._queue)
        yield GaugeMetricFamily(
            "kube_rewrap_last_tick_timestamp_seconds", "When the scheduler's loop last ticked.", self._tick_at
        )
        yield CounterMetricFamily("kube_rewrap_drift_found", "Times that drift was found.", self._drift)
        yield GaugeMetricFamily("kube_rewrap_watch_lag_revisions", "Revisions not yet observed.", known.lag)
        yield GaugeMetricFamily(
            "kube_rewrap_stale_objects", "Objects not under their primary key at the last scan.", known.stale
        )
        yield GaugeMetricFamily(
            "kube_rewrap_last_proof_age_seconds",
            "Since the last scan that found all under their primary keys.",
            None if known.proven_at is None else max(0.0, self._wall() - known.proven_at),
        )
        yield from _of_campaign(known.campaign)
        yield from _of_keys(known)


def _of_campaign(campaign: _Campaign | None) -> Iterable[Metric]:
    states = GaugeMetricFamily(
        "kube_rewrap_campaign_state", "1 for the state of the newest campaign, 0 for all others.", labels=["state"]
    )
    objects = GaugeMetricFamily(
        "kube_rewrap_campaign_objects", "Objects of the newest campaign, by how they ended.", labels=["outcome"]
    )
    if campaign is not None:
        for state in CampaignState:
            states.add_metric([state.value], state is campaign.state)
        for end in _ENDS:
            objects.add_metric([end], getattr(campaign.report, end))
    yield states
    yield objects
    yield GaugeMetricFamily(
        "kube_rewrap_campaign_batches_left", "Batches that are not done.", campaign.batches_left if campaign else None
    )
    yield GaugeMetricFamily(
        "kube_rewrap_campaign_batches_parked",
        "Batches that were given up until the next campaign, or sweep.",
        campaign.batches_parked if campaign else None,
    )
    yield GaugeMetricFamily(
        "kube_rewrap_campaign_rate_objects_per_second",
        "Objects rewritten a second.",
        campaign.rate if campaign else None,
    )


def _of_keys(known: _Known) -> Iterable[Metric]:
    names = ["fingerprint", "provider"]
    used = GaugeMetricFamily("kube_rewrap_key_budget_used", "Encryptions under a key, at the least.", labels=names)
    limit = GaugeMetricFamily("kube_rewrap_key_budget_limit", "Encryptions that a key may make.", labels=names)
    due = GaugeMetricFamily("kube_rewrap_key_rotation_due", "1 for a key that should be rotated.", labels=names)
    observed = CounterMetricFamily("kube_rewrap_key_observed_writes", "Writes seen, by anyone.", labels=names)
    for budget in known.budgets:
        key = [budget.fingerprint, budget.provider]
        used.add_metric(key, budget.used)
        observed.add_metric(key, budget.observed)
        most = budget.limit(known.gcm_limit)
        if most is not None:
            limit.add_metric(key, most)
            is_ok = budget.state(known.gcm_limit, known.due_at) is BudgetState.OK
            due.add_metric(key, not is_ok or budget.fingerprint in known.hasty)
    yield from (used, limit, due, observed)
