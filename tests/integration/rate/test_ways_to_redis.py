"""Every way to reach Redis, for both clients: passwords, users, TLS, sentinels, and what is wrong about them."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from redis.exceptions import RedisError, ResponseError
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.broker import parse_broker
from kube_rewrap.config.settings.schema import BrokerSettings
from kube_rewrap.worker.queue.names import CONTROL, EXCHANGE
from kube_rewrap.worker.queue.transport import register
from kube_rewrap.worker.rate.shared import open_pace
from tests.contract.grants import excess
from tests.integration.rate.taking import NewRedis, names, quiet, served, settings_of, take
from tests.servers.ports import free_ports
from tests.servers.redis import MASTER, REWRAP, Daemon, RedisOptions
from tests.service.hostile import good

pytestmark = pytest.mark.timeout(90)

# All that the script and the comparison of ceilings need.
LEAST_RULES = "~kube-rewrap:* +eval +time +get +set"


async def through(settings: BrokerSettings) -> None:
    """Both clients reach Redis, and nobody fell back to a share."""
    with quiet():
        async with open_pace(settings, "cluster", 500.0, 2) as pace:
            await take(pace, 5, 5)
            await pace.compare()
    await asyncio.to_thread(through_kombu, settings)


def through_kombu(settings: BrokerSettings) -> None:
    broker = parse_broker(settings)
    register()
    taken: list[Any] = []
    with Connection(  # type: ignore[no-untyped-call]
        broker.url.reveal().decode(), ssl=broker.use_ssl(), transport_options=broker.transport_options()
    ) as connection:
        queue = Queue(CONTROL, Exchange(EXCHANGE), routing_key=CONTROL)  # type: ignore[no-untyped-call]
        with connection.Producer() as producer:
            sent: dict[str, Any] = {"exchange": EXCHANGE, "routing_key": CONTROL, "headers": good()["headers"]}
            producer.publish([[], {"number": 7}, {}], **sent)
        with connection.Consumer([queue], on_message=taken.append):
            connection.drain_events(timeout=30)
        taken[0].ack()
    assert taken[0].decode() == [[], {"number": 7}, {}]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(RedisOptions(), id="clear text"),
        pytest.param(RedisOptions(password=True), id="a password"),
        pytest.param(RedisOptions(acl="~* &* +@all"), id="a user"),
        pytest.param(RedisOptions(tls=True), id="TLS with a client certificate"),
        pytest.param(RedisOptions(tls=True, acl="~* &* +@all"), id="TLS and a user"),
        pytest.param(RedisOptions(sentinel=True), id="a sentinel"),
        pytest.param(RedisOptions(sentinel=True, acl="~* &* +@all"), id="a sentinel, a user for Redis"),
        pytest.param(RedisOptions(sentinel=True, tls=True, password=True), id="a sentinel, TLS to it and to Redis"),
    ],
)
async def test_ways_to_reach_it(new_redis: NewRedis, options: RedisOptions) -> None:
    await through(settings_of(new_redis(options), timeout=20.0))


@pytest.mark.parametrize(
    ("db", "rules"),
    [pytest.param(0, LEAST_RULES, id="database 0"), pytest.param(3, f"{LEAST_RULES} +select", id="another database")],
)
async def test_a_user_with_few_rights_is_enough(new_redis: NewRedis, db: int, rules: str) -> None:
    server = new_redis(RedisOptions(acl=rules))
    url = server.url.removesuffix("/0") + f"/{db}"
    settings = BrokerSettings(url=SecretBytes(url.encode()))
    with quiet():
        async with open_pace(settings, "cluster", 500.0, 2) as pace:
            await pace.take(5)
            await pace.compare()


async def test_a_user_with_too_few_rights_is_told_of(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(acl="~kube-rewrap:* +eval +get +set"))
    with capture_logs() as logs:
        async with open_pace(settings_of(server), "cluster", 100.0, 2) as pace:
            assert excess(await take(pace, 5, 3), 50.0) <= 0
    assert names(logs) == ["redis.unavailable"]
    assert logs[0]["because"].startswith("its user lacks a permission that rewrap needs")


async def test_a_wrong_password_is_told_of_and_not_repeated(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(acl="~* +@all"))
    url = server.url.replace(REWRAP.password, "CanaryPassword")
    with capture_logs() as logs:
        async with open_pace(BrokerSettings(url=SecretBytes(url.encode())), "cluster", 100.0, 2) as pace:
            await pace.take(1)
    assert names(logs) == ["redis.unavailable"]
    assert logs[0]["because"] == "it refuses the user or the password of --broker (REWRAP_BROKER)"
    assert "CanaryPassword" not in repr(logs)


@pytest.mark.parametrize(
    ("left_out", "because"),
    [
        pytest.param(
            {"cacert": None}, "no trusted authority signed its certificate", id="an authority that it does not know"
        ),
        pytest.param({"cert": None, "key": None}, "", id="no client certificate"),
        pytest.param({"cacert": "/nonexistent.pem"}, "one of the files for TLS can't be read", id="no such file"),
    ],
)
async def test_tls_that_fails_is_told_of(new_redis: NewRedis, left_out: dict[str, str | None], because: str) -> None:
    server = new_redis(RedisOptions(tls=True, password=True))
    settings = settings_of(server)
    broken = BrokerSettings(
        url=settings.url,
        cacert=left_out.get("cacert", settings.cacert),
        cert=left_out.get("cert", settings.cert),
        key=left_out.get("key", settings.key),
    )
    with capture_logs() as logs:
        async with open_pace(broken, "cluster", 100.0, 2) as pace:
            await pace.take(1)
    assert names(logs) == ["redis.unavailable"]
    assert because in logs[0]["because"]


async def test_nothing_but_numbers_and_names_lies_in_redis(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(acl="~* +@all"))
    async with open_pace(settings_of(server), "cluster", 500.0, 2) as pace:
        await pace.take(5)
        await pace.compare()
    assert sorted(server.run("KEYS", "*")) == ["kube-rewrap:pace:cluster", "kube-rewrap:rate:cluster"]
    assert server.run("GET", "kube-rewrap:rate:cluster") == "500"
    due, seen = server.run("GET", "kube-rewrap:pace:cluster").split()
    assert int(due) - int(seen) in {10_000, 0}


async def test_a_dead_sentinel_does_not_hide_a_living_one(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(sentinel=True))
    [port] = free_ports(1)
    dead = f"sentinel://127.0.0.1:{port};{server.url}"
    await through(BrokerSettings(url=SecretBytes(dead.encode())))


async def test_nor_does_one_that_does_not_answer(new_redis: NewRedis) -> None:
    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = new_redis(RedisOptions(sentinel=True))
    async with served(keep_silent) as silent:
        place = parse_broker(silent).place
        both = f"sentinel://{place};{server.url}"
        with quiet():
            async with open_pace(BrokerSettings(url=SecretBytes(both.encode()), timeout=2.0), "c", 500.0, 2) as pace:
                await pace.take(1)


@pytest.mark.slow
async def test_after_a_fail_over_the_new_master_is_asked(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(sentinel=True, replica=True))
    sentinel, first, second = server.sentinel, server.daemon, server.replica
    assert sentinel is not None
    assert second is not None
    with capture_logs() as logs:
        async with open_pace(settings_of(server), "cluster", 100.0, 2) as pace:
            await pace.take(1)
            await asyncio.to_thread(sentinel.wait_until, lambda: fails_over(sentinel), "fail over", 40)
            async with asyncio.timeout(40):
                while (role(first), role(second)) != ("slave", "master"):
                    await pace.take(1)
                while second.run("GET", "kube-rewrap:rate:cluster") is None:
                    await pace.compare()
                    await pace.take(1)
            assert pace.most == 5
    # It may be gone more than once: at the old master, and at a sentinel that has not heard of the new one.
    assert names(logs) == ["redis.unavailable", "redis.available"] * (len(logs) // 2)


def fails_over(sentinel: Daemon) -> bool:
    """A sentinel refuses until it has seen enough of the replica."""
    with suppress(ResponseError):
        return bool(sentinel.run("SENTINEL", "FAILOVER", MASTER) == "OK")
    return False


def role(daemon: Daemon) -> str | None:
    """What it is; None while it hangs up on everybody, as it does when that changes."""
    with suppress(RedisError):
        return str(daemon.run("ROLE")[0])
    return None
