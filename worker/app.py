"""The Celery application: its settings, and the life of a child process.

Celery carries hints. What is lost, doubled or late on the way is mended by the scheduler's loop, which
reads etcd; so there is no result backend, no chord, no beat and no revoke, and a message says just
which record to look at. See docs/adr/0006-celery-as-a-hint.md.
"""

from __future__ import annotations

import ast
import json
import logging
import os
import sys
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from typing import Any

import structlog
from celery import Celery, Task
from celery.platforms import SecurityWarning
from celery.signals import (
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
)
from celery.worker.request import Request
from kombu.entity import Exchange, Queue

from config.broker import parse_broker
from config.flags import EVERY, settings_from
from config.logs import LEVELS, configure_logs
from config.settings import Settings
from worker.child import Child
from worker.coredump import forbid_core_dumps
from worker.queues import BATCHES, CONTROL, CONTROL_TASKS, PROVE, REWRITE
from worker.transport import register

_HARD_LIMIT_SECONDS = 300
_VISIBILITY_SECONDS = 900
"""Above the hard limit, so that no message comes back while it is worked on."""

_log = structlog.get_logger()


class CountedRequest(Request):  # type: ignore[misc]
    """Runs in the parent: what a task returned is shown to whoever counts there.

    Celery makes a subclass of this one whose `on_success` calls nobody else's, so the instance has its own.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        succeed: Any = type(self).__dict__["on_success"]

        def on_success(failed__retval__runtime: Any, **more: Any) -> Any:
            failed, shown, _ = failed__retval__runtime
            if not failed:
                for counter in counters:
                    counter(counted(shown))
            return succeed(self, failed__retval__runtime, **more)

        self.on_success = on_success


def counted(shown: str) -> dict[str, object]:
    """Return what a child's task returned, from the repr of its JSON text, which is what Celery passes on."""
    try:
        done = json.loads(ast.literal_eval(shown))
    except (ValueError, SyntaxError, TypeError):
        return {}
    return done if isinstance(done, dict) else {}


counters: list[Any] = []
"""Functions in a worker's parent that are shown the JSON form of each `Done`."""


class CountedTask(Task):  # type: ignore[misc]
    """A task whose results the parent counts."""

    Request = f"{__name__}:CountedRequest"
    resultrepr_maxsize = 4096  # the counts must arrive whole


def build_app(settings: Settings) -> Celery:
    """Return the application for these settings. Raises SettingsError for a broker that can't be used."""
    broker = parse_broker(settings.broker)
    register()
    app = Celery("kube-rewrap", task_cls=CountedTask)
    transport = {
        **broker.transport_options(),
        "visibility_timeout": _VISIBILITY_SECONDS,
        # Control first: a pause must not wait behind a thousand batches.
        "queue_order_strategy": "priority",
    }
    exchange = Exchange("rewrap", type="direct")
    app.conf.update(
        broker_url=broker.url.reveal().decode(),
        broker_use_ssl=broker.use_ssl(),
        broker_transport_options=transport,
        result_backend_transport_options=transport,
        visibility_timeout=_VISIBILITY_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=settings.broker.timeout,
        include=["worker.tasks"],
        task_queues=[Queue(name, exchange, routing_key=name) for name in (CONTROL, BATCHES)],
        task_routes={
            **{name: {"queue": CONTROL} for name in CONTROL_TASKS},
            REWRITE: {"queue": BATCHES},
            PROVE: {"queue": BATCHES},
        },
        task_default_queue=BATCHES,
        task_create_missing_queues=False,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_ignore_result=True,
        task_acks_late=True,
        task_reject_on_worker_lost=True,
        task_time_limit=_HARD_LIMIT_SECONDS,
        task_publish_retry=False,
        worker_pool="prefork",
        worker_pool_start_method="spawn",
        worker_concurrency=settings.service.children,
        worker_prefetch_multiplier=1,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        worker_soft_shutdown_timeout=settings.service.slice + 5,
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_remote_control=False,
        worker_send_task_events=False,
        worker_proc_alive_timeout=60,
    )
    return app


def run_worker(app: Celery) -> None:
    """Run a worker of this application until a signal ends it; its banner is left out."""
    # Where the configuration file is root's alone, so is the worker; deploy/ takes the rest away from it.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    app.start(
        ["--quiet", "worker", "--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", "INFO"]
    )


@cache
def from_environment() -> Settings:
    """Return the settings of this process' `REWRAP_` variables. Raises SettingsError."""
    return settings_from(EVERY, {}, os.environ)


@cache
def child() -> Child:
    """Return this child process' own loop and engine, made when the first message comes."""
    file = os.environ.get("REWRAP_ENCRYPTION_CONFIG", "")
    allowed = os.environ.get("REWRAP_ALLOW_READABLE_CONFIG", "").lower() in {"1", "true", "yes"}
    return Child(from_environment(), file, allow_readable=allowed)


@setup_logging.connect
def _set_up_logs(**_: object) -> None:
    """Celery's own lines go the way of ours; what it says again and again while Redis is away is said once."""
    level = os.environ.get("REWRAP_LOG_LEVEL", "info").lower()
    configure_logs(level if level in LEVELS else "info")
    root = logging.getLogger()
    root.handlers = [_Forward(level=logging.INFO)]
    root.setLevel(logging.INFO)


@worker_init.connect
def _begin_parent(**_: object) -> None:
    """Serve what the children return as metrics; runs in the parent only."""
    settings = from_environment()
    address = settings.service.metrics_addr
    if address is None:
        return
    from prometheus_client import CollectorRegistry

    from worker.exposition import serve
    from worker.metrics import WorkerMetrics

    registry = CollectorRegistry()
    counters.append(WorkerMetrics(registry, settings.pace.rate).count)
    _parent.enter_context(serve(address, registry, lambda: "", lambda: _broker.away))


@worker_ready.connect
def _ready(**_: object) -> None:
    _broker.away = ""


@worker_shutdown.connect
def _end_parent(**_: object) -> None:
    _parent.close()


@worker_process_init.connect
def _begin(**_: object) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    forbid_core_dumps()
    _set_up_logs()


@worker_process_shutdown.connect
def _end(**_: object) -> None:
    if child.cache_info().currsize:
        try:
            child().close()
        except Exception as error:  # noqa: BLE001 - the process ends anyway; what did not settle errs upwards
            _log.warning("worker.not_settled", because=type(error).__name__)


@dataclass(slots=True)
class _Broker:
    """Why Redis can't be had, "" = it can."""

    away: str = "not connected yet"


_broker = _Broker()
_parent = ExitStack()
"""What the parent holds open until it ends."""


class _Forward(logging.Handler):
    """Turns log records of libraries into events of ours: warnings, and each trouble with the broker once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._away = False

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if record.name == "celery.worker.consumer.consumer" and record.levelno >= logging.WARNING:
            if not self._away:
                self._away = True
                _broker.away = _first_line(record)
                _log.warning("broker.unavailable", because=_broker.away)
        elif record.name == "celery.worker.consumer.connection" and self._away:
            self._away = False
            _broker.away = ""
            _log.info("broker.available")
        elif record.levelno >= logging.WARNING and not _is_handed_back(record):
            _log.warning("library.message", logger=record.name, text=_first_line(record))


def _is_handed_back(record: logging.LogRecord) -> bool:
    """Whether Celery says what `batch.handed_back` has said already."""
    return record.name == "celery.app.trace" and " reject " in record.getMessage()


def _first_line(record: logging.LogRecord) -> str:
    """Return the beginning of a library's message; never its traceback, whose values are not ours to show."""
    return record.getMessage().split("\n", 1)[0][:300]


def __getattr__(name: str) -> Celery:
    """Build the application for `celery -A worker.app worker` when it is asked for, not at import."""
    if name in {"app", "celery"}:
        app = build_app(from_environment())
        setattr(sys.modules[__name__], name, app)
        return app
    raise AttributeError(name)
