"""The rate ceiling over all processes of a cluster: one bucket in Redis, on Redis' clock.

No call here fails when Redis is slow, wiped or away, and no state in Redis needs to survive. While Redis is away each
process limits itself to its own share of the rate, at most half of it. This module stores only numbers in Redis, under
the ids of clusters: no etcd key and no secret.

Not handled: counting the processes. The caller of `open_pace` states how many there may be.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

import structlog
from redis.asyncio import Redis, Sentinel
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import TimeoutError as RedisTimeoutError

from kube_rewrap.config.library_errors import why_unreachable
from kube_rewrap.config.settings.broker import Broker, parse_broker
from kube_rewrap.config.settings.schema import BrokerSettings
from kube_rewrap.worker.background import cancel_all
from kube_rewrap.worker.rate.gcra import Bucket
from kube_rewrap.worker.rate.local import LocalPace

_log = structlog.get_logger()

_BURST = round(Bucket(1.0).burst * 1_000_000)
_LONGEST_BACKLOG = 600_000_000
"""Microseconds. A later due time comes from another writer of the key, or from a broken clock, not from rewrap."""

_FEWEST_SHARES = 2
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 10.0
_RATE_SECONDS = 60
_LONGEST_RATE = 20

_MEANINGS = {
    "maxmemory": "its memory is full",
    "read only replica": "it is a replica, which takes no writes",
    "can't run this command": "its user lacks a permission that rewrap needs",
    "no permissions": "its user lacks a permission that rewrap needs",
}
"""Parts of Redis' error messages, and what they mean."""

_CLOCK = """
-- Redis 6 may be configured to refuse a write after TIME unless the script turns on the replication of effects first.
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

_TAKE = """
-- GCRA as in gcra.py, in whole microseconds: a Lua number is exact up to 2^53, some 285 years of them.
local cost, burst, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local due, seen = now, now
local record = redis.pcall('GET', KEYS[1])
if type(record) == 'string' and #record < 64 then -- more digits may be no number
  local due_then, seen_then = string.match(record, '^(%d+) (%d+)$')
  if due_then then due, seen = tonumber(due_then), tonumber(seen_then) end
end
-- If the clock went back (set by hand, or a replica's after a fail-over), move the due time back as far: otherwise
-- callers would wait for the difference.
if now < seen then due = due - (seen - now) end
due = math.max(due, now)
if due - now > longest then due = now end
due = due + cost
-- Not tostring(): it keeps 14 digits of the 16.
redis.call('SET', KEYS[1], string.format('%.0f %.0f', due, now), 'PX', math.ceil((due - now) / 1000) + 60000)
return math.max(0, due - burst - now)
"""

_SCRIPT = _CLOCK + _TAKE


class _AwayError(Exception):
    """Redis does not answer, refuses the call, or is not Redis; the message is the reason and holds no password."""


@dataclass(frozen=True, slots=True)
class _Outage:
    """Redis has been away from `since` on; no call goes to it before `retry_at` (both on the loop's clock)."""

    since: float
    retry_at: float
    attempts: int = 1


class SharedPace:
    """A Pace with a ceiling over all processes that name the same bucket. For one event loop.

    No call waits for Redis longer than the broker's timeout, and none raises when Redis fails. One process' calls take
    from the bucket in the order of the calls.
    """

    def __init__(self, broker: Broker, client: Redis, name: str, rate: float, share: int) -> None:
        self._broker = broker
        self._client = client
        self._key = f"kube-rewrap:pace:{name}"
        self._rate_key = f"kube-rewrap:rate:{name}"
        self._rate = self._ceiling = _checked(rate)
        self._has_disagreed = False
        self._share = max(_FEWEST_SHARES, share)
        self._alone = Bucket(1.0)
        self._outage: _Outage | None = None
        self._turn = asyncio.Lock()
        self._checking: asyncio.Task[None] | None = None

    @property
    def rate(self) -> float:
        """Objects a second over all processes, 0 = no ceiling; `take` uses it from the next call on.

        Setting it raises ValueError below 0.
        """
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._rate = _checked(rate)

    @property
    def most(self) -> int:
        """See Pace."""
        return LocalPace(self._rate if self._outage is None else self._rate / self._share).most

    async def take(self, objects: int) -> None:
        """See Pace. Redis keeps the order over all processes; a process that dies while it waits loses its tokens."""
        if not self._rate:
            return
        wait = await self._ask(objects)
        if wait > 0:
            await asyncio.sleep(wait)

    async def compare(self) -> None:
        """Compare this process' ceiling with that of the process that did so before; log, once, that they differ.

        Processes with different ceilings together keep to neither. Call it once a slice. It does nothing while Redis
        is away.
        """
        if self._outage is not None:
            self._start_check()
            return
        try:
            async with _answering(self._broker), self._client.pipeline(transaction=False) as pipe:
                # Two commands, not one: SET knows no GET before Redis 6.2.
                _ = pipe.get(self._rate_key)
                _ = pipe.set(self._rate_key, f"{self._ceiling:g}", ex=_RATE_SECONDS)
                other, _ = await pipe.execute(raise_on_error=False)
        except _AwayError as error:
            self._failed(str(error))
        else:
            self._judge(other)

    async def aclose(self) -> None:
        """Cancel the background task. The client stays open."""
        if self._checking is not None:
            await cancel_all(self._checking)

    async def _ask(self, objects: int) -> float:
        """Take objects from the bucket in Redis, or from this process' share, and return the seconds to wait."""
        cost = _cost(objects, self._rate)
        try:
            # The time-out includes the lock: a call queued after one without an answer does not wait longer.
            async with _answering(self._broker), self._turn:
                if self._outage is None:
                    return await self._run(cost)
        except _AwayError as error:
            self._failed(str(error))
        self._start_check()
        return self._take_alone(objects)

    async def _run(self, cost: int) -> float:
        """Run the script and return the seconds to wait."""
        async with self._client.pipeline(transaction=False) as pipe:
            # EVAL with the whole text, 1 kB, each time: Redis caches it by its hash, and a SCRIPT FLUSH does no harm.
            _ = pipe.eval(_SCRIPT, 1, self._key, cost, _BURST, _LONGEST_BACKLOG)
            [wait] = await pipe.execute(raise_on_error=False)
        if isinstance(wait, Exception):
            raise wait
        if not isinstance(wait, int) or not 0 <= wait <= cost + _LONGEST_BACKLOG:
            raise _AwayError("the answer is not a wait")
        return wait / 1_000_000

    def _judge(self, other: object) -> None:
        if not isinstance(other, str) or other == f"{self._ceiling:g}" or self._has_disagreed:
            return
        self._has_disagreed = True
        because = "another worker of this cluster has another --rate, or had a minute ago; give all workers the same"
        _log.warning("pace.disagreement", because=because, rate=self._ceiling, other=other[:_LONGEST_RATE])

    def _take_alone(self, objects: int) -> float:
        if not objects:
            return 0.0
        # One bucket for all outages: with a new one for each, a flapping Redis would allow a burst each time.
        bucket = replace(self._alone, rate=self._rate / self._share)
        self._alone, wait = bucket.take(objects, _now())
        return wait

    def _start_check(self) -> None:
        """Start a background check whether Redis is back, if `retry_at` has come and no check is running."""
        if self._checking is None and self._outage is not None and _now() >= self._outage.retry_at:
            self._checking = asyncio.create_task(self._check(), name="pace: redis")

    async def _check(self) -> None:
        try:
            async with _answering(self._broker):
                # Idle connections may lead to a server that is a replica now: drop them, to look up the master again.
                await self._client.connection_pool.disconnect(inuse_connections=False)
                await self._run(0)
        except _AwayError as error:
            self._failed(str(error))
        else:
            self._answered()
        finally:
            self._checking = None

    def _failed(self, because: str) -> None:
        now, outage = _now(), self._outage
        if outage is None:
            self._outage = _Outage(now, now + _pause(0))
            _log.warning("redis.unavailable", because=because, broker=self._broker.place, rate=self._rate / self._share)
        elif now >= outage.retry_at:
            self._outage = replace(outage, retry_at=now + _pause(outage.attempts), attempts=outage.attempts + 1)

    def _answered(self) -> None:
        if self._outage is not None:
            because = f"Redis answers again after {_now() - self._outage.since:.0f} s"
            self._outage = None
            _log.info("redis.available", because=because, broker=self._broker.place, rate=self._rate)


@asynccontextmanager
async def open_pace(settings: BrokerSettings, name: str, rate: float, share: int) -> AsyncIterator[SharedPace]:
    """Open the pace of the cluster `name` at `rate` objects a second (0 = no ceiling); Redis may be away.

    `share` is the most processes that may be at work; while Redis is away each limits itself to 1/`share` of the rate,
    at most half. Raises SettingsError for an invalid URL, ValueError for a rate below 0.
    """
    broker = parse_broker(settings)
    async with _connected(broker) as client:
        pace = SharedPace(broker, client, name, rate, share)
        try:
            yield pace
        finally:
            await pace.aclose()


@asynccontextmanager
async def _connected(broker: Broker) -> AsyncIterator[Redis]:
    """Make a client that connects at its first call and does not retry: SharedPace decides about retries."""
    options: dict[str, Any] = {
        "socket_timeout": broker.timeout,
        "socket_connect_timeout": broker.timeout,
        "retry": Retry(NoBackoff(), 0),
        # RESP2 logs in by AUTH, whose errors, unlike HELLO's, do not repeat the arguments. No CLIENT SETINFO: an ACL
        # need not allow it.
        "protocol": 2,
        "driver_info": None,
        "decode_responses": True,
        # Other clients may have written bytes that are not text.
        "encoding_errors": "replace",
        **({"ssl": True, **broker.tls.options()} if broker.tls else {}),
    }
    login: dict[str, Any] = {
        "db": broker.db,
        "username": broker.user,
        "password": broker.password.reveal().decode() if broker.password else None,
    }
    async with AsyncExitStack() as stack:
        if broker.master is None:
            [(host, port)] = broker.nodes
            client = Redis(host=host, port=port, **options, **login)
        else:
            # The client asks the sentinels one after another; all of that has to fit into one time-out.
            each = broker.timeout / (len(broker.nodes) + 1)
            patience = {"socket_timeout": each, "socket_connect_timeout": each}
            sentinels = Sentinel(  # type: ignore[no-untyped-call]
                broker.nodes, sentinel_kwargs=options | patience, **options, **login
            )
            stack.push_async_callback(_close, sentinels, broker)
            client = sentinels.master_for(broker.master)
        stack.push_async_callback(_close, client, broker)
        yield client


async def _close(client: Redis | Sentinel, broker: Broker) -> None:
    with suppress(_AwayError):
        async with _answering(broker):
            await client.aclose()


@asynccontextmanager
async def _answering(broker: Broker) -> AsyncIterator[None]:
    """Limit the block to the broker's time-out, and translate every error of the client to _AwayError."""
    try:
        async with asyncio.timeout(broker.timeout):
            yield
    except _AwayError:
        raise
    except Exception as error:  # noqa: BLE001 - the client raises TypeError and more
        raise _AwayError(_because(error, broker)) from None


def _because(error: Exception, broker: Broker) -> str:
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return f"no answer within {broker.timeout:g} s"
    # All errors from inside a script have one class, so their text decides; the message does not repeat that text.
    meaning = next((ours for theirs, ours in _MEANINGS.items() if theirs in str(error)), "")
    return meaning or why_unreachable(error, has_password=broker.password is not None)


def _cost(objects: int, rate: float) -> int:
    """Return whole microseconds, rounded up, so that the real rate is at most the ceiling."""
    return math.ceil(objects * 1_000_000 / rate) if objects else 0


def _pause(attempts: int) -> float:
    return random.uniform(0.75, 1.25) * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempts, 8))  # noqa: S311 - jitter


def _checked(rate: float) -> float:
    if not 0 <= rate < math.inf:
        raise ValueError("a rate is 0 or more objects a second")
    return rate


def _now() -> float:
    return asyncio.get_running_loop().time()
