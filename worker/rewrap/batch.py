"""The batch loop: pages are read ahead while swaps are in flight, and each ends with a checkpoint.

What is on record after every page: its quarantined objects first, then the cursor behind it. A
crash at any point redoes at most one page, and redoing is harmless: what was rewritten is found
current and is left alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing
from dataclasses import dataclass, field, replace

import structlog

from config.settings import PageSettings
from worker.errors import FencedError, WorkerError
from worker.etcd.pages import read_pages
from worker.etcd.store import Item, Page, Store
from worker.model.batch import BatchSpec, BatchState
from worker.model.keys import after
from worker.model.outcome import BatchReport
from worker.pace.brake import Brake
from worker.pace.window import Window
from worker.rewrap.swap import Swapper
from worker.state.checkpoints import Checkpoints, StoredCheckpoint
from worker.state.ledger import Ledger
from worker.state.quarantine import Quarantine, Quarantined

_log = structlog.get_logger()


@dataclass(slots=True)
class _PageWork:
    """One page while it is worked on. Objects are begun in key order, so those begun are a prefix."""

    rest: Iterator[Item]
    left: int
    report: BatchReport = field(default_factory=BatchReport)
    quarantined: list[Quarantined] = field(default_factory=list)
    failure: WorkerError | None = None
    begun: Item | None = None


@dataclass(frozen=True, slots=True)
class BatchTools:
    """What a batch works with."""

    store: Store
    swapper: Swapper
    ledger: Ledger
    checkpoints: Checkpoints
    quarantine: Quarantine
    window: Window
    brake: Brake
    page: PageSettings


async def run_batch(spec: BatchSpec, tools: BatchTools) -> BatchReport:
    """Bring every object of the range to its end, from the last checkpoint on.

    Returns the report of the whole batch, earlier attempts included. When the brake is pulled, what
    was begun is finished and recorded, and the brake's reason is raised. Raises FencedError when the
    batch is somebody else's by now.
    """
    stored = await _take_up(spec, tools)
    if stored.checkpoint.state is BatchState.DONE:
        return stored.checkpoint.report
    async with aclosing(read_pages(tools.store, stored.checkpoint.rest, tools.page)) as pages:
        async for page in pages:
            stored = await _run_page(page, stored, tools)
            tools.brake.check()
    tools.brake.check()
    done = replace(stored.checkpoint, state=BatchState.DONE, cursor=spec.range.end)
    await tools.ledger.settle()
    await tools.checkpoints.save(done, stored.revision)
    _log.info("batch.finished", **spec.log_context(), **done.report.to_json(), attempts=done.attempts)
    return done.report


async def _take_up(spec: BatchSpec, tools: BatchTools) -> StoredCheckpoint:
    """Count the attempt on record. Raises FencedError when the record is about other work."""
    stored = await tools.checkpoints.load(spec.campaign, spec.number)
    if stored.checkpoint.spec != spec:
        raise FencedError(f"batch {spec.number} of {spec.campaign} is not the one on record; it was planned anew")
    if stored.checkpoint.state is BatchState.DONE:
        return stored
    begun = replace(stored.checkpoint, state=BatchState.RUNNING, attempts=stored.checkpoint.attempts + 1)
    return StoredCheckpoint(begun, await tools.checkpoints.save(begun, stored.revision))


async def _run_page(page: Page, stored: StoredCheckpoint, tools: BatchTools) -> StoredCheckpoint:
    """Work through one page and record how far it came; raises what stopped it, after recording."""
    work = _PageWork(iter(page.items), len(page.items))
    workers = min(max(1, tools.window.limit), len(page.items))
    async with asyncio.TaskGroup() as group:
        for _ in range(workers):
            group.create_task(_work(work, tools))
    if work.failure is not None:
        raise work.failure
    if work.begun is None:
        return stored
    await tools.quarantine.add(work.quarantined)
    checkpoint = stored.checkpoint.advanced(after(work.begun.key), work.report)
    revision = await tools.checkpoints.save(checkpoint, stored.revision)
    _log.info(
        "batch.page",
        **checkpoint.spec.log_context(),
        **work.report.to_json(),
        window=tools.window.limit,
        revision=revision,
    )
    return StoredCheckpoint(checkpoint, revision)


async def _work(work: _PageWork, tools: BatchTools) -> None:
    """Take objects off the page until it is empty, the brake is pulled, or something failed.

    A failure lets the others finish what they have in flight: cancelling a swap would leave its
    outcome unknown for nothing.
    """
    while work.failure is None and not tools.brake.is_on:
        item = next(work.rest, None)
        if item is None:
            return
        work.begun = item
        work.left -= 1
        try:
            end = await tools.swapper.settle(item, work.left + 1)
        except WorkerError as error:
            work.failure = error  # any of several will do: the batch stops, and each left its object intact
            return
        work.report += end.report
        if end.quarantined is not None:
            work.quarantined.append(end.quarantined)
