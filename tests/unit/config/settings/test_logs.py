"""No key and no plaintext gets into the log, neither in events of ours nor in what libraries log."""

from __future__ import annotations

import io
import json
import logging
import os
import platform
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import structlog
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.flags import EVERY
from kube_rewrap.config.settings.logs import (
    LibraryLogHandler,
    configure_logs,
    forward_library_logs,
    log_start,
    logged_kind,
    redact,
)
from kube_rewrap.config.settings.schema import LogSettings
from kube_rewrap.config.settings.sources import settings_from, sources_of

CANARY = b"canary-0123456789"
TEXT = CANARY.decode()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logs(LogSettings(), "worker", stream)
    yield stream
    structlog.reset_defaults()


def only(stream: io.StringIO) -> dict[str, Any]:
    (line,) = stream.getvalue().splitlines()
    document: dict[str, Any] = json.loads(line)
    return document


def test_a_line_is_json_with_time_level_event_and_fields(lines: io.StringIO) -> None:
    structlog.get_logger().info("batch.page", objects=3, resource="secrets")
    document = only(lines)
    assert list(document)[:5] == ["event", "level", "timestamp", "role", "process"]
    assert document.pop("timestamp")
    assert document.pop("process") == f"{platform.node()}:{os.getpid()}"
    assert document == {
        "event": "batch.page",
        "level": "info",
        "role": "worker",
        "objects": 3,
        "resource": "secrets",
    }


def test_what_is_below_the_level_is_left_out(lines: io.StringIO) -> None:
    structlog.get_logger().debug("ledger.begun_elsewhere")
    assert not lines.getvalue()


@pytest.mark.parametrize("name", ["secret", "password", "plaintext", "token", "value", "private_key"])
def test_a_telling_name_is_masked_whatever_it_holds(lines: io.StringIO, name: str) -> None:
    structlog.get_logger().info("x", **{name: TEXT})
    assert only(lines)[name] == "[redacted]"


@pytest.mark.parametrize(
    "value",
    [CANARY, bytearray(CANARY), memoryview(CANARY), SecretBytes(CANARY)],
    ids=lambda value: type(value).__name__,
)
def test_raw_bytes_are_masked_under_any_name(lines: io.StringIO, value: object) -> None:
    structlog.get_logger().info("x", harmless=value)
    assert only(lines)["harmless"] == "[redacted]"


def test_bytes_and_secret_names_are_masked_inside_lists_and_mappings() -> None:
    event = redact(None, "info", {"a": [b"canary"], "b": {"secret": "canary"}})
    assert event == {"a": ["[redacted]"], "b": {"secret": "[redacted]"}}


def fail_over(key_material: str) -> None:
    raise ValueError(len(key_material))


def test_a_traceback_shows_no_local_variable(lines: io.StringIO) -> None:
    try:
        fail_over(TEXT)
    except ValueError:
        structlog.get_logger().exception("x")
    assert TEXT not in lines.getvalue()
    assert "ValueError" in lines.getvalue()


def test_a_traceback_shows_no_text_of_an_error(lines: io.StringIO) -> None:
    error = ConnectionError(f"AUTH default {TEXT}")
    error.add_note(TEXT)
    structlog.get_logger().error("x", exc_info=error)
    assert TEXT not in lines.getvalue()
    assert '"ConnectionError"' in lines.getvalue()


def test_bound_context_is_masked_too(lines: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(password=TEXT, campaign="c"):
        structlog.get_logger().info("x")
    assert (only(lines)["password"], only(lines)["campaign"]) == ("[redacted]", "c")


def test_everything_else_passes() -> None:
    event = {"event": "x", "fingerprint": "0011", "objects": 3, "because": "value"}
    assert redact(None, "info", dict(event)) == event


@pytest.mark.parametrize(
    ("arguments", "because"),
    [
        pytest.param((f"no {TEXT}",), "", id="text"),
        pytest.param((f"no %s: {TEXT}", OSError(TEXT)), "OSError", id="an error among its arguments"),
        pytest.param((f"no %(exc)s: {TEXT}", {"exc": OSError(TEXT)}), "OSError", id="by name"),
    ],
)
def test_what_a_library_logs_is_logged_by_its_place(arguments: tuple[object, ...], because: str) -> None:
    logger = logging.getLogger("a.library")
    record = logger.makeRecord("a.library", logging.ERROR, "/lib/thing.py", 7, arguments[0], arguments[1:], None)
    with capture_logs() as logs:
        LibraryLogHandler().handle(record)
    line = {"event": "library.message", "log_level": "warning", "logger": "a.library", "place": "thing.py:7"}
    assert logs == [{**line, "because": because}]


def test_an_error_that_is_logged_with_its_traceback_is_shown_by_its_class() -> None:
    error = ValueError(TEXT)
    record = logging.getLogger().makeRecord("x", 40, "x.py", 1, TEXT, (), (type(error), error, None))
    assert logged_kind(record) == "ValueError"


def test_libraries_are_forwarded_once_and_print_nothing_themselves(capfd: pytest.CaptureFixture[str]) -> None:
    root = logging.getLogger()
    before = list(root.handlers)
    root.handlers = []
    try:
        with capture_logs() as logs:
            forward_library_logs()
            forward_library_logs()
            logging.getLogger("a.library").warning("no %s", TEXT)
    finally:
        root.handlers = before
    assert [(line["event"], line["logger"]) for line in logs] == [("library.message", "a.library")]
    assert capfd.readouterr() == ("", "")


def test_a_console_line_is_text_that_no_terminal_takes_for_a_command() -> None:
    stream = io.StringIO()
    configure_logs(LogSettings(level="DEBUG", format="console"), "worker", stream)
    try:
        structlog.get_logger().debug("batch.page", resource="a\x1b[2Jb\nc", password=TEXT)
        structlog.get_logger().error("x", exc_info=ValueError(TEXT))
    finally:
        structlog.reset_defaults()
    first, second, *more = stream.getvalue().splitlines()
    assert "batch.page" in first
    assert "role='worker'" in first
    assert r"resource='a\x1b[2Jb\nc'" in first
    assert ("error" in second, "ValueError" in more[0], TEXT in stream.getvalue()) == (True, True, False)


def test_the_first_line_names_what_was_given_and_by_what_and_no_password(lines: io.StringIO, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.touch(mode=0o600)
    file.write_text('[pace]\nrate = 50\nmax_window = 8\n[etcd]\nuser = "root"\n')
    environment = {
        "REWRAP_SETTINGS": str(file),
        "REWRAP_PASSWORD": TEXT,
        "REWRAP_BROKER": "redis://redis:6379/0",
        "REWRAP_MAX_WINDOW": "16",
    }
    given = {"--rate": "70", "--cacert": "ca.crt", "--endpoints": "https://a:2379,https://b:2379"}
    settings = settings_from(EVERY, given, environment)
    log_start(settings, sources_of(EVERY, given, environment), "/etc/kubernetes/enc.yaml")
    line = only(lines)
    assert (line["event"], line["file"], line["broker"]) == (
        "process.started",
        "/etc/kubernetes/enc.yaml",
        "redis:6379",
    )
    assert line["version"] == version("kube-rewrap")
    assert line["endpoints"] == ["https://a:2379", "https://b:2379"]
    assert line["given_by"] == {
        "pace.rate": "--rate",
        "pace.max_window": "REWRAP_MAX_WINDOW",
        "etcd.user": str(file),
        "etcd.password": "REWRAP_PASSWORD",
        "etcd.cacert": "--cacert",
        "etcd.endpoints": "--endpoints",
        "broker.url": "REWRAP_BROKER",
    }
    assert (line["settings"]["pace.rate"], line["settings"]["pace.max_window"]) == (70.0, 16)
    assert (line["settings"]["etcd.password"], line["settings"]["broker.url"]) == ("[redacted]", "[redacted]")
