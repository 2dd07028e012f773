"""Metrics of a worker's parent process, counted from its children's results (docs/metrics.md).

The scrape's thread reads the values, so they are replaced, never mutated.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from kube_rewrap.worker.queue.execution import described
from kube_rewrap.worker.records.report import NOTHING

_ENDS = ("rewritten", "current", "gone", "quarantined")
_BECAME = ("worked", "dropped", "handed_back", "failed", "refused")
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
        """Count the JSON form of a `Done`; any other value counts as outcome `other`."""
        became = done.get("outcome")
        self._messages = self._messages + Counter([became if became in _BECAME else _OTHER])
        self._report += described(done)
        window = done.get("window")
        if isinstance(window, int) and window:
            self._window = window

    def collect(self) -> Iterable[Metric]:
        """See Collector."""
        report, messages, window = self._report, self._messages, self._window
        became = CounterMetricFamily(
            "kube_rewrap_messages", "Messages dealt with, by what became of them.", labels=["outcome"]
        )
        for name in (*_BECAME, _OTHER):
            became.add_metric([name], messages[name])
        yield became
        ends = CounterMetricFamily("kube_rewrap_objects", "Objects dealt with, by how they ended.", labels=["outcome"])
        for name in _ENDS:
            ends.add_metric([name], getattr(report, name))
        yield ends
        yield CounterMetricFamily(
            "kube_rewrap_swap_conflicts", "Swaps lost to another writer; tried again.", report.conflicts
        )
        yield CounterMetricFamily(
            "kube_rewrap_swap_unknown", "Swaps whose answer was lost; resolved by reading.", report.unknown
        )
        yield CounterMetricFamily("kube_rewrap_encryptions", "Times that a key was used to seal.", report.encryptions)
        yield CounterMetricFamily("kube_rewrap_written_bytes", "Bytes of ciphertext written.", report.bytes)
        yield GaugeMetricFamily("kube_rewrap_window_swaps", "Swaps that may be in flight in one child.", window)
        yield GaugeMetricFamily(
            "kube_rewrap_rate_ceiling_objects_per_second", "The ceiling over all workers, 0 = none.", self._rate
        )
