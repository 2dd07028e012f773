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
_REFUSES_LOGIN = "it refuses the user or the password, or wants one"
_BY_CLASS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLCertVerificationError, "TLS failed: its certificate is not one that is trusted for this name"),
    (ssl.SSLError, "TLS failed; does it speak TLS, and does it want a client certificate?"),
    (ConnectionRefusedError, "it refuses connections; does it run?"),
    (TimeoutError, "it does not answer in time"),
    (ConnectionError, "the connection broke; does it want TLS (rediss://), or none?"),
    (FileNotFoundError, "a file that is given for TLS can't be read"),
    (PermissionError, "a file that is given for TLS can't be read"),
)
_BY_NAME = {
    "gaierror": "its name can't be resolved",
    "TimeoutError": "it does not answer in time",
    "AuthenticationError": _REFUSES_LOGIN,
    "AuthenticationWrongNumberOfArgsError": _REFUSES_LOGIN,
    "NoPermissionError": "its user may not do what is needed",
    "ReadOnlyError": "it is a replica, which takes no writes",
    "OutOfMemoryError": "its memory is full",
    "BusyLoadingError": "it still loads its data",
    "MasterNotFoundError": "no sentinel names a master",
    "InvalidResponse": "what answers is not Redis",
    "ResponseError": "it refuses a command, or does not know it",
}
"""Mostly redis-py's classes. What they say is not shown, so that they need not be imported either."""
_log = structlog.get_logger()


def kind_of(error: BaseException) -> str:
    """Return the classes of an error and of what led to it, with the system's own words where they have an errno."""
    return ", from ".join(dict.fromkeys(map(_kind, _chain(error))))


def why_unreachable(error: BaseException) -> str:
    """Return in a fixed sentence why Redis can't be used; the kind of the error where there is no sentence for it."""
    sentences = (sentence for one in _chain(error) if (sentence := _sentence(one)))
    return next(sentences, f"it can't be used: {kind_of(error)}")


def _sentence(error: BaseException) -> str:
    of_class = (sentence for kind, sentence in _BY_CLASS if isinstance(error, kind))
    of_name = (_BY_NAME[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _BY_NAME)
    return next(of_class, "") or next(of_name, "")


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and what led to it; what was hidden, too: of a kind nothing has to be hidden."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < _LONGEST_CHAIN:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


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
    error = error_in(record)
    return "" if error is None else kind_of(error)


def error_in(record: logging.LogRecord) -> BaseException | None:
    """Return the error that a log record is about."""
    arguments = record.args.values() if isinstance(record.args, dict) else record.args or ()
    info: tuple[type[BaseException] | None, BaseException | None, TracebackType | None] | None = record.exc_info
    carried = [info[1] if info else None, *arguments]
    return next((error for error in carried if isinstance(error, BaseException)), None)


def forward_libraries() -> None:
    """Send what libraries log through `LibraryLines`; without a handler Python would print it on stderr, whole."""
    root = logging.getLogger()
    if not any(isinstance(handler, LibraryLines) for handler in root.handlers):
        root.addHandler(LibraryLines())
