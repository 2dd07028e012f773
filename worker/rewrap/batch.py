"""The batch loop: it reads pages ahead while swaps are in flight, and writes a checkpoint after each page.

Under a low rate a page takes long, and has a checkpoint every second: progress is what is on record. A checkpoint
records quarantined objects first, then the cursor after them. A crash at any point redoes at most one page, which is
harmless: objects that were rewritten are found current, and stay as they are.
"""

from __future__ import annotations

import time
from collections import Counter
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
from kube_rewrap.worker.records.checkpoints import BatchRecord
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.rewrap.swap import Swapper

_CHECKPOINT_SECONDS = 1.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class BatchTools:
    """The store, records and limits that one batch works with."""

    store: Store
    swapper: Swapper
    ledger: Ledger
    record: BatchRecord
    quarantine: QuarantineRecords
    window: Window
    brake: Brake
    sizer: PageSizer


async def run_batch(spec: BatchSpec, tools: BatchTools) -> BatchReport:
    """Rewrap every object of the range from the last checkpoint on, and mark the batch done.

    Returns the report of the whole batch, earlier attempts included. When the brake is pulled, finishes and records
    the groups in flight, then raises the brake's reason. Raises FencedError when this worker lost the claim on the
    batch, QuarantineGrewError when the batch met more new values that no key opens than a day allows.
    """
    checkpoint = await _begin_attempt(spec, tools)
    if checkpoint.state is BatchState.DONE:
        return checkpoint.report
    with tools.window.shared():
        async with aclosing(read_pages(tools.store, checkpoint.rest, tools.sizer)) as pages:
            async for page in pages:
                checkpoint = await _run_page(page, checkpoint, tools)
                tools.brake.check()
    tools.brake.check()
    done = replace(checkpoint, state=BatchState.DONE, cursor=spec.range.end)
    await tools.ledger.settle()
    await tools.record.save(done)
    _log.info("batch.finished", **spec.log_context(), **done.report.to_json(), attempts=done.attempts)
    return done.report


async def _begin_attempt(spec: BatchSpec, tools: BatchTools) -> Checkpoint:
    """Record one more attempt, unless the batch is done.

    Raises FencedError when the record is of another plan, or of a later sweep.
    """
    known = await tools.record.load()
    before = known.spec
    # Not the generation: the campaign may have been moved to a file with the same meaning and another hash.
    if replace(before, sweep=spec.sweep, generation=spec.generation) != spec or before.sweep > spec.sweep:
        raise FencedError(f"batch {spec.number} of {spec.campaign} differs from its record, which a later plan wrote")
    if known.state is BatchState.DONE and before.sweep == spec.sweep:
        return known
    begun = known.begun(spec, time.time())
    await tools.record.save(begun)
    return begun


async def _run_page(page: Page, checkpoint: Checkpoint, tools: BatchTools) -> Checkpoint:
    """Rewrap one page, group by group, and record the outcome of the finished groups.

    When a group fails, the groups since the last checkpoint are not recorded: the next attempt reads them again, and
    finds rewritten objects current. When the brake is pulled, or a group raises QuarantineGrewError, the groups
    finished before are recorded.
    """
    report, quarantined, done = BatchReport(), list[QuarantinedObject](), 0
    refused: QuarantineGrewError | None = None
    before, revision = checkpoint.report, 0
    due = time.monotonic() + _CHECKPOINT_SECONDS / 2  # progress shows within the first second
    while done < len(page.items) and not tools.brake.is_on:
        group, tally = page.items[done : done + tools.swapper.group_size], Counter[str]()
        try:
            ahead = len(page.items) - done + page.left
            quarantined += await tools.swapper.rewrap_group(group, ahead, tally)
        except QuarantineGrewError as error:
            refused = error
            break
        report += BatchReport.of(tally)
        done += len(group)
        if done < len(page.items) and time.monotonic() >= due:
            checkpoint, revision = await _record(group[-1].key, report, quarantined, checkpoint, tools)
            report, quarantined, due = BatchReport(), [], time.monotonic() + _CHECKPOINT_SECONDS
    if report.objects:
        checkpoint, revision = await _record(page.items[done - 1].key, report, quarantined, checkpoint, tools)
    if done:
        counts, window = checkpoint.report.since(before).to_json(), tools.window.limit
        _log.info("batch.page", **checkpoint.spec.log_context(), **counts, window=window, revision=revision)
    if refused is not None:
        raise refused
    return checkpoint


async def _record(
    last: bytes,
    report: BatchReport,
    quarantined: Sequence[QuarantinedObject],
    checkpoint: Checkpoint,
    tools: BatchTools,
) -> tuple[Checkpoint, int]:
    """Record the outcome of the objects up to the etcd key `last`: quarantine first, then the checkpoint.

    Returns the checkpoint and its revision.
    """
    await tools.quarantine.add(quarantined)
    advanced = checkpoint.advanced(after(last), report, [one.reason for one in quarantined])
    return advanced, await tools.record.save(advanced)
