"""The rate ceiling over all processes of a cluster: one bucket in Redis, on Redis' clock.

Redis holds nothing that matters: it may be slow, wiped, or gone, and no call here fails for it. While it is gone each
process keeps to its own share of the rate, which is less than the whole and never without a ceiling. What lies in
Redis is numbers under names of clusters; no key of etcd's and no secret.

Not handled: telling how many processes are at work. Whoever opens a pace says how many there may be.
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

from kube_rewrap.config.library_errors import kind_of
from kube_rewrap.config.settings.broker import Broker, parse_broker
from kube_rewrap.config.settings.schema import BrokerSettings
from kube_rewrap.worker.rate.gcra import Bucket
from kube_rewrap.worker.rate.local import LocalPace

_log = structlog.get_logger()

_BURST = round(Bucket(1.0).burst * 1_000_000)
_LONGEST_BACKLOG = 600_000_000
"""Microseconds. What is due later was not taken by us, but written by somebody or left by a broken clock."""

_FEWEST_SHARES = 2
_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 10.0
_RATE_SECONDS = 60
_LONGEST_RATE = 20

_MEANINGS = {
    "maxmemory": "its memory is full",
    "read only replica": "it is a replica, which takes no writes",
    "can't run this command": "its user may not run what is needed",
    "no permissions": "its user may not run what is needed",
}
"""What Redis says in an error, and what that means."""

_CLOCK = """
-- Redis 6 may be set up so that it has to be asked before a script writes what depends on TIME; 7 needs no asking.
if redis.replicate_commands then redis.replicate_commands() end
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

_TAKE = """
-- GCRA as in bucket.py, in whole microseconds: a Lua number is exact up to 2^53, some 285 years of them.
local cost, burst, longest = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local due, seen = now, now
local record = redis.pcall('GET', KEYS[1])
if type(record) == 'string' and #record < 64 then -- more digits may be no number
  local due_then, seen_then = string.match(record, '^(%d+) (%d+)$')
  if due_then then due, seen = tonumber(due_then), tonumber(seen_then) end
end
-- A clock that went back (set by hand, or a replica's after a fail-over) takes what is due along; nobody waits for it.
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
    """Redis can't be had, or what answers is not Redis; the message says why and holds no password."""


@dataclass(frozen=True, slots=True)
class _Outage:
    """Redis did not answer at `since`; it is not asked before `retry_at` (both on the loop's clock)."""

    since: float
    retry_at: float
    attempts: int = 1


class SharedPace:
    """A Pace whose ceiling holds over all processes that name the same bucket. For one event loop.

    No call waits for Redis longer than the broker's timeout, and none raises for it. The calls of one process take
    their places in the bucket in their order.
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
        self._errand: asyncio.Task[None] | None = None

    @property
    def rate(self) -> float:
        """Objects a second over all processes, 0 = no ceiling; the next call goes by it. ValueError below 0."""
        return self._rate

    @rate.setter
    def rate(self, rate: float) -> None:
        self._rate = _checked(rate)

    @property
    def most(self) -> int:
        """See Pace."""
        return LocalPace(self._rate if self._outage is None else self._rate / self._share).most

    async def take(self, objects: int) -> None:
        """See Pace. Redis keeps the order over all processes; a process that dies while it waits leaves its turn."""
        if not self._rate:
            return
        wait = await self._ask(objects)
        if wait > 0:
            await asyncio.sleep(wait)

    async def compare(self) -> None:
        """Log once that another process goes by another ceiling: each would believe that all together keep to its own.

        Once a slice is often enough. While Redis is away, nothing is compared.
        """
        if self._outage is not None:
            self._run_errand()
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
        """End what runs in the background. The client stays open."""
        if self._errand is not None:
            self._errand.cancel()
            await asyncio.gather(self._errand, return_exceptions=True)

    async def _ask(self, objects: int) -> float:
        """Take objects from the bucket in Redis, or from our own share, and return the seconds to wait."""
        cost = _cost(objects, self._rate)
        try:
            # The time-out is around the lock, too: who stands behind a call that gets no answer waits no longer.
            async with _answering(self._broker), self._turn:
                if self._outage is None:
                    return await self._run(cost)
        except _AwayError as error:
            self._failed(str(error))
        self._run_errand()
        return self._take_alone(objects)

    async def _run(self, cost: int) -> float:
        """Run the script and return the seconds to wait."""
        async with self._client.pipeline(transaction=False) as pipe:
            # The whole text each time, 1 kB: Redis knows it by its hash, and after a SCRIPT FLUSH nothing is missing.
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
        because = "another worker of this cluster goes by another --rate, or did a minute ago; give all the same"
        _log.warning("pace.disagreement", because=because, rate=self._ceiling, other=other[:_LONGEST_RATE])

    def _take_alone(self, objects: int) -> float:
        if not objects:
            return 0.0
        # One bucket for all outages: a Redis that comes and goes shall not fill it anew each time.
        bucket = replace(self._alone, rate=self._rate / self._share)
        self._alone, wait = bucket.take(objects, _now())
        return wait

    def _run_errand(self) -> None:
        """Ask in the background whether Redis is back, if it is time to."""
        if self._errand is None and self._outage is not None and _now() >= self._outage.retry_at:
            self._errand = asyncio.create_task(self._go(), name="pace: redis")

    async def _go(self) -> None:
        try:
            async with _answering(self._broker):
                # What is left may lead to a server that is a replica now: ask anew where the master is.
                await self._client.connection_pool.disconnect(inuse_connections=False)
                await self._run(0)
        except _AwayError as error:
            self._failed(str(error))
        else:
            self._answered()
        finally:
            self._errand = None

    def _failed(self, because: str) -> None:
        now, outage = _now(), self._outage
        if outage is None:
            self._outage = _Outage(now, now + _pause(0))
            _log.warning("redis.unavailable", because=because, broker=self._broker.place, rate=self._rate / self._share)
        elif now >= outage.retry_at:
            self._outage = replace(outage, retry_at=now + _pause(outage.attempts), attempts=outage.attempts + 1)

    def _answered(self) -> None:
        if self._outage is not None:
            because = f"it answers again after {_now() - self._outage.since:.0f} s"
            self._outage = None
            _log.info("redis.available", because=because, broker=self._broker.place, rate=self._rate)


@asynccontextmanager
async def open_pace(settings: BrokerSettings, name: str, rate: float, share: int) -> AsyncIterator[SharedPace]:
    """Open the pace of the cluster `name` at `rate` objects a second (0 = no ceiling); Redis need not be there.

    `share`: how many processes may be at work; while Redis is away each keeps to one part of so many, at least 2.
    Raises SettingsError for a URL that can't be used, ValueError for a rate below 0.
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
    """Make a client that connects when it is used, and never tries again by itself: that is ours to do."""
    options: dict[str, Any] = {
        "socket_timeout": broker.timeout,
        "socket_connect_timeout": broker.timeout,
        "retry": Retry(NoBackoff(), 0),
        # RESP2 logs in by AUTH, whose errors, unlike HELLO's, do not repeat the arguments. No CLIENT SETINFO: an ACL
        # need not allow it.
        "protocol": 2,
        "driver_info": None,
        "decode_responses": True,
        # What others wrote there need not be text.
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
            # They are asked one after another, and all of that has to fit into one time-out.
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
    """Bound what is asked of Redis in the block, and turn every error of the client's into ours."""
    try:
        async with asyncio.timeout(broker.timeout):
            yield
    except _AwayError:
        raise
    except Exception as error:  # noqa: BLE001 - for answers that are none the client raises TypeError, KeyError and more
        raise _AwayError(_because(error, broker)) from None


def _because(error: Exception, broker: Broker) -> str:
    if isinstance(error, TimeoutError | RedisTimeoutError):
        return f"no answer within {broker.timeout:g} s"
    # From inside a script all errors are of one class; of their text no more than its meaning is told.
    meaning = next((ours for theirs, ours in _MEANINGS.items() if theirs in str(error)), "")
    return f"{meaning} ({kind_of(error)})" if meaning else kind_of(error)


def _cost(objects: int, rate: float) -> int:
    """Return whole microseconds, rounded up: a ceiling errs downwards."""
    return math.ceil(objects * 1_000_000 / rate) if objects else 0


def _pause(attempts: int) -> float:
    return random.uniform(0.75, 1.25) * min(_LONGEST_PAUSE, _FIRST_PAUSE * 2.0 ** min(attempts, 8))  # noqa: S311 - jitter


def _checked(rate: float) -> float:
    if not 0 <= rate < math.inf:
        raise ValueError("a rate is 0 or more objects a second")
    return rate


def _now() -> float:
    return asyncio.get_running_loop().time()
