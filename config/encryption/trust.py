"""Checks whether another user could have written or replaced a file, or could do so now.

The EncryptionConfiguration decides what root encrypts, and with which keys. So, as sshd does for authorized_keys, this
checks the whole path to the file: each directory, each symbolic link, and the file itself. All must belong to root or
to the user of this process, and neither group nor others may write to them. They may write to a sticky directory, such
as /tmp and the mounts of kubelet: there only the owner of a file can replace it.

Not checked here: whether other users may read the file.
"""

from __future__ import annotations

import errno
import os
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path

_WRITABLE = stat.S_IWGRP | stat.S_IWOTH
_MOST_LINKS = 40  # as Linux


def distrust(file: str) -> tuple[str, str] | None:
    """Return why another user could choose the file's content, and the remedy; None if none could. Raises OSError."""
    user = os.geteuid()
    for place in _way_to(file):
        state = place.lstat()
        what = "it" if str(place) == file else str(place)
        if state.st_uid not in {0, user}:
            command = f"run: chown -h {user} {shlex.quote(str(place))}"
            return f"{what} belongs to another user (number {state.st_uid}), who decides on the content", command
        if not stat.S_ISLNK(state.st_mode) and state.st_mode & _WRITABLE and not _is_sticky_directory(state):
            mode = f"{stat.S_IMODE(state.st_mode):04o}"
            command = f"run: chmod go-w {shlex.quote(str(place))}"
            return f"group or others may write to {what} (mode {mode}), and decide on the content", command
    return None


def _is_sticky_directory(state: os.stat_result) -> bool:
    return stat.S_ISDIR(state.st_mode) and bool(state.st_mode & stat.S_ISVTX)


def _way_to(file: str) -> Iterator[Path]:
    """Yield the directories and links that a path leads through, in their order, and the file at the end."""
    here = Path("/")
    yield here
    rest = [*reversed(Path(file).absolute().parts[1:])]
    links = 0
    while rest:
        part = rest.pop()
        if part == "..":
            here = here.parent
            continue
        here /= part
        yield here
        if here.is_symlink():
            links += 1
            if links > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
            target = here.readlink()
            here = Path("/") if target.is_absolute() else here.parent
            rest += [part for part in reversed(target.parts) if part != "/"]
