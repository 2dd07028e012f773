"""What may be said of a library's error: its kind, and never its words.

A client's error quotes what it was given: a Redis that does not know a command repeats its arguments, and those of AUTH
are a user and a password. What is secret in such a text can't be known for every library, server and proxy, so none of
it is shown.
"""

from __future__ import annotations

import logging
import os
import ssl
from pathlib import Path
from types import TracebackType

import structlog

_LONGEST_CHAIN = 4
_log = structlog.get_logger()


def kind_of(error: BaseException) -> str:
    """Return the classes of an error and of what led to it, with the system's own words where they have an errno."""
    kinds: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(kinds) < _LONGEST_CHAIN:
        kinds.append(_kind(cause))
        cause = cause.__cause__ or cause.__context__  # hidden ones, too: of a kind nothing has to be hidden
    return ", from ".join(dict.fromkeys(kinds))


def _kind(error: BaseException) -> str:
    name = type(error).__name__
    match error:
        case ssl.SSLError():  # an OSError whose errno is none of the system's
            # OpenSSL's own words: a constant, and for a wrong name the name that we asked for.
            words = getattr(error, "verify_message", None) or getattr(error, "reason", None)
        case OSError(errno=int(number)) if number > 0:
            words = os.strerror(number)
        case _:
            words = None
    return f"{name} ({words})" if words else name


class LibraryLines(logging.Handler):
    """Turns warnings that libraries log into events of ours: who, where in its code, about which kind of error."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if record.levelno >= logging.WARNING:
            place = f"{Path(record.pathname).name}:{record.lineno}"
            _log.warning("library.message", logger=record.name, place=place, because=kind_in(record))


def kind_in(record: logging.LogRecord) -> str:
    """Return the kind of the error that a log record is about; "" where it carries none."""
    arguments = record.args.values() if isinstance(record.args, dict) else record.args or ()
    info: tuple[type[BaseException] | None, BaseException | None, TracebackType | None] | None = record.exc_info
    carried = [info[1] if info else None, *arguments]
    return next((kind_of(error) for error in carried if isinstance(error, BaseException)), "")


def forward_libraries() -> None:
    """Send what libraries log through `LibraryLines`; without a handler Python would print it on stderr, whole."""
    root = logging.getLogger()
    if not any(isinstance(handler, LibraryLines) for handler in root.handlers):
        root.addHandler(LibraryLines())
