"""The brake: one place that every loop asks before it takes up the next object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

from kube_rewrap.worker.errors import WorkerError

T = TypeVar("T")


class Brake:
    """Off until somebody pulls it; the first reason stays. Belongs to one event loop."""

    def __init__(self) -> None:
        self._reason: WorkerError | None = None
        self._pulled = asyncio.Event()

    @property
    def is_on(self) -> bool:
        """Whether no further object may be begun."""
        return self._reason is not None

    def pull(self, reason: WorkerError) -> None:
        """Stop before the next object."""
        self._reason = self._reason or reason
        self._pulled.set()

    def check(self) -> None:
        """Raise the reason for which it was pulled."""
        if self._reason is not None:
            raise self._reason

    async def unless_pulled(self, reading: Coroutine[object, object, T]) -> T:
        """Await something that only reads; give it up, and raise the reason, when the brake is pulled."""
        task = asyncio.create_task(reading)
        pulled = asyncio.create_task(self._pulled.wait())
        try:
            await asyncio.wait({task, pulled}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            self.check()
            return await task
        finally:
            task.cancel()
            pulled.cancel()
            await asyncio.gather(task, pulled, return_exceptions=True)

    @asynccontextmanager
    async def below(self) -> AsyncIterator[Brake]:
        """Yield a brake that is pulled with this one while the block runs, and can be pulled without it."""
        lower = Brake()

        async def pass_on() -> None:
            await self._pulled.wait()
            lower.pull(self._reason or WorkerError("the brake was pulled"))

        passing = asyncio.create_task(pass_on(), name="brake")
        try:
            yield lower
        finally:
            passing.cancel()
            await asyncio.gather(passing, return_exceptions=True)
