"""Finds every reason why `archive.py` could not replace a file. Writes nothing.

Not handled: changes between this check and the replacement, which checks again.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Iterator

_FOREIGN_BITS = stat.S_IRWXG | stat.S_IRWXO
_OCTAL = re.compile(r"\\([0-7]{3})")


def faults_of(path: str, archive: str) -> tuple[str, ...]:
    """Return every reason, as a sentence, why the file can't be replaced or its old content can't be archived."""
    file, kept = os.path.abspath(path), os.path.abspath(archive)  # noqa: PTH100 - it must not follow links
    return (*_of_file(file), *_of_archive(kept, os.path.dirname(file)))  # noqa: PTH120 - a string all along


def _of_file(file: str) -> Iterator[str]:
    folder = os.path.dirname(file)  # noqa: PTH120 - a string all along
    if os.path.islink(folder):  # noqa: PTH114 - as above
        yield f"the directory of {file} is a symbolic link, so something else manages the file"
    elif not os.access(folder, os.W_OK | os.X_OK):
        yield f"this process may not write to {folder}"
    try:
        state = os.lstat(file)
    except OSError as error:
        yield f"{file}: {error.strerror}"
        return
    if stat.S_ISLNK(state.st_mode):
        yield f"{file} is a symbolic link, so something else manages it"
    elif not stat.S_ISREG(state.st_mode):
        yield f"{file} is not a regular file"
    elif state.st_nlink > 1:
        yield f"{file} has a second name (a hard link), which would keep the old content"
    if file in _mounts():
        yield f"{file} is mounted alone, and a mount can't be replaced"
    if not _may_give(state):
        yield f"the owner or group of {file} is another one than ours, and only root could keep them"


def _may_give(state: os.stat_result) -> bool:
    """Whether a file of ours may get this owner and group."""
    user = os.geteuid()
    return user == 0 or (state.st_uid == user and state.st_gid in {os.getegid(), *os.getgroups()})


def _of_archive(archive: str, folder: str) -> Iterator[str]:
    parent = os.path.dirname(archive)  # noqa: PTH120 - a string all along
    if archive == folder:
        yield f"the archive {archive} is the file's own directory"
        return
    try:
        state = os.lstat(archive)
    except FileNotFoundError:
        if not os.access(parent, os.W_OK | os.X_OK):
            yield f"this process may not make the archive {archive}"
        return
    except OSError as error:
        yield f"the archive {archive}: {error.strerror}"
        return
    if not stat.S_ISDIR(state.st_mode):
        yield f"the archive {archive} is a symbolic link, or no directory"
    elif stat.S_IMODE(state.st_mode) & _FOREIGN_BITS or state.st_uid != os.geteuid():
        yield f"the archive {archive} would hold keys, and others than this process' user could get at them"
    elif not os.access(archive, os.W_OK | os.X_OK):
        yield f"this process may not write to the archive {archive}"


def _mounts() -> frozenset[str]:
    """Return all mount points; none where /proc does not list them."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as lines:  # noqa: PTH123
            return frozenset(_OCTAL.sub(_char, line.split()[4]) for line in lines)
    except (OSError, IndexError):
        return frozenset()


def _char(octal: re.Match[str]) -> str:
    return chr(int(octal[1], 8))
