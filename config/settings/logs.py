"""Logs: JSON lines with stable event names on stderr, those of libraries included.

A line begins with `event`, `level`, `timestamp`, the `role` and the `process` that logs. docs/log-events.md gives each
field one meaning for all events. The last processor before the renderer masks values that could hold a key or a
plaintext: raw bytes, and fields by their name. Local variables, the texts of errors and the texts of libraries' log
records may hold keys, too: tracebacks leave them out, and a library's record is logged only as its source line and the
class of its error.
"""

from __future__ import annotations

import importlib.metadata
import json
import logging
import os
import platform
import sys
from collections.abc import Mapping, MutableMapping
from pathlib import Path
from types import TracebackType
from typing import TextIO

import structlog

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.library_errors import kind_of
from kube_rewrap.config.settings.broker import parse_broker
from kube_rewrap.config.settings.schema import SETTINGS, LogSettings, Settings

# The last two are those of a traceback: the text of an error may quote its input.
_SECRET_NAMES = frozenset(
    {"secret", "password", "plaintext", "token", "value", "private_key", "exc_value", "exc_notes"}
)
_MASK = "[redacted]"

_log = structlog.get_logger()

_FIRST = ("event", "level", "timestamp", "role", "process")


def configure_logs(settings: LogSettings, role: str, stream: TextIO | None = None) -> None:
    """Send structlog's events of the settings' level and above to `stream` (default stderr), a line each.

    `role` is what this process does: `scheduler`, `worker`, `worker-child`, `run-child`, or the command's name.
    """
    stream = stream or sys.stderr
    who = {"role": role, "process": f"{platform.node()}:{os.getpid()}"}

    def ordered(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
        """Put the fields of every line first; a structlog processor."""
        line = {**event, **who}
        return {**{name: line[name] for name in _FIRST}, **line}

    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            ordered,
            redact,
            _renderer(settings.format, stream),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream),
        cache_logger_on_first_use=False,
    )


def _renderer(form: str, stream: TextIO) -> structlog.typing.Processor:
    if form == "json":
        return structlog.processors.JSONRenderer()
    # `repr`, for texts too: a name from etcd may hold what a terminal takes for a command.
    console = structlog.dev.ConsoleRenderer(colors=stream.isatty(), repr_native_str=True, sort_keys=False)

    def render(logger: object, method: str, event: MutableMapping[str, object]) -> str:
        if "exception" in event:
            event["exception"] = json.dumps(event["exception"])  # the renderer expects a text
        return console(logger, method, event)

    return render


def log_start(settings: Settings, sources: Mapping[str, str], file: str) -> None:
    """Log that a daemon starts: its version, addresses and settings.

    `sources` says by which flag, variable or file each setting was given; the others have their defaults. `file` is the
    EncryptionConfiguration's path.
    """
    values = {one.path: getattr(getattr(settings, one.group), one.name) for one in SETTINGS if one.path in sources}
    _log.info(
        "process.started",
        version=importlib.metadata.version("kube-rewrap"),
        python=platform.python_version(),
        file=file,
        endpoints=settings.etcd.endpoints,
        broker=parse_broker(settings.broker).place,
        metrics=settings.service.metrics_addr,
        settings=values,
        given_by=dict(sources),
        because=f"{len(values)} settings were given, the others have their defaults",
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
