"""No key and no plaintext leaves by the log."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator

import pytest
import structlog

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.logs import configure_logs, redact

CANARY = b"canary-0123456789"


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    stream = io.StringIO()
    configure_logs("info", stream)
    yield stream
    structlog.reset_defaults()


def only(stream: io.StringIO) -> dict[str, object]:
    (line,) = stream.getvalue().splitlines()
    document: dict[str, object] = json.loads(line)
    return document


def test_a_line_is_json_with_time_level_event_and_fields(lines: io.StringIO) -> None:
    structlog.get_logger().info("batch.page", objects=3, resource="secrets")
    document = only(lines)
    assert document.pop("timestamp")
    assert document == {"event": "batch.page", "level": "info", "objects": 3, "resource": "secrets"}


def test_what_is_below_the_level_is_left_out(lines: io.StringIO) -> None:
    structlog.get_logger().debug("ledger.begun_elsewhere")
    assert not lines.getvalue()


@pytest.mark.parametrize("name", ["secret", "password", "plaintext", "token", "value", "private_key"])
def test_a_telling_name_is_masked_whatever_it_holds(lines: io.StringIO, name: str) -> None:
    structlog.get_logger().info("x", **{name: CANARY.decode()})
    assert only(lines)[name] == "[redacted]"


@pytest.mark.parametrize(
    "value",
    [CANARY, bytearray(CANARY), memoryview(CANARY), SecretBytes(CANARY)],
    ids=lambda value: type(value).__name__,
)
def test_raw_bytes_are_masked_under_any_name(lines: io.StringIO, value: object) -> None:
    structlog.get_logger().info("x", harmless=value)
    assert only(lines)["harmless"] == "[redacted]"


def fail_over(key_material: str) -> None:
    raise ValueError(len(key_material))


def test_a_traceback_shows_no_local_variable(lines: io.StringIO) -> None:
    try:
        fail_over(CANARY.decode())
    except ValueError:
        structlog.get_logger().exception("x")
    assert CANARY.decode() not in lines.getvalue()
    assert "ValueError" in lines.getvalue()


def test_a_traceback_shows_no_text_of_an_error(lines: io.StringIO) -> None:
    error = ConnectionError(f"AUTH default {CANARY.decode()}")
    error.add_note(CANARY.decode())
    structlog.get_logger().error("x", exc_info=error)
    assert CANARY.decode() not in lines.getvalue()
    assert '"ConnectionError"' in lines.getvalue()


def test_bound_context_is_masked_too(lines: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(password=CANARY.decode(), campaign="c"):
        structlog.get_logger().info("x")
    assert (only(lines)["password"], only(lines)["campaign"]) == ("[redacted]", "c")


def test_everything_else_passes() -> None:
    event = {"event": "x", "fingerprint": "0011", "objects": 3, "because": "value"}
    assert redact(None, "info", dict(event)) == event
