"""How a command that talks to etcd runs: logs, the event loop, and signals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Coroutine
from typing import TypeVar

import uvloop

from config.logs import configure_logs
from worker.pace.brake import Brake, StoppedError

T = TypeVar("T")

_HARD_STOP = 130


def run_async(main: Coroutine[object, object, T]) -> T:
    """Run a command's coroutine on its own loop, with logs on stderr."""
    configure_logs(os.environ.get("REWRAP_LOG_LEVEL", "info" if not sys.stderr.isatty() else "warning"))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


def brake_on_signals() -> Brake:
    """Return a brake that SIGINT and SIGTERM pull: swaps in flight are finished. A second signal ends at once."""
    brake = Brake()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if brake.is_on:
            os._exit(_HARD_STOP)
        name = signal.Signals(number).name
        brake.pull(StoppedError(f"stopped by {name} after the swaps in flight; run again to resume"))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return brake
