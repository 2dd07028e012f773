"""Locks on an etcd lease, with their creation revision as fencing token.

A session is one lease of one process; all its locks are attached to it. A process that stalls past its lease loses
them all. Each write of a record, and each swap of an object, compares the token of its lock, so etcd refuses both
after that: a process that stalled during a campaign of a newer configuration must not undo it. The process that ends
a campaign deletes the claims on its batches, with the same effect.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import structlog

from kube_rewrap.worker.background import cancel_all, uninterrupted
from kube_rewrap.worker.errors import BusyError, FencedError, RecordError, TemporaryError, WorkerError
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.etcd.store import Delete, Expect, Item, Outcome, Put, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged, decode, encode
from kube_rewrap.worker.records.holder import UNNAMED, Holder
from kube_rewrap.worker.records.keyspace import Keyspace

LEASE_SECONDS = 15
CLAIM_SECONDS = 10
"""Shorter than LEASE_SECONDS: a dead worker's batch waits for this time."""

_RELEASES = 5
_LATE_SECONDS = 1.0
"""How often a session looks for locks that etcd took for it late."""

_log = structlog.get_logger()

Lost = Callable[[FencedError], None]


def who(command: str) -> Holder:
    """Return this process as the holder of a lock from now on."""
    return Holder(command, socket.gethostname(), os.getpid(), datetime.now(UTC).isoformat(timespec="seconds"))


def holder_in(item: Item) -> Holder | None:
    """Return the holder of a lock; None if its record is unreadable. The lock is held all the same: its key exists."""
    try:
        return Holder.from_json(decode(item.key, item.value))
    except (RecordError, ValueError) as error:
        record.note_unreadable(item, error if isinstance(error, RecordError) else damaged(item.key, error))
        return None


class Session:
    """Locks on one lease. Made by `open_session`."""

    def __init__(self, store: Store, lease: int) -> None:
        self._store = store
        self._lease = lease
        self._busy: set[bytes] = set()
        """Locks that are held, or are being taken or released."""
        self._unclear: set[bytes] = set()
        """Locks that this session does not use, and that a request without an answer may still take for it."""

    async def hold(self, key: bytes, holder: Holder, expects: Sequence[Expect] = ()) -> Expect:
        """Take a lock; returns the guard that every commit under the lock must contain.

        Other processes show `holder` in their messages. Raises BusyError, naming the holder, when another process
        holds the lock, and TemporaryError when one of `expects` does not hold, or this session has the lock in use.
        """
        if key in self._busy:
            raise TemporaryError(f"this process has the lock {key_text(key)} in use; try again", delay=1.0)
        self._busy.add(key)
        try:
            return await self._take(key, holder, expects)
        except BaseException:
            self._busy.discard(key)
            raise

    async def _take(self, key: bytes, holder: Holder, expects: Sequence[Expect]) -> Expect:
        value = encode({**holder.to_json(), "by": os.urandom(8).hex()})
        try:
            result = await self._store.commit([Expect(key, 0), *expects], [Put(key, value, self._lease)])
        except asyncio.CancelledError:
            self._unclear.add(key)
            raise
        if result.outcome is Outcome.APPLIED:
            return Expect(key, result.revision, created=True)
        if result.outcome is Outcome.UNKNOWN:
            self._unclear.add(key)
        found = await self._store.get(key)
        if found is not None and found.value == value:
            return Expect(key, found.mod_revision, created=True)
        if found is not None and found.lease == self._lease:
            return Expect(key, found.mod_revision, created=True)  # an earlier attempt of this session was applied late
        if found is None:
            raise TemporaryError(f"the lock {key_text(key)} was neither taken nor free; try again", delay=1.0)
        raise BusyError(
            f"another process works on it: {holder_in(found) or UNNAMED}; wait for it (--wait), or stop it: "
            f"its lock ends {LEASE_SECONDS} s after it does at the latest"
        )

    async def is_lost(self) -> bool:
        """Return whether etcd says that the lease has ended; False if it says nothing."""
        try:
            return not await self._store.keep_lease(self._lease)
        except WorkerError:
            return False

    async def release(self, guard: Expect) -> None:
        """Release a lock before the session ends. If no call succeeds, `release_late` does it.

        A call whose answer is lost is repeated: `guard` keeps it from a later lock.
        """
        try:
            if not await self._delete(guard):
                self._unclear.add(guard.key)
        except WorkerError:
            self._unclear.add(guard.key)
            raise
        finally:
            self._busy.discard(guard.key)

    async def _delete(self, guard: Expect) -> bool:
        """Delete a lock; returns whether etcd has answered."""
        for _ in range(_RELEASES):
            result = await self._store.commit([guard], [Delete.of_key(guard.key)])
            if result.outcome is not Outcome.UNKNOWN:
                return True
        return False

    async def release_late(self) -> None:
        """Release the locks that etcd took for this session after `hold` had given them up.

        Without this, a batch whose claim was taken late would stay claimed as long as the session renews its lease.
        """
        for key in sorted(self._unclear):
            if key in self._busy:
                continue  # perhaps taken since the keys before it were looked at
            self._busy.add(key)
            try:
                found = await self._store.get(key)
                if found is not None and found.lease == self._lease:
                    _log.info("lock.late", because=f"etcd took {key_text(key)} after the request was given up")
                    await self._delete(Expect(key, found.mod_revision, created=True))
            finally:
                self._busy.discard(key)


@asynccontextmanager
async def open_session(store: Store, lost: Lost, seconds: int) -> AsyncIterator[Session]:
    """Hold a lease of this many seconds, and renew it, while the block runs. Calls `lost` when it may have expired."""
    granted = asyncio.get_running_loop().time()
    lease = await store.grant_lease(seconds)
    session = Session(store, lease)
    renewal = asyncio.create_task(_renew(store, lease, seconds, granted + seconds, lost), name="lease-renewal")
    late = asyncio.create_task(_release_late(session), name="late-locks")
    try:
        yield session
    finally:
        # A cancellation, too, gives the locks back: else the next holder waits until the lease expires.
        await uninterrupted(_release(store, lease, renewal, late))


@asynccontextmanager
async def own(store: Store, keyspace: Keyspace, holder: Holder, lost: Lost) -> AsyncIterator[tuple[Session, Expect]]:
    """Hold the lock on campaigns while the block runs; yields its session and its guard. Raises BusyError."""
    async with open_session(store, lost, LEASE_SECONDS) as session:
        yield session, await session.hold(keyspace.owner, holder)


async def _renew(store: Store, lease: int, seconds: int, alive_until: float, lost: Lost) -> None:
    """Renew the lease three times in its length; call `lost` and return once it has expired, or may have."""
    loop = asyncio.get_running_loop()
    while loop.time() < alive_until:
        await asyncio.sleep(max(0.1, min(seconds / 3, (alive_until - loop.time()) / 2)))
        asked = loop.time()
        try:
            async with asyncio.timeout(max(0.1, alive_until - asked)):
                renewed = await store.keep_lease(lease)
        except (WorkerError, TimeoutError) as error:
            _log.warning("lock.not_renewed", because=str(error) or "no answer in time")
            continue
        if not renewed:
            break
        alive_until = asked + seconds
    _log.error("lock.lost", because="the lease was not renewed in time")
    lost(FencedError("the lease of this process' locks was not renewed in time; another process may own them now"))


async def _release_late(session: Session) -> None:
    """Have a session look for late locks until cancelled."""
    while True:
        await asyncio.sleep(_LATE_SECONDS)
        try:
            await session.release_late()
        except WorkerError as error:
            _log.warning("lock.release_failed", because=str(error))


async def _release(store: Store, lease: int, *tasks: asyncio.Task[None]) -> None:
    """Revoke the lease, so that the next holder need not wait until it expires."""
    await cancel_all(*tasks)
    try:
        async with asyncio.timeout(5):
            await store.revoke_lease(lease)
    except (TemporaryError, TimeoutError) as error:
        _log.warning("lock.release_failed", because=str(error))
