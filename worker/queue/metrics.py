"""Metrics of a worker's parent process, counted from its children's results (docs/metrics.md).

Another thread reads the values for a scrape, so `count` replaces them and never mutates them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kube_rewrap.worker.queue.execution import report_in
from kube_rewrap.worker.records.report import NOTHING

_OBJECT_OUTCOMES = ("rewritten", "current", "gone", "quarantined")
_OUTCOMES = ("worked", "dropped", "handed_back", "failed", "refused")
_OTHER = "other"


class WorkerMetrics(Collector):
    """The metrics of one worker. `rate` is the ceiling of the whole service in objects a second, 0 = none."""

    def __init__(self, registry: CollectorRegistry, rate: float) -> None:
        self._rate = rate
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
        yield GaugeMetricFamily("kube_rewrap_window_swaps", "Swaps that may be in flight in one child.", window)
        yield GaugeMetricFamily(
            "kube_rewrap_rate_ceiling_objects_per_second", "The ceiling over all workers, 0 = none.", self._rate
        )
