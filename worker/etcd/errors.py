"""Maps gRPC's status codes and etcd's messages to our own errors; no other module does.

`rejected` returns whether an answer proves that etcd did not apply a write. After any other error the outcome is
unknown until the caller has read the key once more.
"""

from __future__ import annotations

from collections.abc import Callable

import grpc

from kube_rewrap.worker.errors import (
    CompactedError,
    RefusedError,
    RequestRefusedError,
    SpaceError,
    TemporaryError,
    TooLargeError,
    UnavailableError,
    WorkerError,
)

_Code = grpc.StatusCode
_Make = Callable[[str], WorkerError]

_NO_SPACE = "database space exceeded"
_LONGEST_DETAILS = 300
_TOO_LARGE = ("request is too large", "larger than max", "message too large")
_COMPACTED = "required revision has been compacted"
_TOKEN = ("invalid auth token", "revision of auth store is old", "auth: token")
_LOGIN = (
    ("invalid user ID or password", "etcd refuses the user or the password; check --user and REWRAP_PASSWORD"),
    ("user name is empty", "etcd requires a login; give --user, and the password in REWRAP_PASSWORD"),
    ("authentication is not enabled", "etcd has authentication turned off; leave --user out"),
)
"""What etcd says of a login (api/v3rpc/rpctypes/error.go), and the same with its remedy."""

_BY_CODE: dict[grpc.StatusCode, _Make] = {
    _Code.OK: lambda text: RequestRefusedError(f"etcd answered OK where an error was expected: {text}"),
    _Code.CANCELLED: lambda text: TemporaryError(f"the call was cancelled: {text}"),
    _Code.UNKNOWN: lambda text: TemporaryError(f"etcd failed: {text}"),
    _Code.INVALID_ARGUMENT: lambda text: RequestRefusedError(f"etcd refused the request: {text}"),
    _Code.DEADLINE_EXCEEDED: lambda text: UnavailableError(f"etcd did not answer in time: {text}"),
    _Code.NOT_FOUND: lambda text: RequestRefusedError(f"etcd does not have the object of the request: {text}"),
    _Code.ALREADY_EXISTS: lambda text: RequestRefusedError(f"etcd already has the object of the request: {text}"),
    _Code.PERMISSION_DENIED: lambda text: RequestRefusedError(
        f"etcd denied permission: {text}; the user needs read and write on the registry and on the state prefix"
    ),
    _Code.RESOURCE_EXHAUSTED: lambda text: TemporaryError(f"etcd is overloaded: {text}", delay=1.0),
    _Code.FAILED_PRECONDITION: lambda text: RequestRefusedError(f"etcd refused the request: {text}"),
    _Code.ABORTED: lambda text: TemporaryError(f"etcd aborted the request: {text}"),
    _Code.OUT_OF_RANGE: lambda text: RequestRefusedError(f"etcd refused the request: {text}"),
    _Code.UNIMPLEMENTED: lambda text: RequestRefusedError(f"this server does not offer the call; is it etcd 3? {text}"),
    _Code.INTERNAL: lambda text: TemporaryError(f"the connection broke: {text}"),
    _Code.UNAVAILABLE: lambda text: UnavailableError(f"etcd is not available: {text}"),
    _Code.DATA_LOSS: lambda text: RefusedError(f"etcd reports data loss, so rewrap writes nothing more: {text}"),
    _Code.UNAUTHENTICATED: lambda text: RequestRefusedError(f"etcd did not accept the credentials: {text}"),
}

_REJECTED = {
    _Code.INVALID_ARGUMENT,
    _Code.NOT_FOUND,
    _Code.ALREADY_EXISTS,
    _Code.PERMISSION_DENIED,
    _Code.RESOURCE_EXHAUSTED,
    _Code.FAILED_PRECONDITION,
    _Code.OUT_OF_RANGE,
    _Code.UNIMPLEMENTED,
    _Code.UNAUTHENTICATED,
}


def translate(code: grpc.StatusCode, details: str) -> WorkerError:
    """Return our error for an answer of etcd. Total over all status codes.

    RESOURCE_EXHAUSTED has three meanings, which only etcd's message distinguishes (etcd api/v3rpc/rpctypes/error.go).
    """
    if _COMPACTED in details:
        return CompactedError(details)
    if _NO_SPACE in details:
        return SpaceError(
            "etcd's database is full (NOSPACE): compact and defragment it, disarm the alarm "
            "(`etcdctl alarm disarm`), then run again"
        )
    if any(words in details for words in _TOO_LARGE):
        return TooLargeError(details)
    if login := next((said for words, said in _LOGIN if words in details), ""):
        return RequestRefusedError(login)
    return _BY_CODE[code](" ".join(details.split())[:_LONGEST_DETAILS])


def rejected(code: grpc.StatusCode) -> bool:
    """Whether the answer proves that etcd did not apply the write."""
    return code in _REJECTED


def token_expired(code: grpc.StatusCode, details: str) -> bool:
    """Whether a new authentication may help. etcd reports that with several codes and messages."""
    return code is _Code.UNAUTHENTICATED or any(words in details for words in _TOKEN)
