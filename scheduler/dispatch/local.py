"""Dispatches batches to this process' own engine, as `rewrap run` does, without Redis or Celery.

Also the scheduler's only import of the engine (`open_engine`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import structlog

from kube_rewrap.worker.engine import Engine, Examined, ask_key_ids, ask_why_away, describe, open_engine
from kube_rewrap.worker.errors import BusyError, KmsSourceError, WorkerError
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.batch import BatchSpec
from kube_rewrap.worker.records.campaign import Campaign
from kube_rewrap.worker.records.ownership import Session, who

_log = structlog.get_logger()

__all__ = ["Engine", "Examined", "LocalDispatcher", "ask_key_ids", "ask_why_away", "describe", "open_engine"]


class LocalDispatcher:
    """See Dispatcher. Works on at most `room` batches at a time, in named tasks, each under its own claim."""

    def __init__(self, engine: Engine, session: Session, brake: Brake, room: int, campaign: Campaign) -> None:
        self._engine = engine
        self._session = session
        self._campaign = campaign
        self._brake = brake
        self._room = room
        self._tasks: dict[int, asyncio.Task[object]] = {}

    async def offer(self, batches: Sequence[BatchSpec], owned: frozenset[int]) -> None:
        """See Dispatcher."""
        for batch in batches:
            if len(self._tasks) >= self._room or self._brake.is_on:
                return
            if batch.number not in self._tasks and batch.number not in owned:
                self._tasks[batch.number] = asyncio.create_task(self._work(batch), name=f"batch-{batch.number}")

    async def _work(self, batch: BatchSpec) -> None:
        """Claim a batch and rewrap it; return without work if another process holds the claim."""
        key = self._engine.keyspace.claim(batch.campaign, batch.number)
        try:
            claim = await self._session.hold(key, who("rewrap run"))
        except BusyError as busy:
            _log.info("batch.busy", **batch.log_context(), because=str(busy))
            return
        options, growth = self._campaign.options, self._campaign.growth
        may_decrypt, kek_since = options.allow_plaintext, options.since
        while True:
            try:
                await self._engine.run(
                    batch, claim, self._brake, allow_plaintext=may_decrypt, growth=growth, kek_since=kek_since
                )
                break
            except KmsSourceError as error:
                # In the service, the batch is sent again; the engine remembers the key in either case.
                _log.warning("batch.failed", **batch.log_context(), because=str(error), stalled=0)
                await self._brake.unless_pulled(asyncio.sleep(error.delay))
        await self._session.release(claim)

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
        """Wait until all batches have ended, and settle the ledger. The brake must be on, or all batches done."""
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        self._tasks.clear()
        try:
            await self._engine.ledger.settle()
        except WorkerError as error:
            _log.warning("ledger.not_settled", because=str(error))
