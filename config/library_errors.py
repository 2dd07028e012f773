"""What of a library's error may be shown: its class, and never its text.

A client's error quotes its input: a Redis that does not know a command repeats the arguments, and those of AUTH are a
user and a password. Which part of such a text is secret can't be known for every library, server and proxy, so no part
of it is shown.
"""

from __future__ import annotations

import os
import ssl

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
"""Mostly redis-py's classes, by name: this module imports no client."""


def kind_of(error: BaseException) -> str:
    """Return the classes of an error and of its causes, each with the system's text for its errno where it has one."""
    return ", from ".join(dict.fromkeys(map(_kind, _chain(error))))


def why_unreachable(error: BaseException) -> str:
    """Return a fixed sentence that says why Redis can't be used; with the error's classes where none is fixed."""
    sentences = (sentence for one in _chain(error) if (sentence := _sentence(one)))
    return next(sentences, f"it can't be used: {kind_of(error)}")


def _sentence(error: BaseException) -> str:
    of_class = (sentence for kind, sentence in _BY_CLASS if isinstance(error, kind))
    of_name = (_BY_NAME[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _BY_NAME)
    return next(of_class, "") or next(of_name, "")


def _chain(error: BaseException) -> list[BaseException]:
    """Return an error and its causes; suppressed ones, too: a class holds nothing to hide."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and len(chain) < _LONGEST_CHAIN:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    return chain


def _kind(error: BaseException) -> str:
    name = type(error).__name__
    match error:
        case ssl.SSLError():  # an OSError, but its errno is none of the system's
            # OpenSSL's own text: a constant, and for a wrong name the name that we asked for.
            text = getattr(error, "verify_message", None) or getattr(error, "reason", None)
        case OSError(errno=int(number)) if number > 0:
            text = os.strerror(number)
        case _:
            text = None
    return f"{name} ({text})" if text else name
