"""The rate ceiling inside one process."""

from __future__ import annotations

import asyncio
from typing import Protocol

from worker.pace.bucket import Bucket


class Pace(Protocol):
    """Something that says when the next object may be written."""

    async def take(self) -> None:
        """Wait until one more object may be written."""


class LocalPace:
    """A ceiling in objects a second for this process; 0 = no ceiling."""

    def __init__(self, rate: float) -> None:
        self._bucket = Bucket(rate) if rate else None

    async def take(self) -> None:
        """See Pace. Waits are bounded by the number of swaps in flight over the rate."""
        if self._bucket is None:
            return
        self._bucket, wait = self._bucket.take(1, asyncio.get_running_loop().time())
        if wait > 0:
            await asyncio.sleep(wait)
