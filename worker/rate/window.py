"""Limits how many swaps may be in flight, by etcd's latency.

Concurrent batches share the window: each sends groups of at most its share and waits for a group before it sends the
next, so that all together never exceed the limit (or one swap each, if that is more).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from kube_rewrap.worker.rate.pressure import WindowSize


class Window:
    """The window of one engine. Not for several event loops."""

    def __init__(self, size: WindowSize) -> None:
        self._size = size
        self._sharers = 0
        self._latencies = 0.0
        self._finished = 0
        self._was_full = False

    @property
    def limit(self) -> int:
        """How many swaps may be in flight now, over all batches that share the window."""
        return min(int(self._size.limit), self._size.ceiling)

    @property
    def share(self) -> int:
        """The part of the limit for each of these batches; at least 1."""
        return max(1, self.limit // max(1, self._sharers))

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Count the caller as one of the batches that share the window, while the block runs."""
        self._sharers += 1
        try:
            yield
        finally:
            self._sharers -= 1

    def finished(self, swaps: int, seconds: float, *, was_full: bool) -> None:
        """Adapt the window to a group of swaps.

        `seconds` is the time until the last answer; `was_full`: the group used its whole share.
        """
        self._latencies += swaps * seconds
        self._finished += swaps
        self._was_full = self._was_full or was_full
        if self._finished >= self.limit:
            self._size = self._size.after_round(self._latencies / self._finished, was_full=self._was_full)
            self._latencies, self._finished, self._was_full = 0.0, 0, False
