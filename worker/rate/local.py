"""The rate ceiling of one process."""

from __future__ import annotations

import asyncio
import sys
from typing import Protocol

from kube_rewrap.worker.rate.gcra import Bucket


class Pace(Protocol):
    """Limits how fast a caller may write objects."""

    @property
    def most(self) -> int:
        """Most objects that one `take` should ask for."""

    async def take(self, objects: int) -> None:
        """Wait until the caller may write this many more objects."""


class LocalPace:
    """A ceiling in objects a second for this process; 0 = no ceiling."""

    def __init__(self, rate: float) -> None:
        self._bucket = Bucket(rate) if rate else None

    @property
    def most(self) -> int:
        """See Pace. A twentieth of a second's worth, at least 1, so that a control plane sees no bursts."""
        return sys.maxsize if self._bucket is None else max(1, int(self._bucket.rate / 20))

    async def take(self, objects: int) -> None:
        """See Pace. The wait is at most the objects that all batches may have asked for at once, over the rate."""
        if self._bucket is None:
            return
        self._bucket, wait = self._bucket.take(objects, asyncio.get_running_loop().time())
        if wait > 0:
            await asyncio.sleep(wait)
