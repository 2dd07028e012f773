"""Limits how many swaps may be in flight, by etcd's latency.

Concurrent batches share the window: each forms groups of at most its share, and waits for room before it sends one,
because the limit or the number of batches may have changed since. So all together never exceed the limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from kube_rewrap.worker.rate.pressure import WindowSize


class Window:
    """The window of one engine. Not for several event loops."""

    def __init__(self, size: WindowSize) -> None:
        self._size = size
        self._sharers = 0
        self._in_flight = 0
        self._changed = asyncio.Event()
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

    @asynccontextmanager
    async def room(self, wanted: int) -> AsyncIterator[int]:
        """Wait for room; yield how many of the wanted swaps may be in flight while the block runs, at least 1."""
        await self._until(lambda: self._in_flight < self.limit)
        swaps = min(wanted, self.limit - self._in_flight)
        self._in_flight += swaps
        try:
            yield swaps
        finally:
            self._in_flight -= swaps
            self._changed.set()

    async def resize(self, ceiling: int) -> None:
        """Set the most swaps in flight, at least 1; returns when no more are."""
        self._size = replace(self._size, ceiling=ceiling)
        self._changed.set()
        await self._until(lambda: self._in_flight <= ceiling)

    async def _until(self, is_so: Callable[[], bool]) -> None:
        while not is_so():
            self._changed.clear()
            await self._changed.wait()

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
