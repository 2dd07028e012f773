"""Redis is killed, freezes, or is something else: each process goes on at its share of the rate."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from structlog.testing import capture_logs

from kube_rewrap.worker.rate import shared
from kube_rewrap.worker.rate.shared import open_pace
from tests.contract.grants import excess
from tests.integration.rate.taking import NewRedis, names, now, served, settings_of, take, take_until
from tests.servers.redis import RedisOptions

pytestmark = pytest.mark.timeout(90)


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
    assert gone["because"] in {
        "the connection broke; does it run, and does it require TLS (rediss://), or serve none?",
        "it refuses connections; does it run?",
    }
    assert (back["log_level"], back["broker"], back["rate"]) == ("info", f"127.0.0.1:{server.port}", 400.0)
    assert back["because"].startswith("Redis answers again after ")


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


@pytest.mark.parametrize(
    ("answers", "because"),
    [
        pytest.param(b"HTTP/1.1 400 Bad Request\r\n\r\n", "the server that answers is not Redis", id="HTTP"),
        pytest.param(b":abc\r\n", "ValueError", id="a number that is none"),
        pytest.param(b"+OK\r\n|+OK\r\n", "the answer is not a wait", id="a text for a wait"),
        pytest.param(b"+OK\r\n|:-1\r\n", "the answer is not a wait", id="a wait below 0"),
        pytest.param(b"+OK\r\n|:9000000000000000\r\n", "the answer is not a wait", id="a wait for ever"),
        pytest.param(b"+OK\r\n|$-1\r\n", "the answer is not a wait", id="nothing"),
        pytest.param(b"+OK\r\n|$5\r\n\xff\xff\xff\xff\xff\r\n", "the answer is not a wait", id="bytes"),
        pytest.param(b"+OK\r\n|", "no answer within 0.5 s", id="silence"),
        pytest.param(
            b"-ERR unknown command `AUTH`, with args beginning with: `me`, `CanaryPassword`, \r\n",
            "it refuses a command, or does not know it",
            id="an error that repeats the password",
        ),
        pytest.param(
            b"-ERR no user me with CanaryPassword\r\n", "it refuses a command, or does not know it", id="another one"
        ),
        pytest.param(
            b"-WRONGPASS invalid\r\n", "it refuses the user or the password of --broker", id="a wrong password"
        ),
        pytest.param(
            b"-LOADING Redis is loading the dataset in memory\r\n", "it still loads its data", id="just started"
        ),
        pytest.param(b"-ERR " + b"x" * 10_000 + b"\r\n", "it refuses a command, or", id="very long"),
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
