"""Of a library's error its kind is told, and none of its words."""

from __future__ import annotations

import logging
import socket
import ssl

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.library_errors import LibraryLines, forward_libraries, kind_in, kind_of, why_unreachable

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
def test_an_error_is_told_by_its_kind(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_a_cause_that_was_hidden_is_told_too() -> None:
    error = RuntimeError(MARK)
    error.__context__, error.__suppress_context__ = PermissionError(13, MARK), True
    assert kind_of(error) == "RuntimeError, from PermissionError (Permission denied)"


def test_errors_that_cause_each_other_come_to_an_end() -> None:
    one, other = RuntimeError(MARK), ValueError(MARK)
    one.__cause__, other.__cause__ = other, one
    assert kind_of(one) == "RuntimeError, from ValueError"


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        pytest.param((f"no {MARK}",), "", id="text"),
        pytest.param((f"no %s: {MARK}", OSError(MARK)), "OSError", id="an error among its arguments"),
        pytest.param((f"no %(exc)s: {MARK}", {"exc": OSError(MARK)}), "OSError", id="by name"),
    ],
)
def test_what_a_library_logs_is_told_by_its_place(arguments: tuple[object, ...], because: str) -> None:
    logger = logging.getLogger("a.library")
    record = logger.makeRecord("a.library", logging.ERROR, "/lib/thing.py", 7, arguments[0], arguments[1:], None)
    with capture_logs() as logs:
        LibraryLines().handle(record)
    line = {"event": "library.message", "log_level": "warning", "logger": "a.library", "place": "thing.py:7"}
    assert logs == [{**line, "because": because}]


def test_an_error_that_is_logged_with_its_traceback_is_told_by_its_kind() -> None:
    error = ValueError(MARK)
    record = logging.getLogger().makeRecord("x", 40, "x.py", 1, MARK, (), (type(error), error, None))
    assert kind_in(record) == "ValueError"


def test_libraries_are_forwarded_once_and_print_nothing_themselves(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = list(root.handlers)
    root.handlers = []
    try:
        with capture_logs() as logs:
            forward_libraries()
            forward_libraries()
            logging.getLogger("a.library").warning("no %s", MARK)
    finally:
        root.handlers = before
    assert [(line["event"], line["logger"]) for line in logs] == [("library.message", "a.library")]
    assert capfd.readouterr() == ("", "")


def named(name: str) -> Exception:
    """An error of a library's class, known by its name."""
    error: Exception = type(name, (Exception,), {})(MARK)
    return error


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (ConnectionRefusedError(111, MARK), "it refuses connections; does it run?"),
        (socket.gaierror(-2, MARK), "its name can't be resolved"),
        (TimeoutError(MARK), "it does not answer in time"),
        (named("AuthenticationError"), "it refuses the user or the password, or wants one"),
        (
            ssl.SSLCertVerificationError(1, MARK),
            "TLS failed: its certificate is not one that is trusted for this name",
        ),
        (ssl.SSLError(1, MARK), "TLS failed; does it speak TLS, and does it want a client certificate?"),
        (ConnectionResetError(104, MARK), "the connection broke; does it want TLS (rediss://), or none?"),
        (FileNotFoundError(2, MARK), "a file that is given for TLS can't be read"),
        (named("ReadOnlyError"), "it is a replica, which takes no writes"),
        (RuntimeError(MARK), "it can't be used: RuntimeError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else None,
)
def test_why_redis_cannot_be_used_is_said_in_words_of_ours(error: Exception, sentence: str) -> None:
    assert why_unreachable(error) == sentence
    if "RuntimeError" not in sentence:
        # As kombu and redis-py hand it on: their own say less than what led to them.
        assert why_unreachable(chained(named("OperationalError"), chained(named("Other"), error))) == sentence
