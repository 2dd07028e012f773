"""What a scheduler tells Prometheus (docs/metrics.md). Setters only; whoever knows a value sets it."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from worker.model.budget import Budget
from worker.model.campaign import Campaign, CampaignState
from worker.model.outcome import BatchReport

_STALE_TICK = 60.0


class SchedulerMetrics:
    """The metrics of one scheduler, leading or not."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._leader = Gauge("kube_rewrap_is_leader", "1 on the scheduler that leads.", registry=registry)
        self._info = Gauge(
            "kube_rewrap_configuration_info", "The configuration in force.", ["generation"], registry=registry
        )
        self._state = Gauge(
            "kube_rewrap_campaign_state", "1 for the state of the newest campaign.", ["state"], registry=registry
        )
        self._objects = Gauge(
            "kube_rewrap_campaign_objects", "Objects of the newest campaign by outcome.", ["outcome"], registry=registry
        )
        self._left = Gauge("kube_rewrap_campaign_batches_left", "Batches that are not done.", registry=registry)
        self._rate = Gauge("kube_rewrap_campaign_rate", "Objects rewritten a second.", registry=registry)
        self._quarantined = Gauge("kube_rewrap_quarantined_objects", "Objects that were left alone.", registry=registry)
        self._stale = Gauge(
            "kube_rewrap_stale_objects", "Objects not under their primary key at the last scan.", registry=registry
        )
        self._drift = Counter("kube_rewrap_drift", "Times that drift was found in a namespace.", registry=registry)
        self._lag = Gauge("kube_rewrap_watch_lag_revisions", "Revisions not yet observed.", registry=registry)
        self._queue = Gauge("kube_rewrap_queue_available", "1 while Redis takes messages.", registry=registry)
        names = ["fingerprint", "provider"]
        self._used = Gauge("kube_rewrap_key_budget_used", "Encryptions under a key.", names, registry=registry)
        self._limit = Gauge(
            "kube_rewrap_key_budget_limit", "Encryptions that a key may make.", names, registry=registry
        )
        self._observed = Gauge("kube_rewrap_key_observed_writes", "Writes seen, by key.", names, registry=registry)
        self._ages = _Ages()
        registry.register(self._ages)
        self.ticked()

    def leads(self, *, leads: bool) -> None:
        """Set whether this scheduler leads."""
        self._leader.set(leads)

    def configured(self, generation: str) -> None:
        """Set the configuration in force."""
        self._info.clear()
        self._info.labels(generation).set(1)

    def ticked(self) -> None:
        """Note that the loop is alive."""
        self._ages.tick = time.time()

    def alive(self) -> str:
        """See Question: whether the loop ticked lately."""
        age = time.time() - self._ages.tick
        return f"the loop has not ticked for {age:.0f} s" if age > _STALE_TICK else ""

    def campaign(self, campaign: Campaign, report: BatchReport, batches_left: int, rate: float) -> None:
        """Set how far the newest campaign is."""
        for state in CampaignState:
            self._state.labels(state.value).set(state is campaign.state)
        for outcome in ("rewritten", "current", "gone", "quarantined"):
            self._objects.labels(outcome).set(getattr(report, outcome))
        self._quarantined.set(report.quarantined)
        self._left.set(batches_left)
        self._rate.set(rate)

    def scanned(self, stale: int, *, clean: bool) -> None:
        """Set what a scan found; a clean one is a proof."""
        self._stale.set(stale)
        if clean:
            self._ages.proof = time.time()

    def drifted(self) -> None:
        """Count drift."""
        self._drift.inc()

    def lags(self, revisions: int) -> None:
        """Set how far the watch is behind."""
        self._lag.set(revisions)

    def queue(self, *, is_available: bool) -> None:
        """Set whether Redis takes messages."""
        self._queue.set(is_available)

    def budgets(self, budgets: Mapping[str, Budget], gcm_limit: int) -> None:
        """Set the use of every key on record."""
        for budget in budgets.values():
            self._used.labels(budget.fingerprint, budget.provider).set(budget.used)
            self._observed.labels(budget.fingerprint, budget.provider).set(budget.observed)
            limit = budget.limit(gcm_limit)
            if limit is not None:
                self._limit.labels(budget.fingerprint, budget.provider).set(limit)


class _Ages(Collector):
    """Ages are computed when they are asked for."""

    def __init__(self) -> None:
        self.tick = 0.0
        self.proof = 0.0

    def collect(self) -> Iterable[GaugeMetricFamily]:
        """See Collector."""
        now = time.time()
        yield GaugeMetricFamily("kube_rewrap_last_tick_age_seconds", "Since the loop ticked.", now - self.tick)
        if self.proof:
            yield GaugeMetricFamily(
                "kube_rewrap_last_proof_age_seconds", "Since the last clean scan.", now - self.proof
            )
