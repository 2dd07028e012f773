"""Which tests count for coverage: being measured doubles the time that Python takes.

`faults`, `properties` and most of `service` run the same code hundreds of times, in other orders and at other moments.
What they find shows in hardly any figure of coverage: almost all lines and branches are gone through in other folders.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from coverage import Coverage

_UNMEASURED = frozenset({"faults", "properties", "service"})
_MEASURED_FILES = frozenset({"test_logs.py", "test_quarantine.py", "test_worker_process.py"})
"""Of the folders above: the service from its start to its end, and what only its processes do."""

_VARIABLE = "COVERAGE_PROCESS_CONFIG"

COVERED = {name: value for name, value in os.environ.items() if name == _VARIABLE}
"""The variable by which a process of Python is measured; empty where nothing is."""


def is_measured(file: Path) -> bool:
    """Whether tests of this file, below `tests`, count for coverage."""
    return file.parts[0] not in _UNMEASURED or file.name in _MEASURED_FILES


@contextmanager
def unmeasured() -> Iterator[None]:
    """In the block, neither this process nor one that it starts is measured."""
    figures = Coverage.current()
    if figures is None:
        yield
        return
    figures.stop()
    os.environ.pop(_VARIABLE, None)
    try:
        yield
    finally:
        os.environ.update(COVERED)
        figures.start()


def stop_measuring() -> None:
    """Ends the measuring of this process, if there is any."""
    if (figures := Coverage.current()) is not None:
        figures.stop()
