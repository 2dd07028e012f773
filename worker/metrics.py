"""What a worker's parent process counts of what its children return (docs/metrics.md)."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge

from worker.work import described

_OUTCOMES = ("rewritten", "current", "gone", "quarantined")


class WorkerMetrics:
    """The metrics of one worker."""

    def __init__(self, registry: CollectorRegistry, rate: float) -> None:
        self._messages = Counter(
            "kube_rewrap_messages", "Messages dealt with, by what became of them.", ["outcome"], registry=registry
        )
        self._objects = Counter(
            "kube_rewrap_objects", "Objects dealt with, by how they ended.", ["outcome"], registry=registry
        )
        self._conflicts = Counter(
            "kube_rewrap_swap_conflicts", "Swaps lost to another writer; tried again.", registry=registry
        )
        self._unknown = Counter(
            "kube_rewrap_swap_unknown", "Swaps whose answer was lost; resolved by reading.", registry=registry
        )
        self._encryptions = Counter("kube_rewrap_encryptions", "Times that a key was used to seal.", registry=registry)
        self._bytes = Counter("kube_rewrap_written_bytes", "Bytes of ciphertext written.", registry=registry)
        self._window = Gauge("kube_rewrap_window_swaps", "Swaps that may be in flight in one child.", registry=registry)
        ceiling = Gauge("kube_rewrap_rate_ceiling", "Objects a second over all workers, 0 = none.", registry=registry)
        ceiling.set(rate)

    def count(self, done: Mapping[str, object]) -> None:
        """Count the JSON form of a `Done`."""
        self._messages.labels(str(done.get("outcome"))).inc()
        report = described(done)
        for outcome in _OUTCOMES:
            self._objects.labels(outcome).inc(getattr(report, outcome))
        self._conflicts.inc(report.conflicts)
        self._unknown.inc(report.unknown)
        self._encryptions.inc(report.encryptions)
        self._bytes.inc(report.bytes)
        window = done.get("window")
        if isinstance(window, int) and window:
            self._window.set(window)
