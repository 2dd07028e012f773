"""Describes a library's error by its class, never by its text.

The text of a client's error may quote its input: a Redis that does not know a command repeats the arguments, and those
of AUTH are a user and a password. This program can't know for every library, server and proxy which part of such a text
is secret, so it shows no part.
"""

from __future__ import annotations

import os
import ssl
from enum import Enum, auto

_LONGEST_CHAIN = 4
_REFUSES_LOGIN = "it refuses the user or the password of --broker (REWRAP_BROKER)"
_REQUIRES_LOGIN = "it requires a password, and --broker has none; write redis://USER:PASSWORD@HOST in REWRAP_BROKER"
_REFUSES_CERTIFICATE = "it refuses the client certificate, or requires one; see --broker-cert and --broker-key"
_UNKNOWN = "it can't be used: "
TLS_FAILED = "TLS failed; does it serve TLS, and does it require a client certificate?"
_TOO_SLOW = "it does not answer in time"
BROKE = "the connection broke; does it run, and does it require TLS (rediss://), or serve none?"
_BY_CLASS: tuple[tuple[type[BaseException], str], ...] = (
    (ssl.SSLError, TLS_FAILED),
    (ConnectionRefusedError, "it refuses connections; does it run?"),
    (TimeoutError, _TOO_SLOW),
    (ConnectionError, BROKE),
    (FileNotFoundError, "one of the files for TLS can't be read"),
    (PermissionError, "one of the files for TLS can't be read"),
)
_BY_NAME = {
    "gaierror": "its name can't be resolved",
    "TimeoutError": _TOO_SLOW,
    "ConnectionError": BROKE,
    "AuthenticationError": _REFUSES_LOGIN,
    "AuthenticationWrongNumberOfArgsError": _REFUSES_LOGIN,
    "NoPermissionError": "its user lacks a permission that rewrap needs",
    "ReadOnlyError": "it is a replica, which takes no writes",
    "OutOfMemoryError": "its memory is full",
    "BusyLoadingError": "it still loads its data",
    "MasterNotFoundError": "no sentinel names a master",
    "InvalidResponse": "the server that answers is not Redis",
    "ResponseError": "it refuses a command, or does not know it",
}
"""Mostly redis-py's classes, by name: this module imports no client."""


def kind_of(error: BaseException) -> str:
    """Return the classes of an error and of its causes, each with the system's text for its errno where it has one."""
    return ", from ".join(dict.fromkeys(map(_kind, chain_of(error))))


def why_unreachable(error: BaseException, *, has_password: bool = True) -> str:
    """Return why Redis can't be used: a fixed sentence for known errors, else one with the classes of the error.

    `has_password`: whether the client gave one.
    """
    known = [sentence for one in chain_of(error) if (sentence := _sentence(one))]
    clear = [one for one in known if not is_unclear(one)]
    # Of unclear ones, that of the first cause: a client's own error for it says less.
    sentence = (clear[:1] or known[-1:] or [f"{_UNKNOWN}{kind_of(error)}"])[0]
    return _REQUIRES_LOGIN if sentence == _REFUSES_LOGIN and not has_password else sentence


class Distrust(Enum):
    """Why a client refuses a server's certificate."""

    EXPIRED = auto()
    NOT_YET_VALID = auto()
    OTHER_HOST = auto()
    UNKNOWN_AUTHORITY = auto()


_BY_VERIFY_CODE = {
    9: Distrust.NOT_YET_VALID,
    10: Distrust.EXPIRED,
    62: Distrust.OTHER_HOST,  # another name
    64: Distrust.OTHER_HOST,  # another address
}
"""By OpenSSL's X509_V_ERR codes (openssl/x509_vfy.h)."""


def distrust_of(error: ssl.SSLCertVerificationError) -> Distrust:
    """Return why a certificate is refused; other causes count as an unknown authority, the usual one."""
    return _BY_VERIFY_CODE.get(getattr(error, "verify_code", 0), Distrust.UNKNOWN_AUTHORITY)


def why_distrusted(error: ssl.SSLCertVerificationError, address: str, authority: str) -> str:
    """Return why a server's certificate is refused; `address` and `authority` are the flags that name these."""
    match distrust_of(error):
        case Distrust.NOT_YET_VALID:
            return "its certificate is not valid yet; compare the clocks of both machines"
        case Distrust.EXPIRED:
            return "its certificate has expired; renew it"
        case Distrust.OTHER_HOST:
            return f"its certificate is not for the host in {address}; write a name or an address that it names"
        case Distrust.UNKNOWN_AUTHORITY:
            return f"no trusted authority signed its certificate; give the one that did with {authority}"


def is_alert(error: BaseException) -> bool:
    """Whether a TLS server ended the connection with an alert: it refuses our certificate, or requires one."""
    return isinstance(error, ssl.SSLError) and "ALERT" in (getattr(error, "reason", None) or "")


def is_unclear(sentence: str) -> bool:
    """Whether a sentence of `why_unreachable` leaves the cause open."""
    return sentence in {TLS_FAILED, _TOO_SLOW, BROKE} or sentence.startswith(_UNKNOWN)


def _sentence(error: BaseException) -> str:
    if is_alert(error):
        return _REFUSES_CERTIFICATE
    if isinstance(error, ssl.SSLCertVerificationError):
        return why_distrusted(error, "--broker", "--broker-cacert")
    of_class = (sentence for kind, sentence in _BY_CLASS if isinstance(error, kind))
    of_name = (_BY_NAME[kind.__name__] for kind in type(error).__mro__ if kind.__name__ in _BY_NAME)
    return next(of_class, "") or next(of_name, "")


def chain_of(error: BaseException) -> list[BaseException]:
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
