"""How a command that talks to etcd runs: logs, the event loop, and signals."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import TypeVar

import uvloop

from kube_rewrap.config.settings.flags import LOG
from kube_rewrap.config.settings.logs import configure_logs, forward_library_logs
from kube_rewrap.config.settings.schema import LogSettings
from kube_rewrap.config.settings.sources import settings_from
from kube_rewrap.worker.collector import spare_the_imports
from kube_rewrap.worker.errors import StoppedError
from kube_rewrap.worker.rate.brake import Brake

T = TypeVar("T")

_HARD_STOP = 130


def run_async(
    main: Callable[[], Coroutine[object, object, T]], role: str = "command", log: LogSettings | None = None
) -> T:
    """Run a command's coroutine on a new loop, with logs on stderr: by `log`, by default as variables say."""
    configure_logs(log or _log_settings(), role)
    forward_library_logs()
    spare_the_imports()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main())


def _log_settings() -> LogSettings:
    """Return what variables say; by default only warnings on a terminal, where results and progress are shown."""
    given = {flag.variable: os.environ.get(flag.variable) for flag in LOG}
    if sys.stderr.isatty():
        given["REWRAP_LOG_LEVEL"] = given["REWRAP_LOG_LEVEL"] or "warning"
    return settings_from(LOG, {}, {name: text for name, text in given.items() if text is not None}).log


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
