"""How fast work may go: the bucket, the window and its size, the brake."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.worker.errors import SpaceError, StoppedError
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.gcra import Bucket
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.rate.pressure import WindowSize
from kube_rewrap.worker.rate.window import Window

pytestmark = pytest.mark.timeout(20)


# ----------------------------------------------------------------------------------------------------------- bucket


@pytest.mark.parametrize(
    ("takes", "waits"),
    [
        pytest.param([0.0], [0.0], id="the first token after a pause => at once"),
        pytest.param([0.0] * 3, [0.0, 0.1, 0.2], id="more than the burst => one token's time each"),
        pytest.param([0.0, 1.0, 1.0], [0.0, 0.0, 0.1], id="a pause fills one burst, no more"),
        pytest.param([0.0, 0.0, 0.15], [0.0, 0.1, 0.05], id="time that passed is not waited for again"),
    ],
)
def test_a_bucket_of_ten_a_second(takes: list[float], waits: list[float]) -> None:
    bucket, got = Bucket(rate=10.0, burst=0.1), []
    for now in takes:
        bucket, wait = bucket.take(1, now)
        got.append(wait)
    assert got == pytest.approx(waits)


@given(
    rate=st.floats(0.1, 10_000),
    burst=st.floats(0, 5),
    gaps=st.lists(st.floats(0, 2), min_size=1, max_size=60),
    sizes=st.data(),
)
def test_never_more_than_the_rate_and_one_burst(
    rate: float, burst: float, gaps: list[float], sizes: st.DataObject
) -> None:
    bucket, now, granted = Bucket(rate, burst), 0.0, []
    for gap in gaps:
        now += gap
        tokens = sizes.draw(st.integers(1, 5))
        bucket, wait = bucket.take(tokens, now)
        granted.append((now + wait, tokens))
    for start, _ in granted:
        for end, _ in granted:
            used = sum(tokens for at, tokens in granted if start <= at <= end)
            # What is taken in one go comes at once, even if it is more than a burst.
            at_once = max(rate * burst, *(tokens for at, tokens in granted if at == start))
            assert start > end or used <= (rate * (end - start) + at_once) * (1 + 1e-9) + 1e-6


async def test_without_a_ceiling_nothing_waits() -> None:
    pace = LocalPace(0)
    assert pace.most >= 1_000_000
    async with asyncio.timeout(5):
        for _ in range(10_000):
            await pace.take(1_000)


async def test_the_ceiling_holds() -> None:
    pace, loop = LocalPace(200), asyncio.get_running_loop()
    started = loop.time()
    await asyncio.gather(*(pace.take(10) for _ in range(6)))
    assert loop.time() - started >= 60 / 200 - 0.1 - 0.01


@pytest.mark.parametrize(("rate", "most"), [(1.0, 1), (19.0, 1), (40.0, 2), (500.0, 25)])
def test_no_more_than_a_twentieth_of_a_second_comes_at_once(rate: float, most: int) -> None:
    assert LocalPace(rate).most == most


# ------------------------------------------------------------------------------------------------------ window size


@pytest.mark.parametrize(
    ("before", "latency", "was_full", "limit", "baseline"),
    [
        pytest.param(WindowSize(16), 0.01, True, 20, 0.01, id="first round, full => grows by a quarter"),
        pytest.param(WindowSize(16), 0.01, False, 16, 0.01, id="not used up => stays"),
        pytest.param(WindowSize(250, 256, 0.01), 0.01, True, 256, 0.01, id="never past the ceiling"),
        pytest.param(WindowSize(16, 256, 0.01), 0.08, True, 20, 0.0101, id="slower, but below what hurts => grows"),
        pytest.param(WindowSize(16, 256, 0.01), 0.16, True, 8, 0.0101, id="twice what hurts => half"),
        pytest.param(WindowSize(16, 256, 0.01), 5.0, True, 8, 0.0101, id="very slow => never below half at once"),
        pytest.param(WindowSize(1.5, 256, 0.01), 5.0, True, 1, 0.0101, id="at least one"),
        pytest.param(WindowSize(16, 256, 0.1), 0.25, True, 20, 0.101, id="a slow disk => its own best is the measure"),
        pytest.param(WindowSize(16, 256, 0.1), 0.05, True, 20, 0.05, id="a better round => a new baseline"),
    ],
)
def test_the_window_follows_latency(
    before: WindowSize, latency: float, was_full: bool, limit: float, baseline: float
) -> None:
    after = before.after_round(latency, was_full=was_full)
    assert after.limit == pytest.approx(limit)
    assert after.baseline == pytest.approx(baseline)
    assert after.ceiling == before.ceiling


@given(st.lists(st.tuples(st.floats(1e-6, 100), st.booleans()), max_size=80), st.integers(1, 4096))
def test_the_window_stays_between_one_and_its_ceiling(rounds: list[tuple[float, bool]], ceiling: int) -> None:
    size = WindowSize(limit=min(16.0, ceiling), ceiling=ceiling)
    for latency, was_full in rounds:
        size = size.after_round(latency, was_full=was_full)
        assert 1 <= size.limit <= ceiling


# ----------------------------------------------------------------------------------------------------------- window


@pytest.mark.parametrize(
    ("limit", "sharers", "share"),
    [
        pytest.param(32, 0, 32, id="nobody counted => all of it"),
        pytest.param(32, 1, 32, id="one => all of it"),
        pytest.param(32, 3, 10, id="three => a third each, rounded down"),
        pytest.param(2, 3, 1, id="more than places => one each"),
    ],
)
def test_those_who_share_a_window_divide_it(limit: int, sharers: int, share: int) -> None:
    window = Window(WindowSize(limit=limit, ceiling=100))
    with ExitStack() as stack:
        for _ in range(sharers):
            stack.enter_context(window.shared())
        assert window.share == share
    assert window.share == limit


def test_who_fails_shares_no_longer() -> None:
    window = Window(WindowSize(limit=10))
    with pytest.raises(SpaceError), window.shared(), window.shared():
        raise SpaceError("full")
    assert window.share == 10


@pytest.mark.parametrize(
    ("groups", "limit"),
    [
        pytest.param([(4, 0.01, True)], 8, id="less than a round => as before"),
        pytest.param([(4, 0.01, True), (4, 0.01, False)], 10, id="a round, full at times => grows"),
        pytest.param([(8, 0.01, False)], 8, id="a round, never full => stays"),
        pytest.param([(8, 0.01, True), (10, 0.2, True)], 5, id="then a slow round => shrinks"),
        pytest.param([(8, 0.01, False), (6, 0.01, True), (2, 1.0, True)], 4, id="the mean counts, by swaps"),
    ],
)
def test_the_window_learns_by_rounds_of_its_own_size(groups: list[tuple[int, float, bool]], limit: int) -> None:
    window = Window(WindowSize(limit=8, ceiling=100))
    for swaps, seconds, was_full in groups:
        window.finished(swaps, seconds, was_full=was_full)
    assert window.limit == limit


async def test_all_swaps_in_flight_fit_into_the_window() -> None:
    """Groups of shares that became smaller meanwhile, too."""
    window = Window(WindowSize(limit=8, ceiling=100))
    flying = most = 0

    async def send(swaps: int) -> None:
        nonlocal flying, most
        while swaps:
            async with window.room(swaps) as now:
                flying += now
                most = max(most, flying)
                await asyncio.sleep(0)
                flying -= now
            swaps -= now

    await asyncio.gather(send(8), send(8), send(3), send(20))
    assert (flying, most) == (0, 8)


async def test_a_smaller_window_holds_when_it_is_answered() -> None:
    window = Window(WindowSize(limit=32, ceiling=100))
    async with window.room(20) as swaps:
        resizing = asyncio.create_task(window.resize(10))
        await asyncio.sleep(0.01)
        assert (swaps, resizing.done(), window.limit) == (20, False, 10)
    await resizing
    async with window.room(20) as swaps:
        assert swaps == 10
        await window.resize(100)
        assert window.limit == 32


# ------------------------------------------------------------------------------------------------------------ brake


async def test_a_brake_is_off_until_it_is_pulled() -> None:
    brake = Brake()
    assert not brake.is_on
    brake.check()


async def test_the_first_reason_stays() -> None:
    brake = Brake()
    brake.pull(SpaceError("full"))
    brake.pull(StoppedError("stopped"))
    assert brake.is_on
    with pytest.raises(SpaceError, match=r"^full$"):
        brake.check()


async def test_a_reading_that_ends_is_returned() -> None:
    async def read() -> int:
        await asyncio.sleep(0)
        return 7

    assert await Brake().unless_pulled(read()) == 7


async def test_a_reading_that_fails_raises_its_own_error() -> None:
    async def read() -> int:
        raise SpaceError("full")

    with pytest.raises(SpaceError, match=r"^full$"):
        await Brake().unless_pulled(read())


async def test_a_pulled_brake_gives_a_reading_up() -> None:
    brake, given_up = Brake(), asyncio.Event()

    async def read() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            given_up.set()

    reading = asyncio.create_task(brake.unless_pulled(read()))
    await asyncio.sleep(0)
    brake.pull(StoppedError("stopped"))
    async with asyncio.timeout(5):
        with pytest.raises(StoppedError, match=r"^stopped$"):
            await reading
    assert given_up.is_set()
