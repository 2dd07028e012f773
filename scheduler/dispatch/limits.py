"""The limits of one `rewrap run` over its child processes: the ceilings of rates, and the window of swaps in flight.

The run keeps the buckets of all rates itself; its children ask it for tokens. So a rate holds over all of them at any
time, and all of it is left to those that still work.

The window is divided by the number of children at work. Each time that number changes, those whose part shrinks are
asked first, and each answers when no more of its swaps are in flight; only then do the others get theirs.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Protocol

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.engine import ceiling_named
from kube_rewrap.worker.rate.local import LocalPace

_MOST_PACES = 256


class Sharer(Protocol):
    """Works with a part of the window."""

    @property
    def window(self) -> int:
        """The most swaps that it may have in flight."""

    async def resize(self, window: int, sharers: int) -> None:
        """Set `window`, of one of so many sharers; returns when no more swaps are in flight, at once if it grows."""


class Limits:
    """See the module's docstring."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._paces: dict[str, LocalPace] = {}
        self._window = settings.pace.max_window
        self._jobs: Counter[Sharer] = Counter()
        self._dividing = asyncio.Lock()

    async def take(self, name: str, objects: int) -> None:
        """Wait until a child may use this many tokens of the ceiling of this name (`worker.parent`).

        Raises ValueError for more names than a configuration has plugins.
        """
        if name not in self._paces:
            if len(self._paces) > _MOST_PACES:
                raise ValueError("too many ceilings")
            self._paces[name] = LocalPace(ceiling_named(name, self._settings))
        await self._paces[name].take(objects)

    @asynccontextmanager
    async def shared(self, sharer: Sharer) -> AsyncIterator[None]:
        """Count a sharer as being at work while the block runs; several blocks of one count once."""
        await self._count(sharer, 1)
        try:
            yield
        finally:
            await self._count(sharer, -1)

    async def _count(self, sharer: Sharer, jobs: int) -> None:
        async with self._dividing:
            before = len(self._jobs)
            self._jobs[sharer] += jobs
            self._jobs += Counter()  # forgets those without jobs
            if len(self._jobs) != before:
                await self._divide()

    async def _divide(self) -> None:
        sharers = len(self._jobs)
        share = max(1, self._window // max(1, sharers))
        await asyncio.gather(*(one.resize(share, sharers) for one in self._jobs if one.window > share))
        await asyncio.gather(*(one.resize(share, sharers) for one in self._jobs if one.window < share))
