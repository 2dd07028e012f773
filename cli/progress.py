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
from rich.table import Column

from kube_rewrap.scheduler.campaigns.progress import Watcher
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.standing import Standing

_WIDE = 90
"""Columns of a terminal that has room for the counts of conflicts and of the quarantine, should they be 0."""

_DESCRIPTIONS = {CampaignState.PROVING: "proving", CampaignState.PAUSED: "paused"}

_STEPS = 500


@contextmanager
def open_progress(total: int | None, stream: TextIO) -> Iterator[Watcher]:
    """Yield a function to call with the campaign and its standing, which moves the bar.

    100 % are the `total` objects that this run is to rewrite; None: all objects that the campaign processes.
    """
    if not stream.isatty():
        yield lambda _campaign, _standing: None
        return

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=None),  # takes the room that the others leave
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[left_alone]}"),
    )
    with Progress(*columns, console=Console(file=stream), transient=False, expand=True) as progress:
        task = progress.add_task("rewrapping", start=False, visible=False, total=total, rate="", left_alone="")
        start: list[int] = []  # objects of earlier runs of a resumed campaign: no progress of this run

        def show(campaign: Campaign, standing: Standing) -> None:
            report = standing.report
            count = standing.done if total is None else report.rewritten
            if not start:
                start.append(count)
                progress.start_task(task)
            elapsed = progress.tasks[0].elapsed or 0.0
            pace = max(0, count - start[0]) / elapsed if elapsed else 0.0
            whole, done = (standing.total, count) if total is None else (total, min(total, count - start[0]))
            counts = ((report.conflicts, "conflicts"), (report.quarantined, "in quarantine"))
            is_wide = progress.console.width >= _WIDE
            progress.update(
                task,
                visible=True,
                description=_DESCRIPTIONS.get(campaign.state, "rewrapping"),
                total=whole or None,  # None: the bar moves to and fro, as in the proof of a campaign without batches
                # Objects that other clients wrote or deleted meanwhile were never rewritten.
                completed=done if standing.batches_left else whole,
                rate=f"{pace:,.0f}/s",
                left_alone=", ".join(f"{count:,} {name}" for count, name in counts if count or is_wide),
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
