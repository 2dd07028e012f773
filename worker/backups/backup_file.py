"""A backup as bytes: opened read-only, read by offset within the size that it had at first, never locked.

It is read with `pread`, not mapped: reading past the end of a mapped file that was truncated ends the process (SIGBUS).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from kube_rewrap.config.errors import Fault, SourceError
from kube_rewrap.worker.errors import BackupError

_LAST_MOMENT = 253_402_300_799.0
"""The last second of the year 9999, the last year of a datetime; file systems keep later times."""


class BackupFile:
    """An open backup; made by `open_backup`. `name` is its name as given, `size` its bytes."""

    def __init__(self, name: str, descriptor: int) -> None:
        self.name = name
        self._descriptor = descriptor
        self._state = os.fstat(descriptor)
        self.size = self._state.st_size

    @property
    def modified(self) -> float:
        """When the file was last written, in seconds since 1970: no time before that, none after the year 9999."""
        return min(max(self._state.st_mtime, 0.0), _LAST_MOMENT)

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes from `offset` on. Raises BackupError when the file does not have them."""
        try:
            data = os.pread(self._descriptor, size, offset) if offset + size <= self.size else b""
        except OSError as error:
            raise self.refused(f"it can't be read at byte {offset}: {error.strerror}") from None
        if len(data) != size:
            raise self.refused(f"it ends before byte {offset + size}: it is truncated")
        return data

    def require_unchanged(self) -> None:
        """Raise BackupError if another process wrote to the file since it was opened."""
        now = os.fstat(self._descriptor)
        if (now.st_size, now.st_mtime_ns) != (self._state.st_size, self._state.st_mtime_ns):
            raise self.refused("it changed while it was read: a process still writes to it")

    def refused(self, reason: str) -> BackupError:
        """Return the error that refuses this file."""
        return BackupError(f"{self.name}: {reason}")


@contextmanager
def open_backup(path: str) -> Iterator[BackupFile]:
    """Open a backup for reading. Raises SourceError for a path that names no regular file that can be read."""
    try:
        # Before it is opened, which alone has an effect on some devices: it rewinds a tape, and starts a watchdog.
        if not stat.S_ISREG(Path(path).stat().st_mode):
            raise _unusable(path, "it is not a regular file")
        # Not blocking: if a named pipe took the file's place, opening it would wait for its writer.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else "the path is not valid"
        raise _unusable(path, f"it can't be read: {reason}") from None
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise _unusable(path, "it is not a regular file")
        yield BackupFile(path, descriptor)
    finally:
        os.close(descriptor)


def _unusable(path: str, message: str) -> SourceError:
    remedy = "give a file of `etcdctl snapshot save`, or a copy of etcd's member/snap/db"
    return SourceError(path, (Fault("", message, remedy),))
