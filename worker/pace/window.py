"""The window in which swaps are in flight, adapting itself to etcd's latency."""

from __future__ import annotations

import asyncio
from collections import deque

from worker.pace.pressure import WindowSize


class Window:
    """A semaphore whose size follows `WindowSize`. Not for several event loops."""

    def __init__(self, size: WindowSize) -> None:
        self._size = size
        self._in_flight = 0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._latencies = 0.0
        self._finished = 0
        self._was_full = False

    @property
    def limit(self) -> int:
        """How many may be in flight now."""
        return int(self._size.limit)

    async def enter(self) -> float:
        """Wait for a place; returns the loop's time at which it was taken."""
        loop = asyncio.get_running_loop()
        while self._in_flight >= self.limit:
            self._was_full = True
            turn: asyncio.Future[None] = loop.create_future()
            self._waiting.append(turn)
            await turn
        self._in_flight += 1
        return loop.time()

    def leave(self, entered: float) -> None:
        """Give the place back; the time between counts as latency."""
        self._in_flight -= 1
        self._latencies += asyncio.get_running_loop().time() - entered
        self._finished += 1
        if self._finished >= self.limit:
            self._size = self._size.after_round(self._latencies / self._finished, was_full=self._was_full)
            self._latencies, self._finished, self._was_full = 0.0, 0, False
        self._wake()

    def _wake(self) -> None:
        free = self.limit - self._in_flight
        while self._waiting and free > 0:
            turn = self._waiting.popleft()
            if not turn.done():
                turn.set_result(None)
                free -= 1
