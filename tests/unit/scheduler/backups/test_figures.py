"""A scheduler follows the catalogue: its figures come, go while it can't be read, and come again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from kube_rewrap.scheduler.backups import figures
from kube_rewrap.scheduler.backups.catalogue import line_of
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from tests.unit.scheduler.backups.backups import backup


async def test_the_figures_follow_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_SECONDS", 0.01)
    registry, file = CollectorRegistry(), tmp_path / "catalogue"
    task = asyncio.create_task(figures.follow_catalogue(str(file), SchedulerMetrics(registry)))

    def readable() -> float | None:
        return registry.get_sample_value("kube_rewrap_backup_catalogue_readable")

    assert readable() is None

    async def until(is_so: Callable[[float | None], bool]) -> None:
        async with asyncio.timeout(10):
            while not is_so(registry.get_sample_value("kube_rewrap_backup_kept")):  # noqa: ASYNC110 - a file changes it
                await asyncio.sleep(0.01)

    await until(lambda kept: kept is None)
    async with asyncio.timeout(10):
        while readable() != 0:  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.01)
    file.write_bytes(line_of(backup(1)) + b"\n")
    await until(lambda kept: kept == 1)
    file.write_bytes(line_of(backup(1)) + b"\n" + line_of(backup(2)) + b"\n")
    await until(lambda kept: kept == 2)
    assert readable() == 1
    file.chmod(0o666)
    await until(lambda _: readable() == 0)
    file.chmod(0o600)
    await until(lambda _: readable() == 1)
    file.unlink()
    await until(lambda kept: kept is None)
    assert readable() == 0
    assert not task.done()
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
