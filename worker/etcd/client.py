"""The Store on a real etcd: aioetcd3's messages and stubs over `grpc.aio`.

The client has one channel per endpoint and its own fail-over: a gRPC target that lists several addresses fails
TLS's name check. It repeats a failed read, with jitter, over all endpoints until a bound. It sends a write once,
and again only after an answer that proves that etcd did not apply it.

Make a client inside the process and the event loop that use it: a `grpc.aio` channel does not
survive a fork.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.errors import FencedError, RequestRefusedError, TemporaryError, UnavailableError, WorkerError
from kube_rewrap.worker.etcd import compat
from kube_rewrap.worker.etcd.channel import Endpoint, open_endpoint
from kube_rewrap.worker.etcd.diagnosis import diagnose_each, unanswered
from kube_rewrap.worker.etcd.duty import DutyCycle
from kube_rewrap.worker.etcd.errors import rejected, token_expired, translate
from kube_rewrap.worker.etcd.messages import compare, guarded_by, item_of, swap_request, swapped
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import (
    CommitResult,
    Delete,
    Expect,
    Item,
    LogPosition,
    MemberStatus,
    Outcome,
    Page,
    Put,
    Stamp,
    SwapResult,
    Watched,
    WatchFrom,
    require_ours,
)
from kube_rewrap.worker.etcd.turns import Turns
from kube_rewrap.worker.etcd.watch import Token, follow

_rpc: Any = compat.load()[0]

_FIRST_PAUSE = 0.05
_LONGEST_PAUSE = 2.0
_STATUS_TIMEOUT = 3.0
_RENEWAL_TIMEOUT = 3.0  # short against a lock's lease: after a stuck member there is time to try another
_REJECTIONS = 20  # how often the client sends a write, proven not applied, before it gives up

_answered: set[str] = set()
"""Endpoints of clusters that answered this process before: where they do not, etcd may be restarting."""

Call = Callable[[Endpoint], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class _Begun:
    """A transaction in flight: its endpoint, the token it was sent with, and its future answer."""

    endpoint: Endpoint
    token: Token
    answer: Awaitable[Any]


class EtcdStore:
    """See `worker.etcd.store.Store`. Use `open_store` to make one."""

    def __init__(
        self, settings: EtcdSettings, state_prefix: str, endpoints: Sequence[Endpoint], read_share: float
    ) -> None:
        self._settings = settings
        self._turns = Turns(DutyCycle(read_share))
        self._state = KeyRange.of_prefix(state_prefix.encode() + b"/")
        self._endpoints = list(endpoints)
        self._current = 0
        self._metadata: Token = None
        self._authenticating = asyncio.Lock()

    # Plain reads, linearizable.

    async def get(self, key: bytes) -> Item | None:
        """See Store."""
        response = await self._range(_rpc.RangeRequest(key=key))
        return item_of(response.kvs[0]) if response.kvs else None

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        """See Store."""
        response = await self._range_of(keys, limit, revision=revision, min_mod_revision=since)
        left = int(response.more) if since else _left(response)  # `count` includes what `since` leaves out
        return Page(tuple(map(item_of, response.kvs)), left, response.header.revision)

    async def keys(self, keys: KeyRange, limit: int) -> tuple[list[bytes], int]:
        """See Store."""
        response = await self._range_of(keys, limit, keys_only=True)
        return [kv.key for kv in response.kvs], _left(response)

    async def stamps(self, keys: KeyRange, limit: int, *, revision: int = 0) -> tuple[list[Stamp], int]:
        """See Store."""
        response = await self._range_of(keys, limit, revision=revision, keys_only=True)
        stamps = [Stamp(kv.key, kv.create_revision, kv.mod_revision, kv.version) for kv in response.kvs]
        return stamps, _left(response)

    async def count(self, keys: KeyRange) -> int:
        """See Store."""
        request = _rpc.RangeRequest(key=keys.start, range_end=keys.end, count_only=True)
        return int((await self._range(request)).count)

    async def revision(self) -> int:
        """See Store."""
        request = _rpc.RangeRequest(key=self._state.start, count_only=True)
        return int((await self._range(request)).header.revision)

    # Compare-and-swap.

    async def swap_all(
        self, swaps: Sequence[tuple[Item, bytes]], guard: Expect | None = None
    ) -> list[SwapResult | WorkerError]:
        """See Store. Sends all transactions before it waits for the first answer."""
        guarded = guarded_by(guard)
        requests = [swap_request(item, value, guarded) for item, value in swaps]
        endpoint, token = self.current()
        answers = [self._send(endpoint.txn, request) for request in requests]
        ends: list[SwapResult | WorkerError | None] = []
        for answer in answers:
            try:
                ends.append(swapped(await answer, guard))
            except FencedError as error:
                ends.append(error)
            except grpc.aio.AioRpcError:
                ends.append(None)
        # Failed swaps are resolved concurrently: one after the other, their bounds would add up.
        failed = [place for place, end in enumerate(ends) if end is None]
        again = await asyncio.gather(
            *(self._end(requests[place], _Begun(endpoint, token, answers[place]), guard) for place in failed)
        )
        resolved = dict(zip(failed, again, strict=True))
        return [resolved[place] if end is None else end for place, end in enumerate(ends)]

    async def _end(self, request: bytes, begun: _Begun, guard: Expect | None) -> SwapResult | WorkerError:
        try:
            return swapped(await self._write(request, begun), guard)
        except WorkerError as error:
            return error

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        """See Store."""
        request = _rpc.TxnRequest(
            compare=[compare(expect) for expect in expects], success=[self._change(change) for change in changes]
        )
        response = await self._write(request.SerializeToString())
        if response is None:
            return CommitResult(Outcome.UNKNOWN)
        outcome = Outcome.APPLIED if response.succeeded else Outcome.LOST
        return CommitResult(outcome, response.header.revision)

    # Watching.

    def watch(self, ranges: Sequence[WatchFrom]) -> AsyncGenerator[Watched]:
        """See Store."""
        return follow(self, ranges)

    def current(self) -> tuple[Endpoint, Token]:
        """See `worker.etcd.watch.Connections`."""
        return self._endpoints[self._current], self._metadata

    async def renew(self, token: Token) -> bool:
        """See `worker.etcd.watch.Connections`."""
        if self._settings.user is None:
            return False
        await self._authenticate(token)
        return True

    async def probe(self, endpoint: Endpoint) -> None:
        """See `worker.etcd.watch.Connections`. An answer that refuses the token counts, too."""
        try:
            await self._send(endpoint.kv.Range, _rpc.RangeRequest(key=self._state.start, count_only=True))
        except grpc.aio.AioRpcError as failure:
            if not token_expired(failure.code(), failure.details() or ""):
                raise

    async def version(self, endpoint: Endpoint) -> str:
        """See `worker.etcd.watch.Connections`."""
        status = await self._status(endpoint)
        return status.version if status else ""

    # Leases.

    async def grant_lease(self, seconds: int) -> int:
        """See Store. A lease whose grant's answer was lost expires by itself, so the call may be repeated."""
        request = _rpc.LeaseGrantRequest(TTL=seconds)
        return int((await self._read(lambda at: self._send(at.lease.LeaseGrant, request))).ID)

    async def keep_lease(self, lease: int) -> bool:
        """See Store."""
        request = _rpc.LeaseKeepAliveRequest(ID=lease)

        async def renew(at: Endpoint) -> Any:
            timeout = min(_RENEWAL_TIMEOUT, self._settings.call_timeout)
            call = at.lease.LeaseKeepAlive(iter([request]), timeout=timeout, metadata=self._metadata)
            return await call.read()

        response = await self._read(renew)
        return bool(response is not grpc.aio.EOF and response.TTL > 0)

    async def revoke_lease(self, lease: int) -> None:
        """See Store. A lease that is gone already is no error."""
        request = _rpc.LeaseRevokeRequest(ID=lease)
        try:
            await self._read(lambda at: self._send(at.lease.LeaseRevoke, request))
        except RequestRefusedError as error:
            if "lease not found" not in str(error):
                raise

    # Maintenance.

    async def members(self) -> list[MemberStatus]:
        """See Store."""
        answers = await asyncio.gather(*map(self._status, self._endpoints))
        statuses = [answer for answer in answers if answer is not None]
        if not statuses:
            raise self._unreachable("no status")
        return statuses

    async def log_position(self) -> LogPosition:
        """See Store."""
        position: LogPosition = await self._read(self._log_position)
        return position

    async def alarms(self) -> tuple[str, ...]:
        """See Store."""
        request = _rpc.AlarmRequest(action=_rpc.AlarmRequest.GET)
        response = await self._read(lambda at: self._send(at.maintenance.Alarm, request))
        names = {0: "NONE", 1: "NOSPACE", 2: "CORRUPT"}
        return tuple(sorted({names.get(alarm.alarm, str(alarm.alarm)) for alarm in response.alarms}))

    async def _status(self, endpoint: Endpoint) -> MemberStatus | None:
        try:
            status = await endpoint.maintenance.Status(
                _rpc.StatusRequest(), timeout=_STATUS_TIMEOUT, metadata=self._metadata
            )
        except grpc.aio.AioRpcError:
            return None
        return MemberStatus(
            endpoint.url,
            status.version,
            status.dbSize,
            status.dbSizeInUse or status.dbSize,
            status.dbSizeQuota,
            status.header.cluster_id,
            status.header.revision,
        )

    async def _log_position(self, endpoint: Endpoint) -> LogPosition:
        request = _rpc.RangeRequest(key=self._state.start, count_only=True)
        before = await self._send(endpoint.kv.Range, request)
        status = await self._send(endpoint.maintenance.Status, _rpc.StatusRequest())
        after = await self._send(endpoint.kv.Range, request)
        revisions = before.header.revision, after.header.revision
        return LogPosition(status.header.cluster_id, status.raftIndex, *revisions)

    # How calls are made.

    async def connect(self) -> None:
        """Prove that an endpoint answers and accepts the credentials.

        Raises UnavailableError with the likely cause: within `connect_timeout`, but at once where a retry would not
        help. Raises RequestRefusedError.
        """
        urls = {endpoint.url for endpoint in self._endpoints}
        loop = asyncio.get_running_loop()
        bound = loop.time() + self._settings.connect_timeout
        last = ""
        for _ in self._endpoints:
            try:
                return await self._greet(0.0)
            except UnavailableError as error:
                last = str(error.__cause__)
            if loop.time() > bound:
                break
        causes = await diagnose_each(self._settings, last)
        may_help = urls & _answered or not all(cause.lasts for cause in causes.values())
        if may_help and loop.time() < bound:
            try:
                return await self._greet(bound - loop.time())
            except UnavailableError as error:
                causes = await diagnose_each(self._settings, str(error.__cause__))
        raise UnavailableError(unanswered(causes))

    async def _greet(self, give_up_after: float) -> None:
        """Log in, and read once; `give_up_after` 0.0: ask one endpoint, once."""
        if self._settings.user is not None:
            await self._retry(self._authenticate_at, give_up_after)
        request = _rpc.RangeRequest(key=self._state.start, count_only=True)
        await self._range(request, give_up_after)
        _answered.update(endpoint.url for endpoint in self._endpoints)

    def _send(self, method: Any, request: Any) -> Awaitable[Any]:
        sent: Awaitable[Any] = method(request, timeout=self._settings.call_timeout, metadata=self._metadata)
        return sent

    async def _range(self, request: Any, give_up_after: float | None = None) -> Any:
        return await self._read(lambda at: self._send(at.kv.Range, request), give_up_after)

    async def _range_of(self, keys: KeyRange, limit: int, **options: int) -> Any:
        """Read up to `limit` keys of a range; those of the registry as `Turns` lets us, perhaps fewer at once."""
        ours = keys.start in self._state
        request = _rpc.RangeRequest(
            key=keys.start, range_end=keys.end, limit=limit if ours else self._turns.limit(limit), **options
        )
        if ours:
            return await self._range(request)
        loop, limits = asyncio.get_running_loop(), self._settings
        asked = loop.time()

        def send() -> Awaitable[Any]:
            # Less the wait for the turn: in an outage, the bounds of those that wait for each other would add up.
            return self._range(request, max(limits.call_timeout, limits.give_up_after - (loop.time() - asked)))

        return await self._turns.read(send, _sizes)

    async def _read(self, call: Call, give_up_after: float | None = None) -> Any:
        """Repeat a call until an answer or the bound, with a new token if the old one expired."""

        async def with_token(endpoint: Endpoint) -> Any:
            token = self._metadata
            try:
                return await call(endpoint)
            except grpc.aio.AioRpcError as failure:
                if self._settings.user is None or not token_expired(failure.code(), failure.details() or ""):
                    raise
            await self._authenticate(token)
            try:
                return await call(endpoint)
            except grpc.aio.AioRpcError as failure:
                if not token_expired(failure.code(), failure.details() or ""):
                    raise
                # A lagging member does not know the new token yet.
                raise TemporaryError("this member does not accept the new token yet") from None

        return await self._retry(with_token, self._settings.give_up_after if give_up_after is None else give_up_after)

    async def _retry(self, call: Call, give_up_after: float) -> Any:
        """Call endpoint after endpoint until an answer or the bound (seconds). Only for calls safe to repeat."""
        loop = asyncio.get_running_loop()
        bound = loop.time() + give_up_after
        pause = _FIRST_PAUSE
        while True:
            endpoint = self._endpoints[self._current]
            try:
                return await call(endpoint)
            except TemporaryError as failure:
                error: WorkerError = failure
            except grpc.aio.AioRpcError as failure:
                error = translate(failure.code(), failure.details() or "")
            if not isinstance(error, TemporaryError):
                raise error
            self.leave(endpoint)
            pause = min(_LONGEST_PAUSE, max(2 * pause, error.delay))
            wait = pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
            if loop.time() + wait > bound:
                raise self._unreachable(str(error)) from error
            await asyncio.sleep(wait)

    def _begin(self, request: bytes) -> _Begun:
        """Send a serialized transaction without waiting for the answer."""
        endpoint = self._endpoints[self._current]
        return _Begun(endpoint, self._metadata, self._send(endpoint.txn, request))

    async def _write(self, request: bytes, begun: _Begun | None = None) -> Any:
        """Send a serialized transaction, or wait for the one in `begun`. Returns its answer, None = outcome unknown.

        Sends it again only after an answer that proves that etcd did not apply it.
        """
        for _ in range(_REJECTIONS):
            begun = begun or self._begin(request)
            try:
                return await begun.answer
            except grpc.aio.AioRpcError as failure:
                code, details = failure.code(), failure.details() or ""
            error = translate(code, details)
            if self._settings.user is not None and token_expired(code, details):
                await self._authenticate(begun.token)
                await asyncio.sleep(_FIRST_PAUSE * random.uniform(0, 1))  # noqa: S311 - members learn the token in turn
            elif not rejected(code):
                self.leave(begun.endpoint)
                return None
            elif isinstance(error, TemporaryError):
                await asyncio.sleep(error.delay * random.uniform(0.5, 1.5))  # noqa: S311
            else:
                raise error
            begun = None
        raise TemporaryError("etcd kept rejecting a write that it may accept later", delay=_LONGEST_PAUSE)

    async def _authenticate(self, expired: Token) -> None:
        """Get a new token, unless another task has replaced `expired` already."""
        async with self._authenticating:
            if self._metadata is expired:
                await self._retry(self._authenticate_at, self._settings.give_up_after)

    async def _authenticate_at(self, endpoint: Endpoint) -> None:
        password = self._settings.password.reveal().decode() if self._settings.password else ""
        request = _rpc.AuthenticateRequest(name=self._settings.user, password=password)
        try:
            response = await endpoint.auth.Authenticate(request, timeout=self._settings.call_timeout)
        except grpc.aio.AioRpcError as failure:
            # A server in etcd's place, such as a proxy, may quote the request in its error.
            details = failure.details() or ""
            raise translate(failure.code(), details.replace(password, "***") if password else details) from None
        self._metadata = (("token", response.token),)

    def leave(self, endpoint: Endpoint) -> None:
        """Make the next endpoint the current one, unless another task has left this one already."""
        if self._endpoints[self._current] is endpoint:
            self._current = (self._current + 1) % len(self._endpoints)

    def _unreachable(self, last: str) -> UnavailableError:
        urls = ", ".join(endpoint.url for endpoint in self._endpoints)
        return UnavailableError(
            f"no etcd endpoint of {urls} answered: {last}; check --endpoints, --cacert, --cert and --key"
        )

    def _change(self, change: Put | Delete) -> Any:
        require_ours(change, self._state)
        match change:
            case Put(key, value, lease):
                return _rpc.RequestOp(request_put=_rpc.PutRequest(key=key, value=value, lease=lease))
            case Delete(keys):
                return _rpc.RequestOp(request_delete_range=_rpc.DeleteRangeRequest(key=keys.start, range_end=keys.end))


def _left(response: Any) -> int:
    """Return how many keys of its range an answer to a Range with a limit leaves out."""
    return max(int(response.count) - len(response.kvs), int(response.more))


def _sizes(response: Any) -> tuple[int, int]:
    """Return the bytes of an answer to a Range, and how many keys etcd visited for it."""
    return response.ByteSize(), response.count


@asynccontextmanager
async def open_store(
    settings: EtcdSettings, state_prefix: str, page_bytes: int = 4 * 2**20, read_share: float = 1.0
) -> AsyncIterator[EtcdStore]:
    """Open channels to all endpoints, check that one answers, and close them at the end.

    `page_bytes` is the wanted size of pages; the channels refuse answers of more than twice that, 8 MiB at least.
    `read_share` is the share of the time that reads of the registry may take.

    Raises ConfigError for unreadable files, UnavailableError when no endpoint answers, RequestRefusedError when etcd
    does not accept the credentials.
    """
    endpoints = [open_endpoint(url, settings, page_bytes) for url in settings.endpoints]
    try:
        store = EtcdStore(settings, state_prefix, endpoints, read_share)
        await store.connect()
        yield store
    finally:
        for endpoint in endpoints:
            await endpoint.channel.close()
