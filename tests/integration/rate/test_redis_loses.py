"""Redis loses keys, scripts and connections, or takes no writes."""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress

import pytest
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from kube_rewrap.worker.rate.shared import open_pace
from tests.contract.grants import excess
from tests.integration.rate.taking import NewRedis, names, quiet, settings_of, take, take_until
from tests.servers.redis import RedisOptions, RedisServer

pytestmark = pytest.mark.timeout(90)


async def test_a_flush_in_the_middle_costs_one_burst(redis: RedisServer) -> None:
    with quiet():
        async with open_pace(settings_of(redis), "cluster", 200.0, 2) as pace:
            grants = await take(pace, 10, 10)
            redis.flush()
            grants += await take(pace, 10, 10)
    assert excess(grants, 200.0, bursts=2) <= 0


async def test_scripts_may_be_flushed(redis: RedisServer) -> None:
    with quiet():
        async with open_pace(settings_of(redis), "cluster", 200.0, 2) as pace:
            grants = await take(pace, 10, 5)
            redis.run("SCRIPT", "FLUSH")
            grants += await take(pace, 10, 5)
    assert excess(grants, 200.0) <= 0


async def test_scripts_may_be_replicated_by_their_text(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions())
    with suppress(ResponseError):
        # Redis 7 has no such setting any more.
        server.run("CONFIG", "SET", "lua-replicate-commands", "no")
    with quiet():
        async with open_pace(settings_of(server), "cluster", 200.0, 2) as pace:
            await pace.take(1)


async def test_calls_that_come_at_once_share_one_connection(redis: RedisServer) -> None:
    before = connections(redis)
    async with open_pace(settings_of(redis), "cluster", 1_000.0, 2) as pace:
        await asyncio.gather(*(pace.take(1) for _ in range(20)))
    # One more is the question itself.
    assert connections(redis) == before + 2


def connections(server: RedisServer) -> int:
    found = re.search(r"total_connections_received:(\d+)", server.run("INFO", "stats"))
    assert found is not None
    return int(found[1])


async def test_a_connection_that_was_cut_is_made_again(redis: RedisServer) -> None:
    with quiet():
        async with open_pace(settings_of(redis), "cluster", 200.0, 2) as pace:
            await pace.take(1)
            redis.run("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await asyncio.sleep(0.1)
            await pace.take(1)


@pytest.mark.parametrize(
    ("disturb", "mend", "because"),
    [
        pytest.param(
            ("CONFIG", "SET", "maxmemory", "1"), ("CONFIG", "SET", "maxmemory", "0"), "its memory is full", id="full"
        ),
        pytest.param(("REPLICAOF", "127.0.0.1", "1"), ("REPLICAOF", "NO", "ONE"), "is a replica", id="a replica now"),
    ],
)
async def test_one_that_takes_no_writes_is_away(
    new_redis: NewRedis, disturb: tuple[str, ...], mend: tuple[str, ...], because: str
) -> None:
    server = new_redis(RedisOptions())
    with capture_logs() as logs:
        async with open_pace(settings_of(server), "cluster", 100.0, 2) as pace:
            await pace.take(1)
            server.run(*disturb)
            assert excess(await take(pace, 5, 6), 50.0) <= 0
            server.run(*mend)
            await take_until(pace, 2, logs, "redis.available")
    assert names(logs) == ["redis.unavailable", "redis.available"]
    assert because in logs[0]["because"]
