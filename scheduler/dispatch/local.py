"""Batches done by this process' own engine: the way `rewrap run` works, without Redis or Celery.

Also the scheduler's only door to the engine (`open_engine`).
"""

from __future__ import annotations

import asyncio

import structlog

from worker.engine import Engine, Examined, open_engine
from worker.errors import WorkerError
from worker.etcd.store import Expect
from worker.model.batch import BatchSpec
from worker.pace.brake import Brake

_log = structlog.get_logger()

__all__ = ["Engine", "Examined", "LocalDispatcher", "open_engine"]


class LocalDispatcher:
    """See Dispatcher. A bounded number of batches side by side, in named tasks."""

    def __init__(self, engine: Engine, guard: Expect, brake: Brake, room: int, *, allow_plaintext: bool) -> None:
        self._engine = engine
        self._guard = guard
        self._allow_plaintext = allow_plaintext
        self._brake = brake
        self._room = room
        self._tasks: dict[int, asyncio.Task[object]] = {}

    def offer(self, batch: BatchSpec) -> bool:
        """See Dispatcher."""
        if batch.number in self._tasks or len(self._tasks) >= self._room or self._brake.is_on:
            return False
        work = self._engine.run(batch, self._guard, self._brake, allow_plaintext=self._allow_plaintext)
        self._tasks[batch.number] = asyncio.create_task(work, name=f"batch-{batch.number}")
        return True

    async def wait(self, seconds: float) -> None:
        """See Dispatcher. When a batch fails, the others are stopped after their swaps in flight."""
        if not self._tasks:
            self._brake.check()
            return
        done, _ = await asyncio.wait(self._tasks.values(), timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        self._tasks = {number: task for number, task in self._tasks.items() if task not in done}
        for task in done:
            failure = task.exception()
            if isinstance(failure, WorkerError):
                self._brake.pull(failure)
            elif failure is not None:
                raise failure
        if self._brake.is_on:
            await self.close()
            self._brake.check()

    async def close(self) -> None:
        """Wait until the batches at work have stopped by themselves; the brake must be on, or they are at their end."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        try:
            await self._engine.ledger.settle()
        except WorkerError as error:
            _log.warning("ledger.not_settled", because=str(error))
