"""Who works on campaigns: a lock on an etcd lease, with its creation revision as fencing token.

A holder that stalls past its lease loses the lock. Every record that it then writes names the token
of a lock that is gone, and is refused; so is every object that it swaps, for a process that slept
through a campaign of a newer configuration must not undo it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager

import structlog

from worker.errors import BusyError, FencedError, TemporaryError, WorkerError
from worker.etcd.store import Expect, Outcome, Put, Store
from worker.state.codec import decode, encode
from worker.state.keyspace import Keyspace

LEASE_SECONDS = 15
_log = structlog.get_logger()


@asynccontextmanager
async def own(
    store: Store, keyspace: Keyspace, who: Mapping[str, object], lost: Callable[[FencedError], None]
) -> AsyncIterator[Expect]:
    """Hold the lock while the block runs; yields the guard that belongs into every commit.

    `who` is shown to others. `lost` is called when the lease can no longer be trusted. Raises
    BusyError, naming the holder, when the lock is taken.
    """
    granted = asyncio.get_running_loop().time()
    lease = await store.grant_lease(LEASE_SECONDS)
    try:
        guard = await _lock(store, keyspace.owner, who, lease)
        renewal = asyncio.create_task(_renew(store, lease, granted + LEASE_SECONDS, lost), name="lock-renewal")
        try:
            yield guard
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
    finally:
        await _release(store, lease)


async def _lock(store: Store, key: bytes, who: Mapping[str, object], lease: int) -> Expect:
    value = encode({**who, "by": os.urandom(8).hex()})
    result = await store.commit([Expect(key, 0)], [Put(key, value, lease)])
    if result.outcome is Outcome.APPLIED:
        return Expect(key, result.revision, created=True)
    found = await store.get(key)
    if found is not None and found.value == value:
        return Expect(key, found.mod_revision, created=True)
    if found is None:
        raise TemporaryError("the campaign's lock was neither taken nor free; try again", delay=1.0)
    holder = decode(found.key, found.value)
    raise BusyError(
        f"another process works on campaigns: {holder.get('command')} on {holder.get('host')}, pid "
        f"{holder.get('pid')}, since {holder.get('since')}; wait for it (--wait), or stop it: "
        f"its lock ends {LEASE_SECONDS} s after it does"
    )


async def _renew(store: Store, lease: int, alive_until: float, lost: Callable[[FencedError], None]) -> None:
    """Renew the lease three times per its length; give up when it is known to be gone, or may be."""
    loop = asyncio.get_running_loop()
    while loop.time() < alive_until:
        await asyncio.sleep(max(0.1, min(LEASE_SECONDS / 3, (alive_until - loop.time()) / 2)))
        asked = loop.time()
        try:
            async with asyncio.timeout(max(0.1, alive_until - asked)):
                renewed = await store.keep_lease(lease)
        except (WorkerError, TimeoutError) as error:
            _log.warning("lock.not_renewed", because=str(error) or "no answer in time")
            continue
        if not renewed:
            break
        alive_until = asked + LEASE_SECONDS
    _log.error("lock.lost", because="the lease was not renewed in time")
    lost(FencedError("the lease on the campaigns' lock was not renewed in time; another process may own them now"))


async def _release(store: Store, lease: int) -> None:
    """End the lease, as a courtesy to the next one: it would expire by itself."""
    try:
        async with asyncio.timeout(5):
            await store.revoke_lease(lease)
    except (TemporaryError, TimeoutError) as error:
        _log.warning("lock.release_failed", because=str(error))
