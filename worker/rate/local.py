"""The rate ceiling inside one process."""

from __future__ import annotations

import asyncio
import sys
from typing import Protocol

from kube_rewrap.worker.rate.gcra import Bucket


class Pace(Protocol):
    """Something that says when the next object may be written."""

    @property
    def most(self) -> int:
        """How many objects may be asked for at once."""

    async def take(self, objects: int) -> None:
        """Wait until so many more objects may be written."""


class LocalPace:
    """A ceiling in objects a second for this process; 0 = no ceiling."""

    def __init__(self, rate: float) -> None:
        self._bucket = Bucket(rate) if rate else None

    @property
    def most(self) -> int:
        """See Pace. A twentieth of a second's worth: a control plane shall not feel bursts."""
        return sys.maxsize if self._bucket is None else max(1, int(self._bucket.rate / 20))

    async def take(self, objects: int) -> None:
        """See Pace. A wait is no longer than what all batches together may ask for at once, over the rate."""
        if self._bucket is None:
            return
        self._bucket, wait = self._bucket.take(objects, asyncio.get_running_loop().time())
        if wait > 0:
            await asyncio.sleep(wait)
