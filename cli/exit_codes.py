"""Exit codes, and the table from errors to exit codes."""

from __future__ import annotations

from enum import IntEnum

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.worker.errors import (
    BackupError,
    CompactedError,
    FencedError,
    RefusedError,
    RequestRefusedError,
    StoppedError,
    TemporaryError,
)


class Exit(IntEnum):
    """The exit codes of every command (docs/exit-codes.md)."""

    DONE = 0
    UNEXPECTED = 1
    USAGE = 2
    INCOMPLETE = 3
    REFUSED = 4
    UNREACHABLE = 5


def exit_of(error: BaseException) -> Exit:
    """Return the exit code for an error that ended a command."""
    table: tuple[tuple[type[BaseException], Exit], ...] = (
        (ConfigError, Exit.USAGE),
        (RequestRefusedError, Exit.USAGE),  # wrong credentials, or too few permissions
        (StoppedError, Exit.INCOMPLETE),
        (CompactedError, Exit.INCOMPLETE),
        (BackupError, Exit.INCOMPLETE),
        (RefusedError, Exit.REFUSED),
        (FencedError, Exit.REFUSED),
        (TemporaryError, Exit.UNREACHABLE),
    )
    return next((code for kind, code in table if isinstance(error, kind)), Exit.UNEXPECTED)
