"""Dispatches batches to this process' own engine, as `rewrap run` does, without Redis or Celery.

Also the scheduler's only import of the engine (`open_engine`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from kube_rewrap.worker.claimed import run_claimed, settle
from kube_rewrap.worker.engine import Engine, Examined, ask_key_ids, ask_why_away, describe, open_engine
from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.batch import BatchSpec
from kube_rewrap.worker.records.campaign import Campaign
from kube_rewrap.worker.records.ownership import Session

__all__ = [
    "BatchWorker",
    "Engine",
    "EngineWorker",
    "Examined",
    "LocalDispatcher",
    "ask_key_ids",
    "ask_why_away",
    "describe",
    "open_engine",
    "settle",
]


class BatchWorker(Protocol):
    """Rewraps batches for a LocalDispatcher, several at a time."""

    async def run(self, batch: BatchSpec) -> None:
        """Claim a batch and rewrap it; return without work if another process holds the claim.

        Raises the error that stopped the batch.
        """

    async def stop(self) -> None:
        """End the work; the brake is on, or all batches are done. Called before the last `run` returns."""


class EngineWorker:
    """See BatchWorker. Works with the engine of this process."""

    def __init__(self, engine: Engine, session: Session, brake: Brake, campaign: Campaign) -> None:
        self._engine = engine
        self._session = session
        self._brake = brake
        self._campaign = campaign

    async def run(self, batch: BatchSpec) -> None:
        """See BatchWorker."""
        await run_claimed(self._engine, self._session, self._brake, self._campaign, batch)

    async def stop(self) -> None:
        """See BatchWorker. The brake stops the batches."""


class LocalDispatcher:
    """See Dispatcher. Each of `workers` gets at most `room` batches at a time, in named tasks."""

    def __init__(self, workers: Sequence[BatchWorker], brake: Brake, room: int) -> None:
        self._brake = brake
        self._room = room
        self._tasks: dict[int, asyncio.Task[object]] = {}
        self._taken: dict[BatchWorker, int] = dict.fromkeys(workers, 0)

    async def offer(self, batches: Sequence[BatchSpec], owned: frozenset[int]) -> None:
        """See Dispatcher."""
        for batch in batches:
            worker = min(self._taken, key=self._taken.__getitem__)
            if self._taken[worker] >= self._room or self._brake.is_on:
                return
            if batch.number not in self._tasks and batch.number not in owned:
                self._taken[worker] += 1
                self._tasks[batch.number] = asyncio.create_task(self._work(worker, batch), name=f"batch-{batch.number}")

    async def _work(self, worker: BatchWorker, batch: BatchSpec) -> None:
        try:
            await worker.run(batch)
        finally:
            self._taken[worker] -= 1

    async def wait(self, seconds: float) -> None:
        """See Dispatcher. When a batch fails, the others stop after their swaps in flight, and its error is raised."""
        if not self._tasks:
            self._brake.check()
            await asyncio.sleep(seconds)
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
        """Stop the workers, and wait until all batches have ended. The brake must be on, or all batches done."""
        await asyncio.gather(*(worker.stop() for worker in self._taken))
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
