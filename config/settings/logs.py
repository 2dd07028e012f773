"""Logs: JSON lines with stable event names on stderr, those of libraries included.

docs/log-events.md gives each field one meaning for all events. The last processor before the renderer masks values that
could hold a key or a plaintext: raw bytes, and fields by their name. Local variables, the texts of errors and the texts
of libraries' log records may hold keys, too: tracebacks leave them out, and a library's record is logged only as its
source line and the class of its error.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

import structlog

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.library_errors import kind_of

# The last two are those of a traceback: the text of an error may quote its input.
_SECRET_NAMES = frozenset(
    {"secret", "password", "plaintext", "token", "value", "private_key", "exc_value", "exc_notes"}
)
_MASK = "[redacted]"

_log = structlog.get_logger()

LEVELS = ("debug", "info", "warning", "error", "critical")


def configure_logs(level: str = "info", stream: TextIO | None = None) -> None:
    """Send structlog's events of `level` and above to `stream` (default stderr) as JSON lines."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            redact,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def redact(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Mask the values of an event that may hold a key or a plaintext; a structlog processor."""
    for name, value in event.items():
        event[name] = _masked(name, value)
    return event


def _masked(name: object, value: object) -> object:
    """Return a field's value, with what is inside lists and mappings masked, too."""
    if name in _SECRET_NAMES or isinstance(value, bytes | bytearray | memoryview | SecretBytes):
        return _MASK
    if isinstance(value, Mapping):
        return {key: _masked(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(None, item) for item in value]
    return value


class LibraryLogHandler(logging.Handler):
    """Logs a library's warnings and errors as `library.message`: logger, source line, and the class of the error."""

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if record.levelno >= logging.WARNING:
            place = f"{Path(record.pathname).name}:{record.lineno}"
            _log.warning("library.message", logger=record.name, place=place, because=logged_kind(record))


def logged_kind(record: logging.LogRecord) -> str:
    """Return `kind_of` the error that a log record carries; "" if it carries none."""
    error = logged_error(record)
    return "" if error is None else kind_of(error)


def logged_error(record: logging.LogRecord) -> BaseException | None:
    """Return the error that a log record carries, as exc_info or as an argument."""
    arguments = record.args.values() if isinstance(record.args, dict) else record.args or ()
    info: tuple[type[BaseException] | None, BaseException | None, TracebackType | None] | None = record.exc_info
    carried = [info[1] if info else None, *arguments]
    return next((error for error in carried if isinstance(error, BaseException)), None)


def forward_library_logs() -> None:
    """Give the root logger a `LibraryLogHandler`: without any handler, Python prints warnings in full on stderr."""
    root = logging.getLogger()
    if not any(isinstance(handler, LibraryLogHandler) for handler in root.handlers):
        root.addHandler(LibraryLogHandler())


class Repetition:
    """Recognises a sentence that is the same as the one before, so that a loop logs each reason once in a row."""

    def __init__(self) -> None:
        self._last = ""

    def begins(self, because: str) -> bool:
        """Whether a sentence is another one than at the last call."""
        is_other, self._last = because != self._last, because
        return is_other

    def end(self) -> None:
        """Forget the last sentence: what it said is over."""
        self._last = ""
