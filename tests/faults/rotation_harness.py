"""Kill points around every effect of a rotation: run as `python -m tests.faults.rotation_harness WORDS`.

It is the command line. Beside the points of `harness`, which are those around every effect on etcd, there are some
around what happens to the file: the whole of a replacement (`replace`), the copy of the old content in the archive
(`archive`), and the new content beside the file (`write`), which then takes the file's name: between `write.after` and
`replace.after`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

from kube_rewrap.scheduler.rotation import archive
from tests.faults import harness

FILE_EFFECTS = {"replace": "_replace", "archive": "_archive", "write": "_write"}


def around(effect: str, work: Callable[..., Any]) -> Callable[..., Any]:
    def between_points(*arguments: object) -> object:
        harness.DeadlyStore.killer.at(f"{effect}.before")
        done = work(*arguments)
        harness.DeadlyStore.killer.at(f"{effect}.after")
        return done

    return between_points


if __name__ == "__main__":
    for name, function in FILE_EFFECTS.items():
        setattr(archive, function, around(name, getattr(archive, function)))
    sys.exit(harness.run(sys.argv[1:]))
