"""One ceiling over all processes of a cluster, and what is said of processes that were given another one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from kube_rewrap.worker.rate.shared import SharedPace, open_pace
from tests.contract.grants import Grant, excess
from tests.integration.rate.taking import names, quiet, settings_of, take
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.timeout(90)


def test_four_processes_together_stay_at_the_ceiling(redis: RedisServer) -> None:
    rate, calls, objects = 400, 40, 8
    arguments = [redis.url, str(rate), "4", str(objects), str(calls)]
    command = [sys.executable, "-m", "tests.integration.rate.pace_process", *arguments]
    processes = [
        subprocess.Popen(command, cwd=Path(__file__).parents[3], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for _ in range(4)
    ]
    try:
        ends = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait(30)
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
