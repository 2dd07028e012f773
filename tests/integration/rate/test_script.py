"""The ceiling's script in Redis: its arithmetic, its record, and records that others wrote."""

from __future__ import annotations

import pytest

from kube_rewrap.worker.rate import shared
from kube_rewrap.worker.rate.gcra import Bucket
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.timeout(90)


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
