"""Leadership among schedulers: a lock on an etcd lease. Whoever does not have it waits."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from kube_rewrap.worker.errors import BusyError, TemporaryError
from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ownership import LEASE_SECONDS, Session, open_session, who

_LOOK_SECONDS = 1.0
_log = structlog.get_logger()

Asked = Callable[[str], None]
"""Shown why etcd gave no answer, "" when it did: another one leads."""


@asynccontextmanager
async def leadership(store: Store, keyspace: Keyspace, brake: Brake, asked: Asked) -> AsyncIterator[Expect]:
    """Wait to be the leader, and be it while the block runs; yields the fencing token.

    `asked` is told each time that etcd was asked for the lock. The brake is pulled when leadership is lost.
    Raises the brake's reason when it is pulled before.
    """
    async with open_session(store, brake.pull, LEASE_SECONDS) as session:
        guard = await _elected(session, keyspace, brake, asked)
        _log.info("leader.elected", revision=guard.revision)
        yield guard


async def _elected(session: Session, keyspace: Keyspace, brake: Brake, asked: Asked) -> Expect:
    said = ""
    while True:
        brake.check()
        try:
            return await session.hold(keyspace.leader, who("rewrap scheduler"))
        except (BusyError, TemporaryError) as error:
            asked("" if isinstance(error, BusyError) else str(error))
            if str(error) != said:
                said = str(error)
                _log.info("leader.waiting", because=said)
        await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
