"""Progress bars, shown on a terminal only. Without a terminal, the log of `run` has one line for each page."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from kube_rewrap.worker.records.report import BatchReport

_STEPS = 500


@contextmanager
def open_progress(total: int, stream: TextIO) -> Iterator[Callable[[BatchReport, int], None]]:
    """Yield a function to call with the campaign's report and the number of open batches; `total` objects = 100 %."""
    if not stream.isatty():
        yield lambda _report, _batches: None
        return

    columns = (
        TextColumn("rewrapping"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}/s"),
        TextColumn("eta"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[conflicts]} conflicts, {task.fields[quarantined]} in quarantine"),
    )
    with Progress(*columns, console=Console(file=stream), transient=False) as progress:
        task = progress.add_task("rewrap", total=total, rate=0, conflicts=0, quarantined=0)
        start: list[int] = []  # objects that earlier runs of a resumed campaign rewrote: no progress of this run

        def show(report: BatchReport, _batches: int) -> None:
            if not start:
                start.append(report.rewritten)
            done = min(total, report.rewritten - start[0])
            elapsed = progress.tasks[0].elapsed or 0.0
            progress.update(
                task,
                completed=done,
                rate=f"{done / elapsed:,.0f}" if elapsed else "0",
                conflicts=report.conflicts,
                quarantined=report.quarantined,
            )

        yield show


@contextmanager
def open_byte_progress(total: int, stream: TextIO) -> Iterator[Callable[[int], None]]:
    """Yield a function to call with the bytes that were read since the last call; `total` bytes = 100 %."""
    if not stream.isatty():
        yield lambda _bytes: None
        return

    columns = (
        TextColumn("reading"),
        BarColumn(),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TextColumn("eta"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=stream), transient=False) as progress:
        task = progress.add_task("read", total=total)
        held = 0

        def show(read: int) -> None:
            nonlocal held
            held += read
            # Some thousand pages a second are read.
            if held >= total // _STEPS:
                progress.advance(task, held)
                held = 0

        yield show
        progress.update(task, completed=total)
