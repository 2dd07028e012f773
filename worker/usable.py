"""Checks every few seconds whether this process can use its configuration file.

A worker's child reads the file only for a message, and a scheduler only while it leads. Without this check, an idle
worker or a standby scheduler would not notice that it can't use the file.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from kube_rewrap.config.encryption.generation import Generation, content_hash, judge_file
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.encryption.source import read
from kube_rewrap.config.errors import ConfigError, Fault, SourceError
from kube_rewrap.config.library_errors import kind_of

_CHECK_SECONDS = 5.0
_UNUSABLE = "the configuration file can't be used; the log says configuration.unusable"
_log = structlog.get_logger()


class Usable:
    """`trouble` is a sentence while the file can't be used, "" while it can. Other threads may read it."""

    def __init__(self, file: str, layout: Layout, *, allow_readable: bool) -> None:
        self.trouble = "the configuration file was not read yet"
        self._file = file
        self._layout = layout
        self._allow_readable = allow_readable
        self._good = ""
        self._logged = ""
        self._checking = threading.Lock()

    def check(self) -> None:
        """Read and judge the file; log each new fault once, and once that the file can be used again."""
        with self._checking:  # a thread that runs this outlives the task that awaited it, if that is cancelled
            self._check()

    def _check(self) -> None:
        faults = self._faults()
        because = str(ConfigError(self._file, faults)) if faults else ""
        if because and because != self._logged:
            errors = [fault.to_json() for fault in faults]
            _log.warning("configuration.unusable", file=self._file, errors=errors, because=because)
        elif self._logged and not because:
            _log.info("configuration.usable", file=self._file, file_hash=self._good, because="it can be used again")
        self._logged = because
        self.trouble = _UNUSABLE if because else ""

    def _faults(self) -> tuple[Fault, ...]:
        try:
            raw = read(self._file, allow_readable=self._allow_readable)
            if content_hash(raw) == self._good:
                return ()
            self._good = ""
            judged = judge_file(raw, self._file, self._layout)
        except SourceError as error:
            return error.faults
        except Exception as error:  # noqa: BLE001 - an error must not end the loop: `trouble` would never change again
            return (Fault("", f"unexpected {kind_of(error)}", "report it"),)
        if not isinstance(judged, Generation):
            return judged
        self._good = judged.file_hash
        return ()

    async def follow(self) -> None:
        """Read and judge the file every few seconds until cancelled, in a thread: a large file takes seconds."""
        while True:
            await asyncio.to_thread(self.check)
            await asyncio.sleep(_pause())


@contextmanager
def follow_file(usable: Usable) -> Iterator[Usable]:
    """Read and judge the file now, then every few seconds in a thread, while the block runs.

    For a process whose main thread has no event loop.
    """
    usable.check()
    stop = threading.Event()

    def follow() -> None:
        while not stop.wait(_pause()):
            usable.check()

    thread = threading.Thread(target=follow, name="configuration", daemon=True)
    thread.start()
    try:
        yield usable
    finally:
        stop.set()
        thread.join(_CHECK_SECONDS)


def _pause() -> float:
    return _CHECK_SECONDS * random.uniform(0.8, 1.0)  # noqa: S311 - jitter
