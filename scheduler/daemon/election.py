"""Leader election among schedulers: a lock on an etcd lease. A scheduler without the lock asks again each second."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from kube_rewrap.config.settings.logs import Repetition
from kube_rewrap.worker.errors import BusyError, TemporaryError
from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ownership import LEASE_SECONDS, Session, open_session, who

_LOOK_SECONDS = 1.0
_log = structlog.get_logger()

OnWaiting = Callable[[str], None]
"""Called when a request for the lock failed: with etcd's error, "" if another scheduler holds the lock."""


@asynccontextmanager
async def leadership(store: Store, keyspace: Keyspace, brake: Brake, waiting: OnWaiting) -> AsyncIterator[Expect]:
    """Wait for the lock, and hold it while the block runs; yields the fencing token.

    Pulls the brake when the lock is lost. Raises the brake's reason when the brake is pulled while this waits.
    """
    async with open_session(store, brake.pull, LEASE_SECONDS) as session:
        guard = await _elected(session, keyspace, brake, waiting)
        _log.info("leader.elected", revision=guard.revision)
        yield guard


async def _elected(session: Session, keyspace: Keyspace, brake: Brake, waiting: OnWaiting) -> Expect:
    reason = Repetition()
    while True:
        brake.check()
        try:
            return await session.hold(keyspace.leader, who("rewrap scheduler"))
        except (BusyError, TemporaryError) as error:
            waiting("" if isinstance(error, BusyError) else str(error))
            if reason.begins(str(error)):
                _log.info("leader.waiting", because=str(error))
        await asyncio.sleep(_LOOK_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
