"""Reads a configuration file once and whole; refuses a file that other users may read, write or replace.

It neither watches nor decodes the file. The rules, in their order:

1. Symbolic links are followed: kubelet mounts files as links into a directory that it swaps.
2. It must be a regular file of at most `MAX_BYTES`.
3. Neither group nor others may have any permission on it, unless the caller allows them to read it.
4. No user but root and our own may be able to replace it (`trust.py`). No flag allows that to others: a user who can
   read the file knows the keys, and a user who can write it chooses them.
5. If the file changed during the read, it is read again, up to `_ATTEMPTS` times.
"""

from __future__ import annotations

import os
import shlex
import stat
from pathlib import Path

from kube_rewrap.config.encryption.trust import distrust
from kube_rewrap.config.errors import Fault, SourceError

MAX_BYTES = 1024 * 1024
"""The limit of a Secret or ConfigMap. No real configuration comes near it (a thousand keys are 100 kB); the worst text
of this size is parsed in some seconds."""

_ATTEMPTS = 5
_FOREIGN_BITS = stat.S_IRWXG | stat.S_IRWXO


def read(path: str | os.PathLike[str], *, allow_readable: bool = False, allow_foreign: bool = False) -> bytes:
    """Return the bytes of the file, all of one version.

    `allow_readable` accepts a file that group or others can read or execute. `allow_foreign` accepts one that another
    user could have put there: for `audit`, which writes nothing to etcd and reports it. Raises SourceError.
    """
    file = os.fspath(path)
    for _ in range(_ATTEMPTS):
        raw = _read_once(file, allow_readable=allow_readable, allow_foreign=allow_foreign)
        if raw is not None:
            return raw
    raise _refused(
        file, f"it changed during each of {_ATTEMPTS} reads", "write another file and rename it to this name"
    )


def _read_once(file: str, *, allow_readable: bool, allow_foreign: bool) -> bytes | None:
    """Return the bytes of the file; None when it changed during the read."""
    try:
        # Not blocking: opening a named pipe would wait for its writer, but it has to be refused below.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (OSError, ValueError) as error:
        raise _unreadable(file, error) from None
    try:
        before = os.fstat(descriptor)
        _check_kind(file, before)
        _check_size(file, before.st_size)
        is_open = not allow_readable and bool(before.st_mode & _FOREIGN_BITS)
        if not is_open and not allow_foreign:
            _require_trusted(file)
        raw = _drain(descriptor)
        if is_open:
            raise _too_open(file, stat.S_IMODE(before.st_mode), raw)
        after = os.fstat(descriptor)
    except OSError as error:
        raise _unreadable(file, error) from None
    finally:
        os.close(descriptor)
    _check_size(file, len(raw))
    unchanged = _identity(before) == _identity(after) and len(raw) == after.st_size
    return raw if unchanged and _still_there(file, after) else None


def _drain(descriptor: int) -> bytes:
    """Read to the end, or to one byte past the limit."""
    chunks: list[bytes] = []
    left = MAX_BYTES + 1
    while left and (chunk := os.read(descriptor, left)):
        chunks.append(chunk)
        left -= len(chunk)
    return b"".join(chunks)


def _still_there(file: str, state: os.stat_result) -> bool:
    """Whether the name still leads to the file that was read; after a link was swapped, its bytes are old."""
    try:
        now = Path(file).stat()
    except OSError:
        return False
    return (now.st_dev, now.st_ino) == (state.st_dev, state.st_ino)


def _identity(state: os.stat_result) -> tuple[int, int, int, int, int]:
    return state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns, state.st_ctime_ns


def _check_kind(file: str, state: os.stat_result) -> None:
    if not stat.S_ISREG(state.st_mode):
        raise _refused(file, "it is not a regular file", "give the path of the file itself")


def _too_open(file: str, mode: int, raw: bytes) -> SourceError:
    """Return the refusal of a file that others can use. Advises chmod only for what looks like a configuration."""
    if b"EncryptionConfig" in raw:
        remedy = f"run: chmod 600 {shlex.quote(file)}"
        return _refused(file, f"it holds keys, and its mode {mode:04o} gives group or others access", remedy)
    return _refused(file, "it names no kind EncryptionConfiguration", "check that it is the configuration file")


def _require_trusted(file: str) -> None:
    doubt = distrust(file)
    if doubt is not None:
        raise _refused(file, *doubt)


def _check_size(file: str, size: int) -> None:
    if size > MAX_BYTES:
        raise _refused(file, f"it is larger than {MAX_BYTES} bytes", "check that it is the configuration file")


def _unreadable(file: str, error: OSError | ValueError) -> SourceError:
    reason = error.strerror if isinstance(error, OSError) and error.strerror else "the path is not valid"
    return _refused(file, f"it can't be read: {reason}", "check the path and the permissions of its directories")


def _refused(file: str, message: str, remedy: str) -> SourceError:
    return SourceError(file, (Fault("", message, remedy),))
