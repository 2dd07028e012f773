"""Reads of the registry take turns in a process, and rest between them as `duty` says."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

from kube_rewrap.worker.errors import CompactedError
from kube_rewrap.worker.etcd.duty import DutyCycle

T = TypeVar("T")

_HURRY_SECONDS = 600.0
"""kube-apiserver compacts every five minutes: a scan that did not end in that time may have two of them to end in."""


class Turns:
    """See the module's docstring. For one event loop."""

    def __init__(self, duty: DutyCycle) -> None:
        self._duty = duty
        self._turn = asyncio.Lock()
        self._rested_at = 0.0
        self._hurries_until = 0.0

    def limit(self, objects: int) -> int:
        """Return how many objects a read should ask for where its caller asks for `objects`."""
        return self._duty.limit(objects)

    async def read(self, send: Callable[[], Awaitable[T]], sizes: Callable[[T], tuple[int, int]]) -> T:
        """Wait for the end of the rest, then read. `sizes` returns an answer's bytes, and the keys that etcd visited.

        After a CompactedError reads rest no more for `_HURRY_SECONDS`: the scan took too long. Raises as `send`.
        """
        if not self._duty.rests:
            return await send()
        loop = asyncio.get_running_loop()
        async with self._turn:
            await asyncio.sleep(max(0.0, self._rested_at - loop.time()))
            began = loop.time()
            try:
                answer = await send()
            except CompactedError:
                self._hurries_until = loop.time() + _HURRY_SECONDS
                raise
            finally:  # an answer that was too large took etcd as long
                ended = loop.time()
                if ended >= self._hurries_until:
                    self._rested_at = ended + self._duty.rest_after(ended - began)
            self._duty = self._duty.after_read(ended - began, *sizes(answer))
            return answer
