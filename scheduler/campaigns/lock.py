"""The lock on campaigns: one process at a time plans and drives them, the leader or an embedded run."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import structlog

from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.worker.errors import BusyError
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.ownership import Session, own, who

_BUSY_SECONDS = 2.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Lock:
    """The held lock. `guard` fences writes by it. `waited`: a plan from before the wait is out of date."""

    session: Session
    guard: Expect
    waited: bool


@asynccontextmanager
async def hold_lock(
    cluster: Cluster, brake: Brake, command: str = "rewrap run", *, wait: bool = False
) -> AsyncIterator[Lock]:
    """Hold the lock, and pull the brake when it is lost. The lock's record names `command` as its holder.

    With `wait`, retries until the brake is pulled; else raises BusyError when another process holds the lock.
    """
    async with AsyncExitStack() as stack:
        yield await _acquire(stack, cluster, brake, command, wait=wait)


async def _acquire(stack: AsyncExitStack, cluster: Cluster, brake: Brake, command: str, *, wait: bool) -> Lock:
    waited = False
    while True:
        brake.check()
        try:
            holding = own(cluster.engine.store, cluster.engine.keyspace, who(command), brake.pull)
            session, guard = await stack.enter_async_context(holding)
            return Lock(session, guard, waited)
        except BusyError as busy:
            if not wait:
                raise
            waited = True
            _log.info("lock.waiting", because=str(busy))
        await asyncio.sleep(_BUSY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter
