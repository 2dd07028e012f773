"""What the metrics of a scheduler show of the catalogue."""

from __future__ import annotations

import asyncio
import time

import structlog

from kube_rewrap.config.errors import SourceError
from kube_rewrap.scheduler.backups.catalogue import Catalogue, newest
from kube_rewrap.scheduler.backups.catalogue_file import read_catalogue
from kube_rewrap.scheduler.metrics import BackupFigures, SchedulerMetrics

_SECONDS = 60.0

_log = structlog.get_logger()


async def follow_catalogue(path: str, metrics: SchedulerMetrics) -> None:
    """Show the catalogue's figures, read every minute, until cancelled; none while it can't be read."""
    failed = ""
    while True:
        try:
            catalogue = await asyncio.to_thread(read_catalogue, path)
        except SourceError as error:
            metrics.backups(None)
            because = str(error)
        else:
            metrics.backups(figures_of(catalogue, time.time()))
            because = f"another user could have written it: {catalogue.distrust}" if catalogue.distrust else ""
        if because and because != failed:
            _log.warning("catalogue.unreadable", file=path, because=because)
        failed = because
        await asyncio.sleep(_SECONDS)


def figures_of(catalogue: Catalogue, now: float) -> BackupFigures:
    """Return the figures at a time in seconds since 1970."""
    kept = catalogue.kept(now)
    proven = newest(one for one in kept if one.readable)
    return BackupFigures(
        newest_proven_at=0.0 if proven is None else proven.made_at,
        kept=len(kept),
        not_readable=sum(not one.readable for one in kept),
        damaged_lines=len(catalogue.damaged),
        distrusted=bool(catalogue.distrust),
    )
