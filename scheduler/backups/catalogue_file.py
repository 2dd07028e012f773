"""The file of the catalogue: read whole, and only ever appended to, under a lock of the file.

A write that fails half-way is taken back; one that a crash cut off leaves a torn line, which the next append ends. So
no line is lost, and the torn one counts as damaged.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from kube_rewrap.config.encryption.trust import distrust
from kube_rewrap.config.errors import Fault, SourceError
from kube_rewrap.scheduler.backups.catalogue import Backup, Catalogue, moment, read_lines

_MOST_BYTES = 64 << 20
_LOCK_SECONDS = 10.0
_POLL_SECONDS = 0.05
_MODE = 0o600
_ABSENT = {errno.ENOENT, errno.ENOTDIR, errno.ENAMETOOLONG, errno.ELOOP}
"""Errors of a path at which no file is."""
_SAFE = os.O_CLOEXEC | os.O_NONBLOCK


def read_catalogue(path: str) -> Catalogue:
    """Return what the catalogue says now. Raises SourceError for a file that can't be read."""
    try:
        with _locked(path, os.O_RDONLY, fcntl.LOCK_SH) as descriptor:
            raw = _read(path, descriptor)
        doubt = distrust(path)
    except (OSError, ValueError) as error:
        raise _refused(path, f"the catalogue can't be read: {_because(error)}", "check the path") from None
    found = read_lines(raw)
    present = frozenset(one.digest for one in found.copies if _may_be_there(one))
    return replace(found, distrust=doubt[0] if doubt else "", present=present)


def append_lines(path: str, lines: Sequence[bytes]) -> None:
    """Append lines, and sync them. Makes the file with mode 0600 if it is missing. Raises SourceError.

    Then the catalogue holds all of them, or none; after a crash, it may hold some, and a torn line.
    """
    try:
        with _locked(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, fcntl.LOCK_EX) as descriptor:
            size = os.fstat(descriptor).st_size
            content = b"".join(line + b"\n" for line in lines)
            if size + len(content) >= _MOST_BYTES:
                raise _refused(path, f"the catalogue would exceed {_MOST_BYTES} bytes", "begin a new one")
            is_torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            _append(descriptor, size, b"\n" + content if is_torn else content)
        _sync_directory(path)
    except (OSError, ValueError) as error:
        raise _refused(path, f"the catalogue can't be written: {_because(error)}", "check its disk") from None


def _because(error: OSError | ValueError) -> str:
    return (error.strerror or "the disk gives no answer") if isinstance(error, OSError) else "the path is not valid"


def _append(descriptor: int, size: int, content: bytes) -> None:
    try:
        left = memoryview(content)
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    except OSError:
        with suppress(OSError):
            os.ftruncate(descriptor, size)
        raise


@contextmanager
def _locked(path: str, flags: int, lock: int) -> Iterator[int]:
    """Yield a locked descriptor of the file that is at the path now. Raises OSError, SourceError."""
    until = time.monotonic() + _LOCK_SECONDS
    while True:
        descriptor = os.open(path, flags | _SAFE, _MODE)
        try:
            state = os.fstat(descriptor)
            if not stat.S_ISREG(state.st_mode):
                raise _refused(path, "it is not a regular file", "name the catalogue itself")
            is_locked = _try_to_lock(descriptor, lock)
            # The operator may have replaced the file before it was locked.
            if is_locked and os.path.samestat(state, Path(path).stat()):
                yield descriptor
                return
        finally:
            os.close(descriptor)
        if time.monotonic() > until:
            raise _refused(path, f"another process has locked it for {_LOCK_SECONDS:.0f} s", "wait until it is done")
        time.sleep(_POLL_SECONDS)


def _try_to_lock(descriptor: int, lock: int) -> bool:
    try:
        fcntl.flock(descriptor, lock | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _read(path: str, descriptor: int) -> bytes:
    chunks: list[bytes] = []
    left = _MOST_BYTES + 1
    while left and (chunk := os.read(descriptor, min(left, 1 << 20))):
        chunks.append(chunk)
        left -= len(chunk)
    if not left:
        raise _refused(path, f"it is larger than {_MOST_BYTES} bytes", "check that it is the catalogue")
    return b"".join(chunks)


def _may_be_there(backup: Backup) -> bool:
    """Whether the file is still at its path, as far as size and time show; on this machine.

    It may be where this process is not let look, or the disk gives no answer.
    """
    try:
        state = Path(backup.file).stat()
        return (state.st_size, moment(state.st_mtime)) == (backup.bytes, backup.made)
    except OSError as error:
        return error.errno not in _ABSENT
    except (ValueError, OverflowError):
        return False


def _sync_directory(path: str) -> None:
    descriptor = os.open(Path(path).absolute().parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _refused(path: str, message: str, remedy: str) -> SourceError:
    return SourceError(path, (Fault("", message, remedy),))
