"""Metrics of a worker's parent process, counted from its children's results (docs/metrics.md).

Another thread reads the values for a scrape, so `count` replaces them and never mutates them.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kube_rewrap.worker.kms.counts import LATENCY_BOUNDS, CallOutcome, Calls
from kube_rewrap.worker.queue.execution import report_in
from kube_rewrap.worker.queue.plugin_report import PluginReport, reports_in
from kube_rewrap.worker.records.report import NOTHING
from kube_rewrap.worker.wrapped import provider_label

_OBJECT_OUTCOMES = ("rewritten", "current", "gone", "quarantined")
_OUTCOMES = ("worked", "dropped", "handed_back", "failed", "refused")
_OTHER = "other"

_CIRCUIT_SECONDS = 900.0
"""How long a circuit is shown after the last report of its plugin: without calls, nothing would close it."""

Clock = Callable[[], float]


@dataclass(frozen=True, slots=True)
class _Calls:
    """The sum of the reports on one provider, and by a steady clock when the last came and Status last succeeded."""

    total: PluginReport
    at: float
    status_at: float | None


class WorkerMetrics(Collector):
    """The metrics of one worker. `rate` is the ceiling of the whole service in objects a second, 0 = none.

    `children` is the number of its child processes. `steady` is in seconds, and never jumps.
    """

    def __init__(self, registry: CollectorRegistry, rate: float, children: int, steady: Clock = time.monotonic) -> None:
        self._rate = rate
        self._children = children
        self._steady = steady
        self._plugins: Mapping[tuple[str, str], _Calls] = {}
        self._report = NOTHING
        self._messages: Counter[str] = Counter()
        self._window: int | None = None
        registry.register(self)

    def count(self, done: Mapping[str, object]) -> None:
        """Count the JSON form of a `MessageResult`; any other value counts as outcome `other`."""
        outcome = done.get("outcome")
        self._messages = self._messages + Counter([outcome if outcome in _OUTCOMES else _OTHER])
        self._report += report_in(done)
        window = done.get("window")
        if isinstance(window, int) and window:
            self._window = window
        for one in reports_in(done):
            self._count_calls(one)

    def _count_calls(self, new: PluginReport) -> None:
        now = self._steady()
        label = provider_label(new.provider, {provider for provider, _ in self._plugins})
        known = self._plugins.get((label, new.version))
        total = replace(new if known is None else known.total + new, provider=label)
        named = [] if new.status_age is None else [now - new.status_age]
        named += [known.status_at] if known is not None and known.status_at is not None else []
        counted = _Calls(total, now, max(named, default=None))
        self._plugins = {**self._plugins, (label, new.version): counted}

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        report, messages, window = self._report, self._messages, self._window
        outcome = CounterMetricFamily(
            "kube_rewrap_messages", "Messages that the worker finished, by outcome.", labels=["outcome"]
        )
        for name in (*_OUTCOMES, _OTHER):
            outcome.add_metric([name], messages[name])
        yield outcome
        ends = CounterMetricFamily(
            "kube_rewrap_objects", "Objects that the worker finished, by outcome.", labels=["outcome"]
        )
        for name in _OBJECT_OUTCOMES:
            ends.add_metric([name], getattr(report, name))
        yield ends
        yield CounterMetricFamily(
            "kube_rewrap_swap_conflicts",
            "Swaps lost to another writer; the worker reads the object and tries again.",
            report.conflicts,
        )
        yield CounterMetricFamily(
            "kube_rewrap_swap_unknown", "Swaps whose answer was lost; resolved by reading.", report.unknown
        )
        yield CounterMetricFamily("kube_rewrap_encryptions", "Encryptions done with any key.", report.encryptions)
        yield CounterMetricFamily("kube_rewrap_written_bytes", "Bytes of ciphertext written.", report.bytes)
        yield GaugeMetricFamily("kube_rewrap_worker_children", "Child processes of the worker.", self._children)
        yield GaugeMetricFamily("kube_rewrap_window_swaps", "Swaps that may be in flight in one child.", window)
        yield GaugeMetricFamily(
            "kube_rewrap_rate_ceiling_objects_per_second", "The ceiling over all workers, 0 = none.", self._rate
        )
        yield from _of_plugins(self._plugins.values(), self._steady())


def _of_plugins(plugins: Iterable[_Calls], now: float) -> Iterable[Metric]:
    names = ["provider", "version"]
    calls = CounterMetricFamily(
        "kube_rewrap_kms_calls", "Calls to KMS plugins, by how they ended.", labels=[*names, "method", "outcome"]
    )
    seconds = HistogramMetricFamily(
        "kube_rewrap_kms_call_seconds", "Durations of the calls that succeeded.", labels=[*names, "method"]
    )
    circuit = GaugeMetricFamily(
        "kube_rewrap_kms_circuit_open",
        "1 after calls of a method failed in a row, until one succeeds.",
        labels=[*names, "method"],
    )
    age = GaugeMetricFamily(
        "kube_rewrap_kms_status_age_seconds", "Seconds since Status last succeeded.", labels=["provider"]
    )
    sources = CounterMetricFamily("kube_rewrap_kms_sources", "Wrapped keys that were unwrapped.", labels=names)
    refused = CounterMetricFamily(
        "kube_rewrap_kms_refused_sources", "Wrapped keys that a working plugin did not unwrap.", labels=names
    )
    seeds = CounterMetricFamily("kube_rewrap_kms_seeds", "Seeds that were wrapped to write with.", labels=names)
    for one in plugins:
        total = one.total
        label = [total.provider, total.version]
        for method in {method: None for method, _ in total.calls}:
            for outcome in CallOutcome:
                made = total.calls.get((method, outcome), Calls())
                calls.add_metric([*label, method.value, outcome.value], made.calls)
            _add_durations(seconds, [*label, method.value], total.calls.get((method, CallOutcome.OK), Calls()))
            if now - one.at <= _CIRCUIT_SECONDS:
                circuit.add_metric([*label, method.value], method in total.failing)
        if one.status_at is not None:
            age.add_metric([total.provider], now - one.status_at)
        sources.add_metric(label, total.sources)
        refused.add_metric(label, total.refused)
        seeds.add_metric(label, total.seeds)
    yield from (calls, seconds, circuit, age, sources, refused, seeds)


def _add_durations(family: HistogramMetricFamily, labels: list[str], calls: Calls) -> None:
    bounds = zip(map(str, LATENCY_BOUNDS), map(float, calls.within), strict=True)
    family.add_metric(labels, [*bounds, ("+Inf", float(calls.calls))], calls.seconds)
