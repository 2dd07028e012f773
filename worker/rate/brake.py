"""The brake: a stop signal that every loop checks before it begins the next object."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import TypeVar

from kube_rewrap.worker.background import cancel_all
from kube_rewrap.worker.errors import WorkerError

T = TypeVar("T")


class Brake:
    """Off until `pull` is called; keeps the first reason. Belongs to one event loop."""

    def __init__(self) -> None:
        self._reason: WorkerError | None = None
        self._pulled = asyncio.Event()

    @property
    def is_on(self) -> bool:
        """Whether the brake was pulled: no loop may begin another object."""
        return self._reason is not None

    def pull(self, reason: WorkerError) -> None:
        """Stop all loops before their next object; later reasons are ignored."""
        self._reason = self._reason or reason
        self._pulled.set()

    def check(self) -> None:
        """Raise the reason if the brake was pulled."""
        if self._reason is not None:
            raise self._reason

    async def unless_pulled(self, reading: Coroutine[object, object, T]) -> T:
        """Await a coroutine that only reads; cancel it and raise the reason when the brake is pulled first."""
        task = asyncio.create_task(reading)
        pulled = asyncio.create_task(self._pulled.wait())
        try:
            await asyncio.wait({task, pulled}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            self.check()
            return await task
        finally:
            await cancel_all(task, pulled)

    @asynccontextmanager
    async def below(self) -> AsyncIterator[Brake]:
        """Yield a second brake for the block. Pulling this one pulls the second, too; not the reverse."""
        lower = Brake()

        async def pass_on() -> None:
            await self._pulled.wait()
            lower.pull(self._reason or WorkerError("the brake was pulled"))

        passing = asyncio.create_task(pass_on(), name="brake")
        try:
            yield lower
        finally:
            await cancel_all(passing)
