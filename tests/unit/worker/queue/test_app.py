"""What a worker's parent makes of Celery: its log lines, its variables, and how messages end."""

from __future__ import annotations

import logging
import os
import pickle
from collections.abc import Iterator

import pytest
from billiard.einfo import ExceptionWithTraceback
from celery.exceptions import Reject, Retry
from celery.worker.consumer import consumer
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from kube_rewrap.config.errors import SettingsError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.worker import errors
from kube_rewrap.worker.queue import app
from kube_rewrap.worker.queue.execution import MessageResult
from kube_rewrap.worker.queue.names import CONTROL_TASKS, PROVE, REWRITE
from kube_rewrap.worker.queue.plugin_report import PluginReport, reports_in
from kube_rewrap.worker.queue.tasks import _encoded, gives_up

CONSUMER = logging.getLogger("celery.worker.consumer.consumer")
CONNECTION = logging.getLogger("celery.worker.consumer.connection")


@pytest.fixture
def forwarded() -> Iterator[None]:
    """The two loggers go the way that they go in a worker."""
    handler = app._Forward(logging.INFO)
    state = [(logger, logger.level, logger.propagate) for logger in (CONSUMER, CONNECTION)]
    for logger, _, _ in state:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    yield
    for logger, level, propagate in state:
        logger.removeHandler(handler)
        logger.setLevel(level)
        logger.propagate = propagate


def lose() -> None:
    """As Celery's consumer says it."""
    CONSUMER.warning("%s (%r)", consumer.CONNECTION_RETRY, ConnectionRefusedError("MARKER"))


def fail_to_connect() -> None:
    CONSUMER.error(consumer.CONNECTION_ERROR, "redis://127.0.0.1:1//", ResponseError("'AUTH' 'MARKER'"), "Trying again")


def connect() -> None:
    CONNECTION.info("Connected to %s", "redis://127.0.0.1:1//")


@pytest.mark.usefixtures("forwarded")
def test_an_outage_is_told_once_and_so_is_its_end() -> None:
    with capture_logs() as logs:
        lose()
        for _ in range(3):
            fail_to_connect()
        assert app._broker.trouble == "no connection to Redis; see the log: broker.unavailable"
        connect()
        assert app._broker.trouble == ""
        connect()
        fail_to_connect()
        assert app._broker.trouble == "no connection to Redis; see the log: broker.unavailable"
        connect()
    assert [line["event"] for line in logs] == ["broker.unavailable", "broker.available"] * 2
    assert [line["because"] for line in logs[::2]] == [
        "no connection: it refuses connections; does it run?",
        "no connection: it refuses a command, or does not know it",
    ]
    assert {line["broker"] for line in logs[::2]} == {"127.0.0.1:6379"}


@pytest.mark.usefixtures("forwarded")
@pytest.mark.parametrize(
    ("template", "arguments"),
    [
        pytest.param(consumer.UNKNOWN_FORMAT, ("MARKER",), id="no task's message"),
        pytest.param("Frequent restarts detected: %r", ("MARKER",), id="anything else"),
    ],
)
def test_other_warnings_of_the_consumer_are_no_outage(template: str, arguments: tuple[str, ...]) -> None:
    connect()
    app._broker.trouble = ""
    with capture_logs() as logs:
        CONSUMER.error(template, *arguments)
        assert app._broker.trouble == ""
        lose()
        connect()
    assert [line["event"] for line in logs] == ["library.message", "broker.unavailable", "broker.available"]
    assert "MARKER" not in repr(logs)


@pytest.mark.parametrize(
    ("error", "counts"),
    [
        pytest.param(Reject("another file", requeue=True), True, id="handed back"),
        pytest.param(ExceptionWithTraceback(Reject("another file", requeue=True), None), True, id="from a child"),
        pytest.param(Reject("a retry that was not sent", requeue=False), False, id="dropped"),
        pytest.param(Retry("later"), False, id="tried again"),
        pytest.param(RuntimeError("bug"), False, id="a bug"),
    ],
)
def test_only_what_goes_back_to_the_queue_counts_as_handed_back(error: Exception, *, counts: bool) -> None:
    assert app.handed_back(error) == ({"outcome": "handed_back"} if counts else None)


def test_what_goes_back_to_the_queue_brings_its_counts_along() -> None:
    plugin = PluginReport("cloud", "v2", sources=3)
    done = MessageResult("handed_back", "another KEK", plugins=(plugin,))
    result = app.handed_back(ExceptionWithTraceback(Reject(_encoded(done), requeue=True), None))
    assert result is not None
    assert result["outcome"] == "handed_back"
    assert reports_in(result) == (plugin,)


@pytest.mark.parametrize(
    "name",
    [
        "APP",
        "BROKER_URL",
        "C_FORCE_ROOT",
        "CELERY_APP",
        "CELERY_BROKER_READ_URL",
        "CELERY_BROKER_URL",
        "CELERY_BROKER_WRITE_URL",
        "CELERY_CONFIG_MODULE",
        "CELERY_LOADER",
        "CELERY_RESULT_BACKEND",
        "CONFIG_MODULE",
        "LOADER",
        "RESULT_BACKEND",
    ],
)
def test_variables_of_celerys_own_have_no_effect(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "redis://elsewhere.invalid/7")
    monkeypatch.setenv("REWRAP_RATE", "7")
    built = app.build_app(Settings())
    assert name not in os.environ
    assert os.environ["REWRAP_RATE"] == "7"
    assert (built.conf.broker_read_url, built.conf.broker_write_url) == ("redis://127.0.0.1:6379/0",) * 2
    assert built.conf.result_backend is None


def test_no_task_is_registered_but_ours_in_a_child_neither() -> None:
    built = app.build_app(Settings())
    built.loader.import_default_modules()
    ours = {*CONTROL_TASKS, REWRITE, PROVE}
    assert set(built.tasks) == ours
    # As a child gets it from its parent.
    copy = pickle.loads(pickle.dumps(built))  # noqa: S301 - our own
    copy.loader.import_default_modules()
    assert set(copy.tasks) == ours


@pytest.mark.parametrize(
    ("error", "retries", "expected"),
    [
        pytest.param(TimeoutError(), 0, False, id="the bound of a message => again"),
        pytest.param(errors.TemporaryError("busy"), 0, False, id="temporary => again"),
        pytest.param(errors.UnavailableError("no etcd"), 29, False, id="the last try but one => again"),
        pytest.param(errors.FencedError("not ours"), 0, False, id="fenced => again"),
        pytest.param(errors.RecordChangedError("changed"), 0, False, id="changed meanwhile => again"),
        pytest.param(errors.RecordUnclearError("perhaps written"), 0, False, id="not known => again"),
        pytest.param(SettingsError("etcd", ()), 0, False, id="a certificate that is being replaced => again"),
        pytest.param(errors.UnavailableError("no etcd"), 30, True, id="enough => refused"),
        pytest.param(TimeoutError(), 30, True, id="the bound, often enough => refused"),
        pytest.param(errors.RefusedError("too many"), 0, True, id="refused for safety => refused"),
        pytest.param(errors.RecordError("damaged"), 0, True, id="a damaged record => refused"),
        pytest.param(errors.RequestRefusedError("permission denied"), 0, True, id="no permission => refused"),
    ],
)
def test_a_control_message_is_tried_again_while_that_can_help(
    error: Exception, retries: int, *, expected: bool
) -> None:
    assert gives_up(error, retries) is expected
