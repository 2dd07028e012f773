"""Does the parts of a command in child processes, which share nothing but counters of their progress."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from ctypes import Array, c_uint64
from functools import partial
from typing import TypeVar

from kube_rewrap.worker.coredump import forbid_core_dumps
from kube_rewrap.worker.errors import StoppedError, WorkerError

T = TypeVar("T")

Progress = Callable[[int], None]
"""Called with the units of work that were done since the last call."""
Task = Callable[[int, Progress], T]
"""Does the part of a number. It and its result are pickled."""

_POLL_SECONDS = 0.2
_counters: Array[c_uint64] = (c_uint64 * 0)()
"""In a child: the progress of each part, and whether the parent has stopped, as the last item."""


def do_side_by_side(task: Task[T], parts: int, processes: int, progress: Progress) -> list[T]:
    """Return the result of each part, in order. Raises the first error of a part, and stops the others.

    Raises WorkerError if a child process died.
    """
    context = multiprocessing.get_context("spawn")
    counters = context.RawArray(c_uint64, parts + 1)
    with ProcessPoolExecutor(processes, context, partial(_begin, counters)) as pool:
        try:
            futures = [pool.submit(_do, task, number) for number in range(parts)]
            shown, left = 0, set(futures)
            while left:
                done, left = wait(left, _POLL_SECONDS, FIRST_EXCEPTION)
                total = sum(counters[:parts])
                progress(total - shown)
                shown = total
                for future in done:
                    future.result()
        except BrokenProcessPool:
            raise WorkerError("a child process died; was it killed for its use of memory?") from None
        finally:
            counters[parts] = 1
            pool.shutdown(wait=False, cancel_futures=True)
    return [future.result() for future in futures]


def _begin(counters: Array[c_uint64]) -> None:
    global _counters  # noqa: PLW0603 - a pool's initializer can hand over its arguments in no other way
    _counters = counters
    forbid_core_dumps()


def _do(task: Task[T], number: int) -> T:
    def progress(units: int) -> None:
        _counters[number] += units
        if _counters[-1]:
            raise StoppedError("the parent process has stopped")

    return task(number, progress)
