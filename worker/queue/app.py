"""The Celery application: its settings, and the start and end of a worker's parent and child processes.

A Celery message is a hint that names a record to look at. The scheduler reads results from etcd and resends lost
messages about batches; workers drop duplicate and late ones. So there is no result backend, chord, beat or revoke. See
docs/adr/0006-celery-as-a-hint.md.
"""

from __future__ import annotations

import ast
import asyncio
import json
import logging
import os
import sys
import warnings
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache, cached_property
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
from kube_rewrap.config.settings.broker import Broker, parse_broker
from kube_rewrap.config.settings.flags import EVERY, is_on
from kube_rewrap.config.settings.logs import LibraryLogHandler, configure_logs, log_start, logged_error
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.config.settings.sources import settings_from, sources_of
from kube_rewrap.worker.coredump import forbid_core_dumps
from kube_rewrap.worker.etcd.reach import follow_etcd
from kube_rewrap.worker.queue.diagnosis import why_unavailable
from kube_rewrap.worker.queue.names import BATCHES, CONTROL, CONTROL_TASKS, EXCHANGE, PROVE, REWRITE
from kube_rewrap.worker.queue.process import Child
from kube_rewrap.worker.queue.transport import counters, in_progress, pulse, register
from kube_rewrap.worker.usable import Usable, follow_file

_HARD_LIMIT_SECONDS = 300
_VISIBILITY_SECONDS = 900
"""Longer than the hard limit, so that kombu redelivers no message while a child works on it."""

_MOST_RESTORED = 100
"""Unacknowledged messages that kombu checks for redelivery at once; Redis may hold any number."""

_VARIABLES = {"APP", "BROKER_URL", "RESULT_BACKEND", "LOADER", "CONFIG_MODULE", "SKIP_CHECKS", "C_FORCE_ROOT"}
"""Environment variables that Celery's command line reads besides `CELERY_…` (celery/bin/celery.py)."""

_CONSUMER = "celery.worker.consumer.consumer"
_REQUESTS = (active_requests, reserved_requests, scheduled_requests)
_log = structlog.get_logger()


class CountedRequest(Request):  # type: ignore[misc]
    """In the parent process, passes each task's result to the functions in `counters`.

    Celery subclasses this class with an `on_success` that does not call super(), so each instance overrides it.
    """

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        succeed: Any = type(self).__dict__["on_success"]

        def on_success(failed__retval__runtime: Any, **more: Any) -> Any:
            failed, shown, _ = failed__retval__runtime
            try:
                return succeed(self, failed__retval__runtime, **more)
            finally:
                # Last: Celery has acknowledged the message even if a counter raises.
                done = handed_back(shown.exception) if failed else counted(shown)
                if done is not None:
                    for counter in counters:
                        counter(done)

        self.on_success = on_success


def counted(shown: str) -> dict[str, object]:
    """Return a task's result from the repr of its JSON text, which Celery passes on; {} if it can't be parsed."""
    try:
        done = json.loads(ast.literal_eval(shown))
    except (ValueError, SyntaxError, TypeError):
        return {}
    return done if isinstance(done, dict) else {}


def handed_back(error: object) -> dict[str, object] | None:
    """Return the result of a task that rejected its message with requeue, None for other errors."""
    raised = error.exc if isinstance(error, ExceptionWithTraceback) else error
    if not isinstance(raised, Reject) or not raised.requeue:
        return None
    return {**counted(repr(raised.reason)), "outcome": "handed_back"}


class CountedTask(Task):  # type: ignore[misc]
    """A task whose results the parent counts."""

    Request = f"{__name__}:CountedRequest"
    resultrepr_maxsize = 65_536  # the counts must arrive whole; see plugin_report.MOST_PLUGINS


class QueueWorker(program.Worker):  # type: ignore[misc]
    """A worker that exchanges no messages with other workers, whichever command starts it.

    Gossip, mingle and heartbeats need PUBLISH and keys beyond the queues, which Redis' user in deploy/redis/ must not
    have; Celery has options for them on its command line only.
    """

    def prepare_args(self, **kwargs: Any) -> dict[str, Any]:
        """Add the options to those that the command line gave; see celery.worker.WorkController."""
        return {**kwargs, "without_gossip": True, "without_mingle": True, "without_heartbeat": True}


class Application(Celery):  # type: ignore[misc]
    """A Celery application with our transports and our tasks only; children recreate it from this class."""

    def __init__(self, *args: Any, **options: Any) -> None:
        register()
        super().__init__(*args, **options)

    @cached_property
    def Worker(self) -> Any:  # noqa: N802 - Celery's name
        """The class of workers that `celery -A … worker` and `run_worker` start."""
        return self.subclass_with_self(QueueWorker, name="Worker", reverse="Worker")

    def finalize(self, auto: bool = False) -> None:
        """Finalize as Celery does, then unregister its built-in tasks: chord unlock, map, chain, cleanup."""
        super().finalize(auto=auto)
        for name in [name for name in self._tasks if name.startswith("celery.")]:
            self._tasks.unregister(name)


def build_app(settings: Settings) -> Celery:
    """Return the application for these settings. Raises SettingsError for a broker that can't be used.

    Removes Celery's variables from this process' environment: Celery would prefer them to these settings.
    """
    broker = parse_broker(settings.broker)
    _forget_variables()
    app = Application("kube-rewrap", task_cls=CountedTask)
    transport = {
        **broker.transport_options(),
        "visibility_timeout": _VISIBILITY_SECONDS,
        # The control queue first: a pause must not wait for a thousand batches.
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
    """Remove Celery's variables: they would override the application, the broker, the loader or the pool."""
    for name in [name for name in os.environ if name in _VARIABLES or name.startswith("CELERY_")]:
        del os.environ[name]


def run_worker(app: Celery) -> int:
    """Run a worker of this application, without Celery's banner, until a signal stops it.

    Returns its exit code: 0 after a signal, another after a failure.
    """
    # The worker runs as root where only root may read the configuration file; deploy/ removes root's other privileges.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    if not sys.stdout.isatty():
        # On a signal, Celery prints "worker: Warm shutdown" for a terminal; that line is not JSON.
        program.safe_say = _say_nothing
    from celery.bin.celery import celery as command  # noqa: PLC0415 - children import this module, not this command

    # As Celery.start does, but keeping the exit code.
    command.params[0].default = app
    return int(command.main(args=["--quiet", "worker", "--loglevel", "INFO"], standalone_mode=False) or 0)


def _say_nothing(*_: object) -> None:
    pass


@cache
def from_environment() -> Settings:
    """Return the settings from this process' `REWRAP_` variables. Raises SettingsError."""
    return settings_from(EVERY, {}, os.environ)


@cache
def child() -> Child:
    """Return the `Child` of this process, created at its first message."""
    file, allowed = _configuration_file()
    return Child(from_environment(), file, allow_readable=allowed)


def _configuration_file() -> tuple[str, bool]:
    """Return the file's path, and whether group and others may have access to it."""
    return os.environ.get("REWRAP_ENCRYPTION_CONFIG", ""), is_on(os.environ.get("REWRAP_ALLOW_READABLE_CONFIG", ""))


@setup_logging.connect
def _set_up_logs(**_: object) -> None:
    """Format Celery's log lines as ours, and log a lost broker connection once rather than at every retry."""
    configure_logs(from_environment().log, "worker")
    root = logging.getLogger()
    root.handlers = [_Forward(level=logging.INFO)]
    root.setLevel(logging.INFO)
    # billiard's logger does not propagate to the root.
    logging.getLogger("multiprocessing").handlers = root.handlers


@celeryd_after_setup.connect
def _undo_celerys_logs(**_: object) -> None:
    """Undo parts of Celery's log set-up, before it starts children."""
    # With this variable set, billiard would log in each child in lines that are not JSON.
    os.environ.pop("_MP_FORK_LOGLEVEL_", None)
    # At each broker outage Celery warns about a setting that build_app makes on purpose.
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    # After a SIGKILL of this worker, billiard's tracker process would warn, not in JSON, of semaphores that it removes.
    sys.warnoptions.append("ignore:semaphore_tracker:UserWarning")


@celeryd_after_setup.connect
def _report_progress(**_: object) -> None:
    """Give the transport access to the delivery tags of messages in progress; runs in the parent only."""
    in_progress.append(_tags)


def _tags() -> list[str]:
    return [request.message.delivery_tag for known in _REQUESTS for request in known]


@celeryd_after_setup.connect
def _begin_parent(**_: object) -> None:
    """Check the configuration file, and serve metrics of children's results; runs in the parent, after log set-up."""
    settings = from_environment()
    forbid_core_dumps()
    layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
    file, allowed = _configuration_file()
    usable = _parent.enter_context(follow_file(Usable(file, layout, allow_readable=allowed)))
    address = settings.service.metrics_addr
    if address is None:
        return
    # Only a parent that serves metrics needs these imports; children import this module, too.
    from prometheus_client import CollectorRegistry  # noqa: PLC0415 - see above

    from kube_rewrap.worker.monitoring import serve  # noqa: PLC0415 - see above
    from kube_rewrap.worker.queue.metrics import WorkerMetrics  # noqa: PLC0415 - see above

    registry = CollectorRegistry()
    counters.append(WorkerMetrics(registry, settings.pace.rate, settings.service.children).count)
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    reach = _parent.enter_context(follow_etcd(settings.etcd, settings.keyspace.state_prefix))

    def trouble() -> str:
        return _broker.trouble or reach.trouble or usable.trouble or pulse.trouble()

    _parent.enter_context(serve(address, registry, lambda: "", trouble))


def _log_start(**_: object) -> None:
    """Log the start of a worker that Celery's own program runs; `rewrap worker` has logged it."""
    log_start(from_environment(), sources_of(EVERY, {}, os.environ), _configuration_file()[0])


@celeryd_after_setup.connect
def _warn(**_: object) -> None:
    warn_of_clear_text(parse_broker(from_environment().broker))


def warn_of_clear_text(broker: Broker) -> None:
    """Warn if the Redis password crosses the network without TLS. Not refused: Redis holds hints, etcd the records."""
    if broker.is_in_clear:
        because = "the Redis password crosses the network in clear text; write rediss:// unless you trust the network"
        _log.warning("broker.password_in_clear", broker=broker.place, because=because)


@worker_ready.connect
def _ready(**_: object) -> None:
    _broker.trouble = ""


@worker_shutdown.connect
def _end_parent(**_: object) -> None:
    _parent.close()


@worker_process_init.connect
def _begin(**_: object) -> None:
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    forbid_core_dumps()
    _set_up_logs()
    configure_logs(from_environment().log, "worker-child")


@worker_process_shutdown.connect
def _end(**_: object) -> None:
    if child.cache_info().currsize:
        try:
            child().close()
        except Exception as error:  # noqa: BLE001 - the process ends anyway; unsettled tokens count as used
            _log.warning("worker.not_settled", because=type(error).__name__)


@dataclass(slots=True)
class _Broker:
    """`trouble`: why Redis is unavailable, "" = connected. /readyz shows it without authentication."""

    trouble: str = "not connected to Redis yet"


_broker = _Broker()
_parent = ExitStack()
"""Resources that the parent closes when it ends."""


class _Forward(LibraryLogHandler):
    """As LibraryLogHandler, but logs one line when the broker connection is lost and one when it is back."""

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self._away = False

    def emit(self, record: logging.LogRecord) -> None:
        """See logging.Handler."""
        if _is_loss(record):
            if not self._away:
                self._away = True
                _broker.trouble = "no connection to Redis; see the log: broker.unavailable"
                error = logged_error(record)
                broker = parse_broker(from_environment().broker)
                # For up to three seconds, in which this process could do nothing without Redis.
                because = asyncio.run(why_unavailable(broker, error)) if error else "Celery gave no reason"
                _log.warning("broker.unavailable", broker=broker.place, because=f"no connection: {because}")
        elif record.name == "celery.worker.consumer.connection" and self._away:
            self._away = False
            _broker.trouble = ""
            _log.info("broker.available", because="Celery is connected to Redis again")
        elif not _is_handed_back(record):
            super().emit(record)


def _is_loss(record: logging.LogRecord) -> bool:
    """Whether Celery's consumer reports a lost or failed connection; it warns of other things too."""
    is_retry = isinstance(record.args, tuple) and record.args[:1] == (CONNECTION_RETRY,)
    return record.name == _CONSUMER and (is_retry or record.msg == CONNECTION_ERROR)


def _is_handed_back(record: logging.LogRecord) -> bool:
    """Whether the record is Celery's line on a rejected message, which `batch.handed_back` reports already."""
    return record.name == "celery.app.trace" and " reject " in record.getMessage()


def __getattr__(name: str) -> Celery:
    """Build the application for `celery -A kube_rewrap.worker.queue.app worker` at its first use, not at import."""
    if name in {"app", "celery"}:
        app = build_app(from_environment())
        celeryd_after_setup.connect(_log_start, weak=False)
        setattr(sys.modules[__name__], name, app)
        return app
    raise AttributeError(name)
