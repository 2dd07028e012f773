"""The batch loop: pages are read ahead while swaps are in flight, and each ends with a checkpoint.

What is on record after every page: its quarantined objects first, then the cursor behind it. A
crash at any point redoes at most one page, and redoing is harmless: what was rewritten is found
current and is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog

from kube_rewrap.worker.errors import FencedError, QuarantineGrewError
from kube_rewrap.worker.etcd.pages import PageSizer, read_pages
from kube_rewrap.worker.etcd.ranges import after
from kube_rewrap.worker.etcd.store import Page, Store
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.window import Window
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.quarantine import Quarantine
from kube_rewrap.worker.records.quarantined import Quarantined
from kube_rewrap.worker.records.report import BatchReport, Tally
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.rewrap.swap import Swapper

_log = structlog.get_logger()


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
    sizer: PageSizer


async def run_batch(spec: BatchSpec, tools: BatchTools) -> BatchReport:
    """Bring every object of the range to its end, from the last checkpoint on.

    Returns the report of the whole batch, earlier attempts included. When the brake is pulled, what
    was begun is finished and recorded, and the brake's reason is raised. Raises FencedError when the
    batch is somebody else's by now, QuarantineGrewError when there were too many tries.
    """
    stored = await _take_up(spec, tools)
    if stored.value.state is BatchState.DONE:
        return stored.value.report
    with tools.window.shared():
        async with aclosing(read_pages(tools.store, stored.value.rest, tools.sizer)) as pages:
            async for page in pages:
                stored = await _run_page(page, stored, tools)
                tools.brake.check()
    tools.brake.check()
    done = stored.holding(replace(stored.value, state=BatchState.DONE, cursor=spec.range.end))
    await tools.ledger.settle()
    await tools.checkpoints.save(done)
    _log.info("batch.finished", **spec.log_context(), **done.value.report.to_json(), attempts=done.value.attempts)
    return done.value.report


async def _take_up(spec: BatchSpec, tools: BatchTools) -> Stored[Checkpoint]:
    """Count the attempt on record. Raises FencedError when the record is about other, or later, work."""
    stored = await tools.checkpoints.load(spec.campaign, spec.number)
    before = stored.value.spec
    # Not its generation: the campaign's record names that, and may have come to a file of the same meaning since.
    if replace(before, sweep=spec.sweep, generation=spec.generation) != spec or before.sweep > spec.sweep:
        raise FencedError(f"batch {spec.number} of {spec.campaign} is not the one on record; it was planned anew")
    if stored.value.state is BatchState.DONE and before.sweep == spec.sweep:
        return stored
    return await tools.checkpoints.save(stored.holding(stored.value.begun(spec, time.time())))


async def _run_page(page: Page, stored: Stored[Checkpoint], tools: BatchTools) -> Stored[Checkpoint]:
    """Work through one page, group by group, and record how far it came.

    When a group fails, nothing of the page is recorded: it is read again, and what was rewritten is
    found current. When the brake is pulled, or a group has too many tries, the groups that are finished are recorded.
    """
    report, quarantined, done = BatchReport(), list[Quarantined](), 0
    refused: QuarantineGrewError | None = None
    while done < len(page.items) and not tools.brake.is_on:
        group, tally = page.items[done : done + tools.swapper.group_size], Tally()
        try:
            quarantined += await tools.swapper.settle(group, len(page.items) - done, tally)
        except QuarantineGrewError as error:
            refused = error
            break
        report += tally.report()
        done += len(group)
    if done:
        stored = await _record(page.items[done - 1].key, report, quarantined, stored, tools)
    if refused is not None:
        raise refused
    return stored


async def _record(
    last: bytes, report: BatchReport, quarantined: Sequence[Quarantined], stored: Stored[Checkpoint], tools: BatchTools
) -> Stored[Checkpoint]:
    """Record what became of the objects up to the etcd key `last`, those in quarantine first."""
    await tools.quarantine.add(quarantined)
    reasons = [one.reason for one in quarantined]
    checkpoint = stored.value.advanced(after(last), report, reasons)
    saved = await tools.checkpoints.save(stored.holding(checkpoint))
    _log.info(
        "batch.page",
        **checkpoint.spec.log_context(),
        **report.to_json(),
        window=tools.window.limit,
        revision=saved.revision,
    )
    return saved
