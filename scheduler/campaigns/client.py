"""Requests to the service, sent through the queue or (`direct`) written to etcd."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from datetime import UTC, datetime

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.dispatch.celery import Sender
from kube_rewrap.worker.errors import UnavailableError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.queue.names import CONTROL, control_task
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.request import Request, RequestKind, start_request
from kube_rewrap.worker.records.requests import Requests

_ANSWER_SECONDS = 30.0
_LOOK_SECONDS = 0.2


def new_name() -> str:
    """Return a name for a request that nobody else chose."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(4).hex()}"


async def ask_to_start(settings: Settings, arguments: Mapping[str, object], *, direct: bool) -> str:
    """Ask for a campaign; returns the request's name. Raises HostileArgumentError, RefusedError, UnavailableError."""
    asked = start_request(arguments, new_name(), datetime.now(UTC).isoformat())
    if direct:
        async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
            requests = Requests(store, Keyspace(settings.keyspace.state_prefix))
            await requests.require_room()
            await requests.submit(asked)
    else:
        await _send(settings, RequestKind.START, arguments)
    return asked.id


async def ask_to_steer(settings: Settings, kind: RequestKind, campaign: str, *, direct: bool) -> Request:
    """Pause, resume or cancel, and return what became of it.

    Raises UnavailableError when Redis does not take the message, or no worker answers it in time; the
    message then waits in the queue.
    """
    name = new_name()
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        requests = Requests(store, Keyspace(settings.keyspace.state_prefix))
        if direct:
            done = await requests.control(kind, campaign, name)
            log = AuditLog(store, Keyspace(settings.keyspace.state_prefix), "rewrap campaign")
            await log.append(f"request.{kind.value}", done.campaign, request=name, because=done.because)
            return done
        await _send(settings, kind, {"campaign": campaign, "id": name})
        until = asyncio.get_running_loop().time() + _ANSWER_SECONDS
        while asyncio.get_running_loop().time() < until:
            found = await requests.get(name)
            if found is not None:
                return found.value
            await asyncio.sleep(_LOOK_SECONDS)
    raise UnavailableError(
        f"no worker took up the message within {_ANSWER_SECONDS:.0f} s; it waits in the queue. --direct needs none"
    )


async def _send(settings: Settings, kind: RequestKind, arguments: Mapping[str, object]) -> None:
    sender = Sender(settings)
    try:
        await sender.send(control_task(kind), arguments, CONTROL)
    finally:
        sender.close()
