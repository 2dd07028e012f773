"""Tasks beside a block of code: named, ended with the block, and never failing in silence."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager

from kube_rewrap.worker.errors import WorkerError

Work = Callable[[], Coroutine[object, object, object]]
"""Makes the coroutine when the task starts: one that is cancelled before makes none."""

Begin = Callable[[str, Work], Callable[[], object]]
"""Begins a task under a name, and returns what cancels it before the block ends."""


@asynccontextmanager
async def background(fail: Callable[[WorkerError], None]) -> AsyncIterator[Begin]:
    """Yield what begins tasks beside the block; they are cancelled, and waited for, when the block ends.

    `fail`, mostly the `pull` of a brake, is called when a task fails. An error that is no WorkerError is given as one
    that names the task and the kind of error.
    """
    tasks: list[asyncio.Task[None]] = []

    async def guarded(name: str, work: Work) -> None:
        try:
            await work()
        except WorkerError as error:
            fail(error)
        except Exception as error:  # noqa: BLE001 - the top of a task: it ends what it belongs to
            fail(WorkerError(f"{name} failed: {type(error).__name__}"))

    def begin(name: str, work: Work) -> Callable[[], object]:
        task = asyncio.create_task(guarded(name, work), name=name)
        tasks.append(task)
        return task.cancel

    try:
        yield begin
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def uninterrupted(work: Coroutine[object, object, None]) -> None:
    """Await work that must not stop halfway: a cancellation waits until it has ended."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        raise
