"""Of a library's error its class is shown, and none of its text."""

from __future__ import annotations

import socket
import ssl

import pytest

from kube_rewrap.config.library_errors import kind_of, why_unreachable

MARK = "CanaryPassword"


def chained(outer: Exception, inner: Exception) -> Exception:
    outer.__cause__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (RuntimeError(f"AUTH default {MARK}"), "RuntimeError"),
        (ConnectionRefusedError(111, MARK), "ConnectionRefusedError (Connection refused)"),
        (FileNotFoundError(2, MARK, f"/home/{MARK}"), "FileNotFoundError (No such file or directory)"),
        (OSError(MARK), "OSError"),
        (socket.gaierror(-2, MARK), "gaierror"),
        (ssl.SSLError(1, MARK), "SSLError"),
        (UnicodeDecodeError("utf-8", MARK.encode(), 0, 1, MARK), "UnicodeDecodeError"),
        (chained(KeyError(MARK), TimeoutError(MARK)), "KeyError, from TimeoutError"),
        (chained(KeyError(MARK), chained(KeyError(MARK), ValueError(MARK))), "KeyError, from ValueError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_an_error_is_shown_by_its_class(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_a_suppressed_cause_is_shown_too() -> None:
    error = RuntimeError(MARK)
    error.__context__, error.__suppress_context__ = PermissionError(13, MARK), True
    assert kind_of(error) == "RuntimeError, from PermissionError (Permission denied)"


def test_errors_that_cause_each_other_are_shown_once() -> None:
    one, other = RuntimeError(MARK), ValueError(MARK)
    one.__cause__, other.__cause__ = other, one
    assert kind_of(one) == "RuntimeError, from ValueError"


def named(name: str) -> Exception:
    """Return an error of a class with a library's name for it."""
    error: Exception = type(name, (Exception,), {})(MARK)
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionRefusedError(111, MARK), "it refuses connections; does it run?"),
        (socket.gaierror(-2, MARK), "its name can't be resolved"),
        (TimeoutError(MARK), "it does not answer in time"),
        (named("AuthenticationError"), "it refuses the user or the password of --broker (REWRAP_BROKER)"),
        (
            ssl.SSLCertVerificationError(1, MARK),
            "no trusted authority signed its certificate; give the one that did with --broker-cacert",
        ),
        (ssl.SSLError(1, MARK), "TLS failed; does it serve TLS, and does it require a client certificate?"),
        (
            ConnectionResetError(104, MARK),
            "the connection broke; does it run, and does it require TLS (rediss://), or serve none?",
        ),
        (
            named("ConnectionError"),
            "the connection broke; does it run, and does it require TLS (rediss://), or serve none?",
        ),
        (FileNotFoundError(2, MARK), "one of the files for TLS can't be read"),
        (named("ReadOnlyError"), "it is a replica, which takes no writes"),
        (RuntimeError(MARK), "it can't be used: RuntimeError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_why_redis_cannot_be_used_is_said_in_a_fixed_sentence(error: Exception, sentence: str) -> None:
    assert why_unreachable(error) == sentence
    if "RuntimeError" not in sentence:
        # As kombu and redis-py raise it: their own errors say less than their causes.
        assert why_unreachable(chained(named("OperationalError"), chained(named("Other"), error))) == sentence


def test_the_cause_is_said_rather_than_that_the_connection_broke() -> None:
    error = chained(named("ConnectionError"), ConnectionRefusedError(111, MARK))
    assert why_unreachable(error) == "it refuses connections; does it run?"
    error = chained(named("ConnectionError"), ssl.SSLError(1, MARK))
    assert why_unreachable(error) == "TLS failed; does it serve TLS, and does it require a client certificate?"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (9, "is not valid yet; compare the clocks"),
        (10, "has expired; renew it"),
        (20, "no trusted authority signed its certificate"),
        (62, "is not for the host in --broker"),
        (64, "is not for the host in --broker"),
    ],
)
def test_a_certificate_that_is_refused_is_told_apart_by_openssls_code(code: int, said: str) -> None:
    error = ssl.SSLCertVerificationError(1, MARK)
    error.verify_code = code
    assert said in why_unreachable(chained(named("OperationalError"), error))


def test_a_login_without_a_password_is_told_to_give_one() -> None:
    sentence = "it requires a password, and --broker has none; write redis://USER:PASSWORD@HOST in REWRAP_BROKER"
    assert why_unreachable(named("AuthenticationError"), has_password=False) == sentence
    assert why_unreachable(TimeoutError(MARK), has_password=False) == "it does not answer in time"


def test_the_alert_of_a_tls_server_is_about_our_certificate() -> None:
    error = ssl.SSLError(1, MARK)
    error.reason = "TLSV13_ALERT_CERTIFICATE_REQUIRED"
    assert why_unreachable(error) == (
        "it refuses the client certificate, or requires one; see --broker-cert and --broker-key"
    )
