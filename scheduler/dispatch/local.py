"""Dispatches batches to this process' own engine, as `rewrap run` does, without Redis or Celery."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Protocol

from kube_rewrap.scheduler.engine import Job
from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.batch import BatchSpec


class Worker(Protocol):
    """Does jobs of one campaign for a LocalDispatcher, several at a time."""

    async def do(self, job: Job, number: int) -> None:
        """Do a job under a claim; return without work if another process holds that. Raises what stopped the work."""

    async def stop(self) -> None:
        """End the work; the brake is on, or all jobs are done. Called while `do` is at work, too."""


class LocalDispatcher:
    """See Dispatcher and Scanners. Each of `workers` gets at most `room` jobs at a time, in named tasks."""

    def __init__(self, workers: Sequence[Worker], brake: Brake, room: int) -> None:
        self._brake = brake
        self._room = room
        self._tasks: dict[int, asyncio.Task[object]] = {}
        self._taken: dict[Worker, int] = dict.fromkeys(workers, 0)

    async def offer(self, batches: Sequence[BatchSpec], claimed: frozenset[int]) -> None:
        """See Dispatcher."""
        self._offer(Job.REWRAP, [batch.number for batch in batches], claimed)

    async def offer_proof(self, _campaign: str, numbers: Sequence[int], claimed: frozenset[int]) -> None:
        """See Scanners. The campaign is that of the workers."""
        self._offer(Job.PROVE, numbers, claimed)

    def _offer(self, job: Job, numbers: Sequence[int], claimed: frozenset[int]) -> None:
        # All batches have ended when the first part is offered, so that a number names one task.
        for number in numbers:
            worker = min(self._taken, key=self._taken.__getitem__)
            if self._taken[worker] >= self._room or self._brake.is_on:
                return
            if number not in self._tasks and number not in claimed:
                self._taken[worker] += 1
                self._tasks[number] = asyncio.create_task(self._work(worker, job, number), name=f"{job}-{number}")

    async def _work(self, worker: Worker, job: Job, number: int) -> None:
        try:
            await worker.do(job, number)
        finally:
            self._taken[worker] -= 1

    async def wait(self, seconds: float) -> None:
        """See Dispatcher. When a job fails, the others stop after their swaps in flight, and its error is raised."""
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
        """Stop the workers, and wait until all jobs have ended. The brake must be on, or all jobs done."""
        await asyncio.gather(*(worker.stop() for worker in self._taken))
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
