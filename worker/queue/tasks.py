"""Celery's tasks, one line each. A control message becomes a request that the scheduler decides on.

Messages about batches and parts of proofs go to `execution.py`, on the event loop of `process.py`.

Tasks accept any arguments and check them before use: anyone who can push to the queue can choose them.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import structlog
from celery import shared_task
from celery.exceptions import Reject

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.worker.errors import PermanentError, WorkerError
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.queue.app import child
from kube_rewrap.worker.queue.execution import ChildTools, MessageResult, prove, rewrite
from kube_rewrap.worker.queue.gate import MOST_RETRIES
from kube_rewrap.worker.queue.names import PROVE, REWRITE, control_task
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.request import (
    HostileArgumentError,
    RequestKind,
    RequestState,
    name_of,
    number_of,
    start_request,
)
from kube_rewrap.worker.records.requests import Requests

_log = structlog.get_logger()

Arguments = Mapping[str, object]
Result = str
"""A message's outcome as JSON text, which the parent counts."""


@shared_task(name=REWRITE)
def rewrite_batch(*_: object, **arguments: object) -> Result:
    """Work on one batch for a slice of time. Arguments: `campaign`, `number`."""
    return _batch(REWRITE, rewrite, arguments)


@shared_task(name=PROVE)
def prove_batch(*_: object, **arguments: object) -> Result:
    """Scan one part of a proof. Arguments: `campaign`, `number`."""
    return _batch(PROVE, prove, arguments)


@shared_task(name=control_task(RequestKind.START), bind=True, max_retries=MOST_RETRIES)
def start_campaign(task: Any, *_: object, **arguments: object) -> Result:
    """Request a campaign. Arguments: those of `request.ARGUMENTS`, all optional."""
    return _request(task, RequestKind.START, arguments)


@shared_task(name=control_task(RequestKind.PAUSE), bind=True, max_retries=MOST_RETRIES)
def pause_campaign(task: Any, *_: object, **arguments: object) -> Result:
    """Pause a campaign. Arguments: `campaign`, and optionally `id`; messages of one id count as one request."""
    return _request(task, RequestKind.PAUSE, arguments)


@shared_task(name=control_task(RequestKind.RESUME), bind=True, max_retries=MOST_RETRIES)
def resume_campaign(task: Any, *_: object, **arguments: object) -> Result:
    """Resume a campaign. Arguments: as `pause_campaign`."""
    return _request(task, RequestKind.RESUME, arguments)


@shared_task(name=control_task(RequestKind.CANCEL), bind=True, max_retries=MOST_RETRIES)
def cancel_campaign(task: Any, *_: object, **arguments: object) -> Result:
    """Cancel a campaign, or a waiting request. Arguments: as `pause_campaign`."""
    return _request(task, RequestKind.CANCEL, arguments)


def _batch(task: str, job: Callable[[ChildTools, str, int], Awaitable[MessageResult]], arguments: Arguments) -> Result:
    try:
        campaign = name_of(arguments.get("campaign"), "campaign")
        number = number_of(arguments.get("number"), "number")
    except HostileArgumentError as error:
        return _refused(task, str(error))
    try:
        done = child().work(lambda tools: job(tools, campaign, number))
    except ConfigError as error:
        # As with another configuration: requeue, until a worker whose file can be used takes the message.
        _log.info("batch.handed_back", campaign=campaign, batch=number, because=str(error))
        done = MessageResult("handed_back", str(error))
    except (WorkerError, TimeoutError) as error:
        # The scheduler resends unfinished work, with growing delay.
        _log.warning("message.failed", task=task, because=_why(error))
        done = MessageResult("failed", str(error))
    if done.outcome == "handed_back":
        # After a delay, so that a worker with the right configuration is likely to take it next.
        time.sleep(random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        raise Reject(_encoded(done), requeue=True)
    return _encoded(done)


def _request(task: Any, kind: RequestKind, arguments: Arguments) -> Result:
    fallback = sha256(str(task.request.id).encode()).hexdigest()[:32]
    try:
        return child().control(_control(kind, arguments, fallback))
    except HostileArgumentError as error:
        return _refused(task.name, str(error))
    except (ConfigError, WorkerError, TimeoutError) as error:
        if gives_up(error, task.request.retries):
            return _refused(task.name, _why(error))
        _log.warning("message.retried", task=task.name, because=_why(error))
        # No countdown: the gate refuses an ETA. The worker that takes the retry delays it (worker/queue/transport.py).
        raise task.retry(countdown=0) from None


def gives_up(error: Exception, retries: int) -> bool:
    """Whether to stop retrying a control message: the error is permanent, or `MOST_RETRIES` retries failed.

    No process resends a control message, so this task retries even a write that was fenced or has an unknown result. A
    request takes effect once, however often its message arrives.
    """
    return isinstance(error, PermanentError) or retries >= MOST_RETRIES


def _control(kind: RequestKind, arguments: Arguments, fallback: str) -> Callable[[Store, Keyspace], Awaitable[Result]]:
    """Check the arguments and return the job that records the request. Raises HostileArgumentError.

    `fallback` is the request's name if the arguments give none.
    """
    if kind is RequestKind.START:
        asked = start_request(arguments, fallback, datetime.now(UTC).isoformat())

        async def start(store: Store, keyspace: Keyspace) -> Result:
            requests = Requests(store, keyspace)
            await requests.require_room()
            new = await requests.submit(asked)
            because = "the scheduler will decide on it" if new else "a request of this name was on record already"
            _log.info("request.received", request=asked.id, kind=kind.value, new=new, because=because)
            return _encoded(MessageResult("worked"))

        return start
    unknown = set(arguments) - {"campaign", "id"}
    if unknown:
        raise HostileArgumentError("the arguments are campaign and id")
    campaign = name_of(arguments.get("campaign"), "campaign")
    name = name_of(arguments.get("id", fallback), "id")

    async def control(store: Store, keyspace: Keyspace) -> Result:
        requests = Requests(store, keyspace)
        known = await requests.get(name)
        done = await requests.control(kind, campaign, name)
        _log.info("request.received", request=name, kind=kind.value, campaign=done.campaign, because=done.because)
        # No entry without a change: the log keeps a limited number, and anyone who can push could replace them all.
        if known is None and done.state is RequestState.ACCEPTED:
            log = AuditLog(store, keyspace, "rewrap worker")
            await log.append(f"request.{kind.value}", done.campaign, request=name, because=done.because)
        return _encoded(MessageResult("worked"))

    return control


def _why(error: Exception) -> str:
    return str(error) or type(error).__name__  # str() of a TimeoutError is empty


def _refused(task: str, because: str) -> Result:
    _log.warning("message.refused", task=task, because=because)
    return _encoded(MessageResult("refused"))


def _encoded(done: MessageResult) -> Result:
    """Return a `MessageResult` as JSON without its sentence, which is in the log."""
    plugins = [one.to_json() for one in done.plugins]
    counts = {"report": done.report.to_json(), "window": done.window, "plugins": plugins}
    return json.dumps({"outcome": done.outcome, **counts})
