"""Writes an operator's requests to etcd, as records that the leader reads."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.request import Request, RequestKind, start_request
from kube_rewrap.worker.records.requests import Requests


async def request_start(settings: Settings, arguments: Mapping[str, object]) -> str:
    """Request a campaign; returns the request's name. `arguments` are those of `request.ARGUMENTS` but `id`.

    Raises HostileArgumentError for an argument that can't be used, RefusedError when too many requests are on record.
    """
    asked = start_request(arguments, _new_name(), datetime.now(UTC).isoformat())
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        requests = Requests(store, Keyspace(settings.keyspace.state_prefix))
        await requests.require_room()
        await requests.submit(asked)
    return asked.id


async def steer(settings: Settings, kind: RequestKind, campaign: str) -> Request:
    """Pause, resume or cancel a campaign, or a waiting request; returns the request with its outcome.

    Raises RefusedError when too many requests are on record.
    """
    name, keyspace = _new_name(), Keyspace(settings.keyspace.state_prefix)
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        done = await Requests(store, keyspace).control(kind, campaign, name)
        log = AuditLog(store, keyspace, "rewrap campaign")
        await log.append(f"request.{kind.value}", done.campaign, request=name, because=done.because)
    return done


def _new_name() -> str:
    """Return a name for a request, with random bits that make it unique."""
    return f"{datetime.now(UTC):%Y%m%d-%H%M%S}-{os.urandom(4).hex()}"
