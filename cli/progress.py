"""The progress bar of `run`, shown on a terminal only. Without a terminal, the log has one line for each page."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column

from kube_rewrap.scheduler.campaigns.progress import Standing, Watcher
from kube_rewrap.worker.records.campaign import Campaign, CampaignState

_WIDE = 90
"""Columns of a terminal that has room for the counts of conflicts and of the quarantine, should they be 0."""


@contextmanager
def open_progress(total: int, stream: TextIO) -> Iterator[Watcher]:
    """Yield a function to call with the campaign and its standing; `total` objects to rewrite = 100 %."""
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
        task = progress.add_task("rewrapping", total=total, rate="", left_alone="")
        start: list[int] = []  # objects that earlier runs of a resumed campaign rewrote: no progress of this run

        def show(campaign: Campaign, standing: Standing) -> None:
            report = standing.report
            if not start:
                start.append(report.rewritten)
            done = min(total, report.rewritten - start[0])
            elapsed = progress.tasks[0].elapsed or 0.0
            counts = ((report.conflicts, "conflicts"), (report.quarantined, "in quarantine"))
            is_wide = progress.console.width >= _WIDE
            progress.update(
                task,
                description="proving" if campaign.state is CampaignState.PROVING else "rewrapping",
                # Objects that other clients wrote or deleted meanwhile were never rewritten.
                completed=done if standing.batches_left else total,
                rate=f"{done / elapsed:,.0f}/s" if elapsed else "",
                left_alone=", ".join(f"{count:,} {name}" for count, name in counts if count or is_wide),
            )

        yield show
