"""Replaces a file as a whole, and archives its old content first, so that no key is lost with it.

It does file I/O only, and does not parse the contents. The steps, in their order:

1. Refuse a file that is not a regular one with one name, in a real directory: another program manages links and mounts.
2. Write the old content to the archive, and sync it. Nothing in the archive is ever overwritten.
3. Check that the file still holds the old content.
4. Write and sync the new content with the same mode and owner, and rename it to the file's name.

After an interruption at any point, the file holds the old or the new content, and the same call completes the work.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from kube_rewrap.config.errors import ConfigError, Fault

_STAMP = re.compile(r"[A-Za-z0-9][A-Za-z0-9:+_-]*")
_FOREIGN_BITS = stat.S_IRWXG | stat.S_IRWXO
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_DIGITS = 12
_MANAGED = "change it where it is managed: rotate --manual says step by step what to write"


class ReplaceError(ConfigError):
    """The file was not replaced and holds its old content; the archive may hold a copy of it."""


def replace_file(
    path: str | os.PathLike[str], before: bytes, after: bytes, archive_directory: str | os.PathLike[str], stamp: str
) -> Path:
    """Replace the content `before` of a file by `after`, and return where the archive holds `before`.

    `stamp` becomes part of the archive file's name: `<name>.<stamp>.<first 12 hex of its SHA-256>`. A content that the
    archive holds already, under any stamp, is not archived again; a file that holds `after` already is left alone.
    Raises ReplaceError.
    """
    if not _STAMP.fullmatch(stamp):
        raise ValueError("a stamp consists of letters, digits, colon, plus, hyphen and underscore")
    file = os.path.abspath(path)  # noqa: PTH100 - it must not follow links
    refused: OSError
    try:
        return _replace(file, before, after, os.path.abspath(archive_directory), stamp)  # noqa: PTH100 - as above
    except OSError as error:
        refused = error
    reason = refused.strerror or "input or output failed"
    # Renaming over a mount point: a single file that was mounted into a container.
    remedy = _MANAGED if refused.errno == errno.EBUSY else "check the disk and the permissions of both directories"
    raise _refused(file, f"it can't be replaced: {reason}", remedy)


def _replace(file: str, before: bytes, after: bytes, archive: str, stamp: str) -> Path:
    folder, name = os.path.split(file)
    with _opened_folder(file, folder) as directory, _new_file(name, directory) as new:
        held, state = _content(file, name, directory)
        archived = _archive(name, before, archive, stamp)
        if held != after:
            _check_same(file, held, before)
            _write(new, after, directory, file, state)
            _check_same(file, _content(file, name, directory)[0], before)
            os.rename(new, name, src_dir_fd=directory, dst_dir_fd=directory)
        os.fsync(directory)
        return archived


@contextmanager
def _new_file(name: str, directory: int) -> Iterator[str]:
    """Yield the name of a temporary file; a file of that name is removed before (after a crash) and afterwards."""
    new = f".{name}.rewrap-new"
    with suppress(FileNotFoundError):
        os.unlink(new, dir_fd=directory)
    try:
        yield new
    finally:
        with suppress(OSError):
            os.unlink(new, dir_fd=directory)


@contextmanager
def _opened_folder(file: str, folder: str) -> Iterator[int]:
    """Yield a descriptor of the file's directory, locked against others that run this code."""
    if os.path.islink(folder):  # noqa: PTH114 - a string all along
        raise _refused(file, "its directory is a symbolic link, so something else manages the file", _MANAGED)
    descriptor = os.open(folder, _DIRECTORY)
    try:
        _lock(file, descriptor)
        yield descriptor
    finally:
        os.close(descriptor)


def _lock(file: str, directory: int) -> None:
    try:
        fcntl.flock(directory, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        message = "another process is replacing a file there, or the archive is the file's own directory"
        raise _refused(file, message, "wait until it is done, or give another archive directory") from None


def _content(file: str, name: str, directory: int) -> tuple[bytes, os.stat_result]:
    """Return the file's content and its stat. Raises ReplaceError for a file that must not be replaced."""
    state = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if stat.S_ISLNK(state.st_mode):
        raise _refused(file, "it is a symbolic link, so something else manages it", _MANAGED)
    if not stat.S_ISREG(state.st_mode):
        raise _refused(file, "it is not a regular file", "give the path of the file itself")
    if state.st_nlink > 1:
        raise _refused(file, "it has a second name (a hard link), which would keep the old content", _MANAGED)
    return _read(name, directory), state


def _check_same(file: str, held: bytes, before: bytes) -> None:
    if held != before:
        remedy = "look at the change, then start the step again"
        raise _refused(file, "it was changed since it was read, by hand or by another program", remedy)


def _write(new: str, content: bytes, directory: int, file: str, like: os.stat_result) -> None:
    with os.fdopen(os.open(new, _CREATE, 0o600, dir_fd=directory), "wb") as stream:
        descriptor = stream.fileno()
        made = os.fstat(descriptor)
        if (made.st_uid, made.st_gid) != (like.st_uid, like.st_gid):
            try:
                os.fchown(descriptor, like.st_uid, like.st_gid)
            except PermissionError:
                message = "its owner or group is another one than ours, and only root could keep them"
                raise _refused(file, message, "run this as root or as the file's owner") from None
        # After the change of owner: before it, the mode would let the wrong group in.
        os.fchmod(descriptor, stat.S_IMODE(like.st_mode))
        stream.write(content)
        stream.flush()
        os.fsync(descriptor)


# --------------------------------------------------------------------------------------------------------- the archive


def _archive(name: str, content: bytes, archive: str, stamp: str) -> Path:
    digest = hashlib.sha256(content).hexdigest()[:_DIGITS]
    with _opened_archive(archive) as directory, _new_file(name, directory) as new:
        held = _find(name, digest, content, directory)
        if held is None:
            held = f"{name}.{stamp}.{digest}"
            _create(new, content, directory)
            try:
                # A link, unlike a rename, fails when the name is taken.
                os.link(new, held, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
            except FileExistsError:
                message = f"it holds {held} with another content"
                raise _refused(archive, message, "move that file away") from None
        # Also for one that was found: a crash may have come between its link and this.
        os.fsync(directory)
        return Path(archive, held)


def _find(name: str, digest: str, content: bytes, directory: int) -> str | None:
    for held in sorted(os.listdir(directory)):
        if held.startswith(f"{name}.") and held.endswith(f".{digest}"):
            state = os.stat(held, dir_fd=directory, follow_symlinks=False)
            if stat.S_ISREG(state.st_mode) and _read(held, directory) == content:
                return held
    return None


def _create(new: str, content: bytes, directory: int) -> None:
    with os.fdopen(os.open(new, _CREATE, 0o600, dir_fd=directory), "wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())


@contextmanager
def _opened_archive(archive: str) -> Iterator[int]:
    """Yield a descriptor of the archive's directory, made if it is missing, locked against others."""
    with suppress(FileExistsError):
        os.mkdir(archive, 0o700)  # noqa: PTH102 - a string all along
        _sync_parent(archive)
    if os.path.islink(archive):  # noqa: PTH114 - as above
        raise _refused(archive, "it is a symbolic link", "give the archive's directory itself")
    directory = os.open(archive, _DIRECTORY)
    try:
        state = os.fstat(directory)
        if stat.S_IMODE(state.st_mode) & _FOREIGN_BITS or state.st_uid != os.geteuid():
            message = "it would hold keys, and others than this process's user could get at them"
            raise _refused(archive, message, "make it a directory of this user's with mode 0700")
        _lock(archive, directory)
        yield directory
    finally:
        os.close(directory)


def _sync_parent(archive: str) -> None:
    parent = os.open(os.path.dirname(archive), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)  # noqa: PTH120
    try:
        os.fsync(parent)
    finally:
        os.close(parent)


def _read(name: str, directory: int) -> bytes:
    with os.fdopen(os.open(name, _READ, dir_fd=directory), "rb") as stream:
        return stream.read()


def _refused(file: str, message: str, remedy: str) -> ReplaceError:
    return ReplaceError(file, (Fault("", message, remedy),))
