"""The map from gRPC's answers to our errors is total, and knows etcd's words."""

from __future__ import annotations

import grpc
import pytest

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
from kube_rewrap.worker.etcd.errors import rejected, token_expired, translate

Code = grpc.StatusCode

# Each code with our error, and whether it proves that a write was not applied.
TABLE: dict[grpc.StatusCode, tuple[type[WorkerError], bool]] = {
    Code.OK: (RequestRefusedError, False),
    Code.CANCELLED: (TemporaryError, False),
    Code.UNKNOWN: (TemporaryError, False),
    Code.INVALID_ARGUMENT: (RequestRefusedError, True),
    Code.DEADLINE_EXCEEDED: (UnavailableError, False),
    Code.NOT_FOUND: (RequestRefusedError, True),
    Code.ALREADY_EXISTS: (RequestRefusedError, True),
    Code.PERMISSION_DENIED: (RequestRefusedError, True),
    Code.RESOURCE_EXHAUSTED: (TemporaryError, True),
    Code.FAILED_PRECONDITION: (RequestRefusedError, True),
    Code.ABORTED: (TemporaryError, False),
    Code.OUT_OF_RANGE: (RequestRefusedError, True),
    Code.UNIMPLEMENTED: (RequestRefusedError, True),
    Code.INTERNAL: (TemporaryError, False),
    Code.UNAVAILABLE: (UnavailableError, False),
    Code.DATA_LOSS: (RefusedError, False),
    Code.UNAUTHENTICATED: (RequestRefusedError, True),
}


def test_the_table_above_is_total() -> None:
    assert set(TABLE) == set(grpc.StatusCode)


@pytest.mark.parametrize("code", grpc.StatusCode, ids=lambda code: code.name)
def test_every_code_has_its_error_and_says_etcds_words(code: grpc.StatusCode) -> None:
    error = translate(code, "words of etcd")
    assert type(error) is TABLE[code][0]
    assert "words of etcd" in str(error)


@pytest.mark.parametrize("code", grpc.StatusCode, ids=lambda code: code.name)
def test_only_some_codes_prove_that_a_write_was_not_applied(code: grpc.StatusCode) -> None:
    assert rejected(code) is TABLE[code][1]


# etcd api/v3rpc/rpctypes/error.go, and grpc's own words.
WORDS: list[tuple[str, grpc.StatusCode, str, type[WorkerError]]] = [
    ("too many requests", Code.RESOURCE_EXHAUSTED, "etcdserver: too many requests", TemporaryError),
    ("database full", Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded", SpaceError),
    ("answer too large", Code.RESOURCE_EXHAUSTED, "Received message larger than max (9 vs. 4)", TooLargeError),
    (
        "request too large for gRPC",
        Code.RESOURCE_EXHAUSTED,
        "grpc: received message larger than max (9 vs. 4)",
        TooLargeError,
    ),
    ("request too large for etcd", Code.INVALID_ARGUMENT, "etcdserver: request is too large", TooLargeError),
    (
        "compacted",
        Code.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision has been compacted",
        CompactedError,
    ),
    (
        "future revision",
        Code.OUT_OF_RANGE,
        "etcdserver: mvcc: required revision is a future revision",
        RequestRefusedError,
    ),
    ("no leader", Code.UNAVAILABLE, "etcdserver: no leader", UnavailableError),
    ("timed out", Code.UNAVAILABLE, "etcdserver: request timed out", UnavailableError),
    ("denied", Code.PERMISSION_DENIED, "etcdserver: permission denied", RequestRefusedError),
]


@pytest.mark.parametrize(("name", "code", "details", "kind"), WORDS, ids=[row[0] for row in WORDS])
def test_etcds_words_decide_where_a_code_has_several_meanings(
    name: str, code: grpc.StatusCode, details: str, kind: type[WorkerError]
) -> None:
    assert type(translate(code, details)) is kind


@pytest.mark.parametrize(
    ("code", "words", "said"),
    [
        (Code.INVALID_ARGUMENT, "authentication failed, invalid user ID or password", "check --user and"),
        (Code.INVALID_ARGUMENT, "user name is empty", "etcd requires a login; give --user"),
        (Code.FAILED_PRECONDITION, "authentication is not enabled", "leave --user out"),
    ],
)
def test_what_is_wrong_with_a_login_is_said_with_its_remedy(code: grpc.StatusCode, words: str, said: str) -> None:
    error = translate(code, f"etcdserver: {words}")
    assert type(error) is RequestRefusedError
    assert said in str(error)


@pytest.mark.parametrize(
    ("code", "details", "expired"),
    [
        (Code.UNAUTHENTICATED, "etcdserver: invalid auth token", True),
        (Code.INVALID_ARGUMENT, "etcdserver: revision of auth store is old", True),
        (Code.PERMISSION_DENIED, "etcdserver: permission denied", False),
        (Code.UNAVAILABLE, "etcdserver: no leader", False),
    ],
)
def test_a_new_token_is_tried_where_the_old_one_may_have_expired(
    code: grpc.StatusCode, details: str, expired: bool
) -> None:
    assert token_expired(code, details) is expired
