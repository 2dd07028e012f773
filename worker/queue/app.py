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
from billiard.einfo import ExceptionWithTraceback
from celery import Celery, Task
from celery.apps import worker as program
from celery.exceptions import CPendingDeprecationWarning, Reject
from celery.platforms import SecurityWarning
from celery.signals import (
    celeryd_after_setup,
    setup_logging,
    worker_process_init,
    worker_process_shutdown,
    worker_ready,
    worker_shutdown,
)
from celery.worker.consumer.consumer import CONNECTION_ERROR, CONNECTION_RETRY
from celery.worker.request import Request
from celery.worker.state import active_requests, reserved_requests, scheduled_requests
from kombu.entity import Exchange, Queue

from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.library_errors import why_unreachable
from kube_rewrap.config.settings.broker import Broker, parse_broker
from kube_rewrap.config.settings.flags import EVERY, is_on
from kube_rewrap.config.settings.logs import LEVELS, LibraryLogHandler, configure_logs, logged_error
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.config.settings.sources import settings_from
from kube_rewrap.worker.coredump import forbid_core_dumps
from kube_rewrap.worker.etcd.reach import followed
from kube_rewrap.worker.queue.names import BATCHES, CONTROL, CONTROL_TASKS, EXCHANGE, PROVE, REWRITE
from kube_rewrap.worker.queue.process import Child
from kube_rewrap.worker.queue.transport import accounts, counters, pulse, register
from kube_rewrap.worker.usable import Usable
from kube_rewrap.worker.usable import followed as followed_file

_HARD_LIMIT_SECONDS = 300
_VISIBILITY_SECONDS = 900
"""Above the hard limit, so that no message comes back while it is worked on."""

_MOST_RESTORED = 100
"""Unacknowledged messages that are looked at in one go; Redis may list any number."""

_VARIABLES = {"APP", "BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "SKIP_CHECKS", "C_FORCE_ROOT"}
"""What Celery's command line reads besides `CELERY_…` (celery/bin/celery.py)."""

_CONSUMER = "celery.worker.consumer.consumer"
_REQUESTS = (active_requests, reserved_requests, scheduled_requests)
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
            try:
                return succeed(self, failed__retval__runtime, **more)
            finally:
                # Last: it is settled, whatever counting may raise.
                done = handed_back(shown.exception) if failed else counted(shown)
                if done is not None:
                    for counter in counters:
                        counter(done)

        self.on_success = on_success


def counted(shown: str) -> dict[str, object]:
    """Return what a child's task returned, from the repr of its JSON text, which is what Celery passes on."""
    try:
        done = json.loads(ast.literal_eval(shown))
    except (ValueError, SyntaxError, TypeError):
        return {}
    return done if isinstance(done, dict) else {}


def handed_back(error: object) -> dict[str, object] | None:
    """Return what a task counts as that ended by this error: None for all but a message that goes back to the queue."""
    raised = error.exc if isinstance(error, ExceptionWithTraceback) else error
    return {"outcome": "handed_back"} if isinstance(raised, Reject) and raised.requeue else None


class CountedTask(Task):  # type: ignore[misc]
    """A task whose results the parent counts."""

    Request = f"{__name__}:CountedRequest"
    resultrepr_maxsize = 4096  # the counts must arrive whole


class Application(Celery):  # type: ignore[misc]
    """Celery on our transports, and with our tasks alone; in a child too, where Celery makes it anew."""

    def __init__(self, *args: Any, **options: Any) -> None:
        register()
        super().__init__(*args, **options)

    def finalize(self, auto: bool = False) -> None:
        """See Celery; and forget its own tasks, which unlock chords, map, chain and clean up."""
        super().finalize(auto=auto)
        for name in [name for name in self._tasks if name.startswith("celery.")]:
            self._tasks.unregister(name)


def build_app(settings: Settings) -> Celery:
    """Return the application for these settings. Raises SettingsError for a broker that can't be used.

    Celery's own variables are dropped from this process' environment: it would put them above these settings.
    """
    broker = parse_broker(settings.broker)
    _forget_variables()
    app = Application("kube-rewrap", task_cls=CountedTask)
    transport = {
        **broker.transport_options(),
        "visibility_timeout": _VISIBILITY_SECONDS,
        # Control first: a pause must not wait behind a thousand batches.
        "queue_order_strategy": "priority",
        "unacked_restore_limit": _MOST_RESTORED,
    }
    exchange = Exchange(EXCHANGE, type="direct")
    app.conf.update(
        broker_url=broker.url.reveal().decode(),
        broker_use_ssl=broker.use_ssl(),
        broker_transport_options=transport,
        result_backend_transport_options=transport,
        visibility_timeout=_VISIBILITY_SECONDS,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_connection_timeout=settings.broker.timeout,
        include=["kube_rewrap.worker.queue.tasks"],
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


def _forget_variables() -> None:
    """Neither the shell nor a unit's environment decides on the application, the broker, the loader or the pool."""
    for name in [name for name in os.environ if name in _VARIABLES or name.startswith("CELERY_")]:
        del os.environ[name]


def run_worker(app: Celery) -> int:
    """Run a worker of this application until a signal ends it; its banner is left out.

    Returns its exit code: 0 after a signal, another after a fault.
    """
    # Where the configuration file is root's alone, so is the worker; deploy/ takes the rest away from it.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    if not sys.stdout.isatty():
        # What Celery tells a hand at the keyboard when a signal comes ("worker: Warm shutdown") is no JSON.
        program.safe_say = _say_nothing
    without = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    from celery.bin.celery import celery as command  # noqa: PLC0415 - a child, which imports this module, needs none

    # As Celery.start, which forgets the exit code.
    command.params[0].default = app
    return int(command.main(args=["--quiet", "worker", *without, "--loglevel", "INFO"], standalone_mode=False) or 0)


def _say_nothing(*_: object) -> None:
    pass


@cache
def from_environment() -> Settings:
    """Return the settings of this process' `REWRAP_` variables. Raises SettingsError."""
    return settings_from(EVERY, {}, os.environ)


@cache
def child() -> Child:
    """Return this child process' own loop and engine, made when the first message comes."""
    file, allowed = _configuration_file()
    return Child(from_environment(), file, allow_readable=allowed)


def _configuration_file() -> tuple[str, bool]:
    """Return its path, and whether others may be able to read it."""
    return os.environ.get("REWRAP_ENCRYPTION_CONFIG", ""), is_on(os.environ.get("REWRAP_ALLOW_READABLE_CONFIG", ""))


@setup_logging.connect
def _set_up_logs(**_: object) -> None:
    """Celery's own lines go the way of ours; what it says again and again while Redis is away is said once."""
    level = os.environ.get("REWRAP_LOG_LEVEL", "info").lower()
    configure_logs(level if level in LEVELS else "info")
    root = logging.getLogger()
    root.handlers = [_Forward(level=logging.INFO)]
    root.setLevel(logging.INFO)
    # billiard's logger, which passes nothing on to the root.
    logging.getLogger("multiprocessing").handlers = root.handlers


@celeryd_after_setup.connect
def _undo_celerys_logs(**_: object) -> None:
    """Take back what Celery did when it set up its logs, before it starts children."""
    # Without it billiard sets up no log of its own in a child, whose lines would be no JSON.
    os.environ.pop("_MP_FORK_LOGLEVEL_", None)
    # With each outage it advises what build_app has set on purpose.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)


@celeryd_after_setup.connect
def _account(**_: object) -> None:
    """Let the transport know what is at work; runs in the parent only."""
    accounts.append(_tags)


def _tags() -> list[str]:
    return [request.message.delivery_tag for known in _REQUESTS for request in known]


@celeryd_after_setup.connect
def _begin_parent(**_: object) -> None:
    """Look at the file, and serve what children return as metrics; runs in the parent only, with logs set up."""
    settings = from_environment()
    forbid_core_dumps()
    layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
    file, allowed = _configuration_file()
    usable = _parent.enter_context(followed_file(Usable(file, layout, allow_readable=allowed)))
    address = settings.service.metrics_addr
    if address is None:
        return
    # The optional server of the parent: the children, which import this module when they start, need none of it.
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - see above

    from kube_rewrap.worker.monitoring import serve  # noqa: PLC0415 - see above
    from kube_rewrap.worker.queue.metrics import WorkerMetrics  # noqa: PLC0415 - see above

    registry = CollectorRegistry()
    counters.append(WorkerMetrics(registry, settings.pace.rate).count)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    reach = _parent.enter_context(followed(settings.etcd, settings.keyspace.state_prefix))

    def trouble() -> str:
        return _broker.away or reach.away or usable.trouble or pulse.trouble()

    _parent.enter_context(serve(address, registry, lambda: "", trouble))


@celeryd_after_setup.connect
def _warn(**_: object) -> None:
    warn_of_clear_text(parse_broker(from_environment().broker))


def warn_of_clear_text(broker: Broker) -> None:
    """Say that the password of Redis can be read on the way. Not refused: what it opens is hints, not the truth."""
    if broker.is_in_clear:
        because = "the password goes to another machine without TLS; write rediss:// where others share the network"
        _log.warning("broker.password_in_clear", broker=broker.place, because=because)


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
    """Why Redis can't be had, "" = it can. Whoever asks whether the worker is ready sees it, unauthenticated."""

    away: str = "not connected to Redis yet"


_broker = _Broker()
_parent = ExitStack()
"""What the parent holds open until it ends."""


class _Forward(LibraryLogHandler):
    """As LibraryLogHandler; logs each kind of trouble with the broker once."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._away = False

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if _is_loss(record):
            if not self._away:
                self._away = True
                _broker.away = "no connection to Redis; see the log: broker.unavailable"
                error = logged_error(record)
                because = "no reason given" if error is None else why_unreachable(error)
                place = parse_broker(from_environment().broker).place
                _log.warning("broker.unavailable", broker=place, because=f"no connection: {because}")
        elif record.name == "celery.worker.consumer.connection" and self._away:
            self._away = False
            _broker.away = ""
            _log.info("broker.available", because="the connection to Redis is there again")
        elif not _is_handed_back(record):
            super().emit(record)


def _is_loss(record: logging.LogRecord) -> bool:
    """Whether Celery's consumer says that it has lost its connection, or gets none; it warns of other things too."""
    is_retry = isinstance(record.args, tuple) and record.args[:1] == (CONNECTION_RETRY,)
    return record.name == _CONSUMER and (is_retry or record.msg == CONNECTION_ERROR)


def _is_handed_back(record: logging.LogRecord) -> bool:
    """Whether Celery says what `batch.handed_back` has said already."""
    return record.name == "celery.app.trace" and " reject " in record.getMessage()


def __getattr__(name: str) -> Celery:
    """Build the application for `celery -A kube_rewrap.worker.queue.app worker` when it is asked for, not at import."""
    if name in {"app", "celery"}:
        app = build_app(from_environment())
        setattr(sys.modules[__name__], name, app)
        return app
    raise AttributeError(name)
