"""How a command that talks to etcd runs: logs, the event loop, and signals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TypeVar

import uvloop

from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.logs import LEVELS, configure_logs, forward_library_logs
from kube_rewrap.worker.collector import spare_the_imports
from kube_rewrap.worker.errors import StoppedError
from kube_rewrap.worker.rate.brake import Brake

T = TypeVar("T")

_HARD_STOP = 130


def run_async(main: Callable[[], Coroutine[object, object, T]], level: str | None = None) -> T:
    """Run a command's coroutine on a new loop, with logs on stderr; `level` replaces the default log level."""
    configure_logs(_log_level(level))
    forward_library_logs()
    spare_the_imports()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def _log_level(given: str | None) -> str:
    """Return REWRAP_LOG_LEVEL; by default only warnings on a terminal, where results and progress are shown."""
    default = given or ("warning" if sys.stderr.isatty() else "info")
    level = os.environ.get("REWRAP_LOG_LEVEL", default).lower()
    if level not in LEVELS:
        fault = Fault("REWRAP_LOG_LEVEL", "is not a level", f"use one of {', '.join(LEVELS)}")
        raise SettingsError("environment", (fault,))
    return level


def brake_on_signals(hint: str = "") -> Brake:
    """Return a brake that SIGINT and SIGTERM pull; a second signal ends the process at once.

    `hint` is the end of the message: what happens to the unfinished work.
    """
    brake = Brake()
    loop = asyncio.get_running_loop()

    def stop(number: int) -> None:
        if brake.is_on:
            os._exit(_HARD_STOP)
        name = signal.Signals(number).name
        brake.pull(StoppedError(f"stopped by {name}{hint}"))

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop, number)
    return brake
