"""The shared ceiling on real Redis: over processes, through every loss of Redis, and by every way to reach it."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from redis.exceptions import RedisError, ResponseError
from structlog.testing import capture_logs
from structlog.typing import EventDict

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.broker import parse_broker
from kube_rewrap.config.settings.schema import BrokerSettings
from kube_rewrap.worker.queue.names import CONTROL, EXCHANGE
from kube_rewrap.worker.queue.transport import register
from kube_rewrap.worker.rate import shared
from kube_rewrap.worker.rate.gcra import Bucket
from kube_rewrap.worker.rate.shared import SharedPace, open_pace
from tests.contract.grants import Grant, excess
from tests.servers.ports import free_ports
from tests.servers.redis import MASTER, REWRAP, Daemon, RedisOptions, RedisServer
from tests.service.hostile import good

pytestmark = pytest.mark.timeout(90)

NewRedis = Callable[[RedisOptions], RedisServer]

# All that the script and the comparison of ceilings need.
LEAST_RULES = "~kube-rewrap:* +eval +time +get +set"


def settings_of(server: RedisServer, timeout: float = 5.0) -> BrokerSettings:
    files = server.certificates
    return BrokerSettings(
        url=SecretBytes(server.url.encode()),
        cacert=str(files.cacert) if files else None,
        cert=str(files.cert) if files else None,
        key=str(files.key) if files else None,
        timeout=timeout,
    )


def now() -> float:
    return asyncio.get_running_loop().time()


async def take(pace: SharedPace, objects: int, calls: int) -> list[Grant]:
    grants = []
    for _ in range(calls):
        begun = now()
        await pace.take(objects)
        grants.append(Grant(begun, now(), objects))
    return grants


async def take_until(pace: SharedPace, objects: int, logs: list[EventDict], event: str) -> list[Grant]:
    """Until the event was logged."""
    grants = []
    async with asyncio.timeout(40):
        while event not in names(logs):
            grants += await take(pace, objects, 1)
    return grants


def names(logs: list[EventDict]) -> list[str]:
    return [entry["event"] for entry in logs]


@contextmanager
def quiet() -> Iterator[None]:
    """Nothing is logged meanwhile: Redis was there all the time."""
    with capture_logs() as logs:
        yield
    assert logs == []


# --------------------------------------------------------------------------------------------------------- arithmetic


def microseconds_to_wait(server: RedisServer, at: int, cost: int) -> int:
    """The module's own script at a time of the test's choosing."""
    clock = f"local now = {at}\n"
    wait = server.run("EVAL", clock + shared._TAKE, 1, "bucket", cost, shared._BURST, shared._LONGEST_BACKLOG)
    assert isinstance(wait, int)
    return wait


@pytest.mark.parametrize("rate", [1.0, 3.0, 7.5, 500.0, 999.0, 123_456.0])
def test_the_script_does_what_the_bucket_does(redis: RedisServer, rate: float) -> None:
    bucket, at = Bucket(rate), 1_700_000_000_000_000
    for calls, (gap, objects) in enumerate([(0, 1), (0, 25), (50_000, 3), (1, 1), (5_000_000, 1), (0, 9)] * 5, start=1):
        at += gap
        bucket, wait = bucket.take(objects, at / 1_000_000)
        got = microseconds_to_wait(redis, at, shared._cost(objects, rate))
        # Each call is rounded up by less than a microsecond; a float of seconds since 1970 is a quarter of one off.
        assert -1 <= got - wait * 1_000_000 <= calls + 1


def test_no_digit_of_the_time_is_lost(redis: RedisServer) -> None:
    at = 1_700_000_000_123_457
    assert microseconds_to_wait(redis, at, 200_001) == 100_001
    assert redis.run("GET", "bucket") == f"{at + 200_001} {at}"
    assert microseconds_to_wait(redis, at + 1, 1) == 100_001


def test_the_record_ends_by_itself(redis: RedisServer) -> None:
    microseconds_to_wait(redis, 1_700_000_000_000_000, 30_000_000)
    assert 80_000 < redis.run("PTTL", "bucket") <= 90_000


def test_a_clock_that_went_back_makes_nobody_wait_for_it(redis: RedisServer) -> None:
    at, hour = 1_700_000_000_000_000, 3_600_000_000
    assert microseconds_to_wait(redis, at, 500_000) == 400_000
    assert microseconds_to_wait(redis, at - hour, 500_000) == 900_000
    assert microseconds_to_wait(redis, at - hour + 300_000, 500_000) == 1_100_000
    assert microseconds_to_wait(redis, at, 500_000) == 400_000


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(("SET", "bucket", "nonsense"), id="a text"),
        pytest.param(("RPUSH", "bucket", "1"), id="a list"),
        pytest.param(("SET", "bucket", "-5 -5"), id="times below 0"),
        pytest.param(("SET", "bucket", "9007199254740991 1700000000000000"), id="due in 200 years"),
        pytest.param(
            ("SET", "bucket", "99999999999999999999999 9999999999999999999999999"), id="more than a number holds"
        ),
        pytest.param(("SET", "bucket", f"{'9' * 400} {'9' * 400}"), id="infinite"),
        pytest.param(("SET", "bucket", f"0 {'9' * 400}"), id="seen at infinity"),
    ],
)
def test_what_others_wrote_is_overwritten(redis: RedisServer, write: tuple[str, ...]) -> None:
    redis.run(*write)
    at = 1_700_000_000_000_000
    assert microseconds_to_wait(redis, at, 500_000) == 400_000
    assert redis.run("GET", "bucket") == f"{at + 500_000} {at}"


# ---------------------------------------------------------------------------------------------------------- processes


def test_four_processes_together_stay_at_the_ceiling(redis: RedisServer) -> None:
    rate, calls, objects = 400, 40, 8
    arguments = [redis.url, str(rate), "4", str(objects), str(calls)]
    command = [sys.executable, "-m", "tests.integration.pace_process", *arguments]
    processes = [
        subprocess.Popen(command, cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    try:
        ends = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(10)
    assert [errors for _, errors in ends] == [b""] * 4
    grants = [Grant(*row) for output, _ in ends for row in json.loads(output)]
    total = sum(grant.objects for grant in grants)
    seconds = max(grant.ended for grant in grants) - min(grant.begun for grant in grants)
    assert total == 4 * calls * objects
    assert total / seconds <= 1.1 * rate
    assert excess(grants, rate) <= 0


async def test_clusters_have_ceilings_of_their_own(redis: RedisServer) -> None:
    settings = settings_of(redis)
    with quiet():
        async with open_pace(settings, "one", 1.0, 2) as one, open_pace(settings, "other", 1.0, 2) as other:
            await one.take(1)
            await other.take(1)
    assert sorted(redis.run("KEYS", "*")) == ["kube-rewrap:pace:one", "kube-rewrap:pace:other"]


async def test_the_rate_may_change_from_call_to_call(redis: RedisServer) -> None:
    async with open_pace(settings_of(redis), "cluster", 10_000.0, 2) as pace:
        assert (pace.rate, pace.most) == (10_000.0, 500)
        await take(pace, 1, 5)
        pace.rate = 20.0
        assert (pace.rate, pace.most) == (20.0, 1)
        assert excess(await take(pace, 1, 15), 20.0) <= 0


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
async def test_a_rate_that_is_none_is_the_callers_fault(redis: RedisServer, rate: float) -> None:
    async with open_pace(settings_of(redis), "cluster", 1.0, 2) as pace:
        with pytest.raises(ValueError, match="a rate is 0 or more"):
            pace.rate = rate
        assert pace.rate == 1.0


# ------------------------------------------------------------------------------------------------------- Redis is away


async def test_killed_in_the_middle_the_local_share_holds_and_each_turn_is_logged_once(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions())
    with capture_logs() as logs:
        async with open_pace(settings_of(server), "cluster", 400.0, 4) as pace:
            assert excess(await take(pace, 20, 10), 400.0) <= 0
            assert pace.most == 20
            server.kill()
            away = await take(pace, 5, 40)
            assert pace.most == 5
            assert excess(away, 100.0) <= 0
            server.start()
            away += await take_until(pace, 5, logs, "redis.available")
            assert excess(away, 100.0) <= 0
            assert pace.most == 20
            assert excess(await take(pace, 20, 10), 400.0) <= 0
    assert names(logs) == ["redis.unavailable", "redis.available"]
    gone, back = logs
    assert (gone["log_level"], gone["broker"], gone["rate"]) == ("warning", f"127.0.0.1:{server.port}", 100.0)
    # As the connection finds it: ended, or not to be had again.
    assert gone["because"] in {"ConnectionError", "ConnectionError, from ConnectionRefusedError (Connection refused)"}
    assert (back["log_level"], back["broker"], back["rate"]) == ("info", f"127.0.0.1:{server.port}", 400.0)
    assert back["because"].startswith("it answers again after ")


async def test_frozen_it_holds_nobody_up_for_longer_than_the_timeout(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions())
    with capture_logs() as logs:
        async with open_pace(settings_of(server, timeout=2.0), "cluster", 400.0, 2) as pace:
            await pace.take(1)
            server.freeze()
            begun = now()
            async with asyncio.TaskGroup() as group:
                for _ in range(10):
                    group.create_task(pace.take(1))
            # All wait side by side, not one after another: ten time-outs would be twenty seconds.
            assert now() - begun < 15
            assert logs[0]["because"] == "no answer within 2 s"
            server.thaw()
            await take_until(pace, 1, logs, "redis.available")
    assert names(logs) == ["redis.unavailable", "redis.available"]


async def test_it_need_not_be_there_at_the_start(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions())
    server.kill()
    with capture_logs() as logs:
        async with open_pace(settings_of(server), "cluster", 100.0, 1) as pace:
            # A process can't know that it is alone: half of the rate at most.
            assert excess(await take(pace, 5, 12), 50.0) <= 0
            server.start()
            await take_until(pace, 2, logs, "redis.available")
    assert names(logs) == ["redis.unavailable", "redis.available"]


async def test_a_process_that_ends_while_it_is_away_ends(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions())
    with capture_logs() as logs:
        async with open_pace(settings_of(server, timeout=0.5), "cluster", 100.0, 2) as pace:
            server.freeze()
            await pace.compare()
        server.thaw()
    assert names(logs) == ["redis.unavailable"]


async def test_a_process_may_end_while_redis_is_asked_again() -> None:
    asked = asyncio.Semaphore(0)

    async def keep_silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.release()
        await reader.read()
        writer.close()

    async with served(keep_silent) as settings:
        with capture_logs() as logs:
            async with open_pace(settings, "cluster", 200.0, 2) as pace:
                await pace.take(1)
                await asked.acquire()
                async with asyncio.timeout(30):
                    while asked.locked():
                        await pace.take(1)
    assert names(logs) == ["redis.unavailable"]


async def test_changing_the_rate_meanwhile_fills_no_burst(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions())
    server.kill()
    with capture_logs():
        async with open_pace(settings_of(server), "cluster", 100.0, 2) as pace:
            grants = []
            for number in range(12):
                pace.rate = 100.0 - number % 2
                grants += await take(pace, 5, 1)
    assert excess(grants, 50.0) <= 0


async def test_while_it_is_away_it_is_not_asked_at_every_call() -> None:
    asked = []

    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(now())
        writer.close()

    async with served(hang_up) as settings:
        with capture_logs() as logs:
            async with open_pace(settings, "cluster", 200.0, 2) as pace:
                begun = now()
                while now() < begun + 3:
                    await pace.take(1)
    pauses = [after - before for before, after in itertools.pairwise(asked)]
    assert len(asked) >= 2
    assert pauses[0] >= 0.7
    assert all(pause >= 1.4 for pause in pauses[1:])
    assert names(logs) == ["redis.unavailable"]


def test_the_pauses_end_growing() -> None:
    assert 0.75 <= shared._pause(0) <= 1.25
    assert 7.5 <= shared._pause(100_000) <= 12.5


@asynccontextmanager
async def served(
    serve: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]], answer_within: float = 0.5
) -> AsyncIterator[BrokerSettings]:
    """Something that is not Redis. `answer_within`: how long who asks it waits, in seconds."""
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        url = SecretBytes(f"redis://me:CanaryPassword@127.0.0.1:{port}".encode())
        yield BrokerSettings(url=url, timeout=answer_within)


@pytest.mark.parametrize(
    ("answers", "because"),
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "InvalidResponse", id="HTTP"),
        pytest.param(b":abc\r\n", "ValueError", id="a number that is none"),
        pytest.param(b"+OK\r\n|+OK\r\n", "the answer is not a wait", id="a text for a wait"),
        pytest.param(b"+OK\r\n|:-1\r\n", "the answer is not a wait", id="a wait below 0"),
        pytest.param(b"+OK\r\n|:9000000000000000\r\n", "the answer is not a wait", id="a wait for ever"),
        pytest.param(b"+OK\r\n|$-1\r\n", "the answer is not a wait", id="nothing"),
        pytest.param(b"+OK\r\n|$5\r\n\xff\xff\xff\xff\xff\r\n", "the answer is not a wait", id="bytes"),
        pytest.param(b"+OK\r\n|", "no answer within 0.5 s", id="silence"),
        pytest.param(
            b"-ERR unknown command `AUTH`, with args beginning with: `me`, `CanaryPassword`, \r\n",
            "ResponseError",
            id="an error that repeats the password",
        ),
        pytest.param(b"-ERR no user me with CanaryPassword\r\n", "ResponseError", id="another one"),
        pytest.param(b"-WRONGPASS invalid\r\n", "AuthenticationError", id="a wrong password"),
        pytest.param(b"-LOADING Redis is loading the dataset in memory\r\n", "BusyLoadingError", id="just started"),
        pytest.param(b"-ERR " + b"x" * 10_000 + b"\r\n", "ResponseError", id="very long"),
    ],
)
async def test_whatever_answers_it_goes_on_at_its_share(answers: bytes, because: str) -> None:
    """The first answer is to AUTH, the second to the script."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for answer in answers.split(b"|"):
            await reader.read(65_536)
            writer.write(answer)
        await reader.read()
        writer.close()

    # Only silence takes as long as the time-out.
    async with served(serve, answer_within=0.5 if because.startswith("no answer") else 20.0) as settings:
        with capture_logs() as logs:
            async with open_pace(settings, "cluster", 100.0, 2) as pace:
                assert excess(await take(pace, 5, 4), 50.0) <= 0
    assert names(logs) == ["redis.unavailable"]
    assert because in logs[0]["because"]
    assert "CanaryPassword" not in repr(logs)


# ------------------------------------------------------------------------------------------------ Redis loses things


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


# --------------------------------------------------------------------------------------------------- other ceilings


@pytest.mark.parametrize(
    ("first", "second", "disagree"),
    [
        pytest.param(500.0, 100.0, True, id="another ceiling"),
        pytest.param(500.0, 0.0, True, id="a ceiling and none"),
        pytest.param(500.0, 500.0, False, id="the same"),
    ],
)
async def test_another_ceiling_for_the_same_cluster_is_told_once(
    redis: RedisServer, first: float, second: float, *, disagree: bool
) -> None:
    settings = settings_of(redis)

    async def work(pace: SharedPace) -> None:
        pace.rate = 50.0  # the campaign's own, which is nobody's disagreement
        await pace.compare()

    with capture_logs() as logs:
        async with (
            open_pace(settings, "cluster", first, 2) as one,
            open_pace(settings, "cluster", second, 2) as two,
            open_pace(settings, "another", 7.0, 2) as stranger,
        ):
            for pace in (one, two, stranger, one, two):
                await work(pace)
    told = [(entry["event"], entry["rate"], entry["other"]) for entry in logs]
    expected = [("pace.disagreement", second, f"{first:g}"), ("pace.disagreement", first, f"{second:g}")]
    assert told == (expected if disagree else [])
    assert 50 < redis.run("TTL", "kube-rewrap:rate:cluster") <= 60


async def test_a_ceiling_that_is_no_text_disturbs_nobody(redis: RedisServer) -> None:
    with redis.admin() as client:
        client.set("kube-rewrap:rate:cluster", b"\xff\xfe")
    with capture_logs() as logs:
        async with open_pace(settings_of(redis), "cluster", 1_000.0, 2) as pace:
            await pace.compare()
    assert names(logs) == ["pace.disagreement"]


async def test_without_a_ceiling_redis_is_only_asked_for_those_of_others(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions())
    server.run("CONFIG", "RESETSTAT")
    with capture_logs() as logs:
        async with open_pace(settings_of(server), "cluster", 0, 2) as pace:
            await pace.take(1_000)
            await pace.compare()
            assert "cmdstat_eval" not in server.run("INFO", "commandstats")
            server.kill()
            await pace.compare()
            server.start()
            async with asyncio.timeout(60):
                while "redis.available" not in names(logs):
                    await pace.compare()
                    await asyncio.sleep(0.01)
    assert names(logs) == ["redis.unavailable", "redis.available"]


# --------------------------------------------------------------------------------------------------- ways to reach it


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
    await through(settings_of(new_redis(options)))


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
    assert logs[0]["because"].startswith("its user may not run what is needed")


async def test_a_wrong_password_is_told_of_and_not_repeated(new_redis: NewRedis) -> None:
    server = new_redis(RedisOptions(acl="~* +@all"))
    url = server.url.replace(REWRAP.password, "CanaryPassword")
    with capture_logs() as logs:
        async with open_pace(BrokerSettings(url=SecretBytes(url.encode())), "cluster", 100.0, 2) as pace:
            await pace.take(1)
    assert names(logs) == ["redis.unavailable"]
    assert logs[0]["because"] == "AuthenticationError"
    assert "CanaryPassword" not in repr(logs)


@pytest.mark.parametrize(
    ("left_out", "because"),
    [
        pytest.param({"cacert": None}, "SSLCertVerificationError (", id="an authority that it does not know"),
        pytest.param({"cert": None, "key": None}, "", id="no client certificate"),
        pytest.param({"cacert": "/nonexistent.pem"}, "FileNotFoundError (No such file", id="no such file"),
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
