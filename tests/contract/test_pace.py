"""The promises of a Pace, kept by the ceiling inside one process, by the one that all processes share through Redis,
and by the one that a run keeps for its child processes."""

from __future__ import annotations

import asyncio
import io
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from itertools import cycle

import pytest
import redis.asyncio

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import BrokerSettings, PaceSettings, Settings
from kube_rewrap.scheduler.dispatch.limits import Limits
from kube_rewrap.worker.parent import open_parent, paces_of
from kube_rewrap.worker.rate.local import LocalPace, Pace
from kube_rewrap.worker.rate.shared import open_pace
from tests.contract.grants import BURST_SECONDS, Grant, excess
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.timeout(60)


@dataclass
class Local:
    async def pace(self, rate: float) -> Pace:
        return LocalPace(rate)

    async def now(self) -> float:
        return asyncio.get_running_loop().time()


@dataclass
class Shared:
    """Times are Redis' own, which is the clock of the ceiling."""

    settings: BrokerSettings
    clock: redis.asyncio.Redis
    stack: AsyncExitStack
    opened: int = field(default=0)

    async def pace(self, rate: float) -> Pace:
        self.opened += 1
        return await self.stack.enter_async_context(open_pace(self.settings, f"cluster-{self.opened}", rate, 2))

    async def now(self) -> float:
        seconds, microseconds = await self.clock.time()
        return float(seconds + microseconds / 1_000_000)


class Answers(io.StringIO):
    """What a child sends: each request of tokens is granted as a run does it."""

    def __init__(self, limits: Limits, lines: asyncio.StreamReader) -> None:
        super().__init__()
        self._limits = limits
        self._lines = lines
        self._granting: set[asyncio.Task[None]] = set()

    def flush(self) -> None:
        asked = json.loads(self.getvalue())
        self.seek(0)
        self.truncate()
        granting = asyncio.get_running_loop().create_task(self._grant(**asked))
        self._granting.add(granting)
        granting.add_done_callback(self._granting.discard)

    async def _grant(self, take: int, of: str, objects: int) -> None:
        await self._limits.take(of, objects)
        self._lines.feed_data(json.dumps({"granted": take}).encode() + b"\n")


class InTurn:
    """Asks by one child after the other; what it promises holds for all of them."""

    def __init__(self, paces: Sequence[Pace]) -> None:
        self._paces = cycle(paces)
        self.most = paces[0].most

    async def take(self, objects: int) -> None:
        await next(self._paces).take(objects)


@dataclass
class Children(Local):
    stack: AsyncExitStack
    count: int

    async def pace(self, rate: float) -> Pace:
        settings = replace(Settings(), pace=PaceSettings(rate=rate))
        limits, paces = Limits(settings), list[Pace]()
        for _ in range(self.count):
            lines = asyncio.StreamReader()
            parent = await self.stack.enter_async_context(open_parent(lines, Answers(limits, lines), 1))
            paces.append(paces_of(parent, settings)[0])
        return InTurn(paces)


@pytest.fixture(params=["local", "shared", "2 children", "4 children"])
async def place(request: pytest.FixtureRequest) -> AsyncIterator[Local | Shared]:
    if request.param == "local":
        yield Local()
        return
    if request.param != "shared":
        async with AsyncExitStack() as stack:
            yield Children(stack, int(request.param[0]))
        return
    server: RedisServer = request.getfixturevalue("redis")
    settings = BrokerSettings(url=SecretBytes(server.url.encode()), timeout=10.0)
    async with AsyncExitStack() as stack:
        clock = await stack.enter_async_context(redis.asyncio.Redis(port=server.port))
        yield Shared(settings, clock, stack)


async def take(place: Local | Shared, pace: Pace, sizes: list[int]) -> list[Grant]:
    """One after another, as a batch does."""
    grants = []
    for objects in sizes:
        begun = await place.now()
        await pace.take(objects)
        grants.append(Grant(begun, await place.now(), objects))
    return grants


@pytest.mark.parametrize(
    ("rate", "sizes"),
    [
        pytest.param(400.0, [20] * 15, id="in groups of a twentieth of a second"),
        pytest.param(400.0, [1] * 200, id="one by one"),
        pytest.param(400.0, [1, 50, 3, 120, 7, 80, 2], id="in groups of any size"),
        pytest.param(7.5, [1, 2, 3, 2], id="slow, and no whole number"),
    ],
)
async def test_no_span_holds_more_than_its_worth_and_a_burst(
    place: Local | Shared, rate: float, sizes: list[int]
) -> None:
    pace = await place.pace(rate)
    assert excess(await take(place, pace, sizes), rate) <= 0


async def test_nor_when_several_take_at_once(place: Local | Shared) -> None:
    pace = await place.pace(300.0)
    tasks = [asyncio.create_task(take(place, pace, [size] * 8)) for size in (3, 10, 15)]
    grants = [grant for task in tasks for grant in await task]
    assert sum(grant.objects for grant in grants) == 8 * 28
    assert excess(grants, 300.0) <= 0


async def test_nor_after_a_pause(place: Local | Shared) -> None:
    """What was not used is not saved up, but for one burst."""
    pace = await place.pace(300.0)
    grants = await take(place, pace, [15] * 3)
    await asyncio.sleep(0.5)
    grants += await take(place, pace, [15] * 10)
    assert excess(grants, 300.0) <= 0


async def test_it_is_not_much_slower_than_the_ceiling(place: Local | Shared) -> None:
    pace = await place.pace(500.0)
    grants = await take(place, pace, [25] * 40)
    # Generous: two busy cores are late at times.
    assert grants[-1].ended - grants[0].begun <= 3 * (1000 / 500 - BURST_SECONDS)


async def test_the_first_who_asks_is_the_first_who_goes(place: Local | Shared) -> None:
    pace, order = await place.pace(8.0), []

    async def go(number: int) -> None:
        await pace.take(2)
        order.append(number)

    await asyncio.gather(*(go(number) for number in range(6)))
    assert order == [0, 1, 2, 3, 4, 5]


async def test_what_a_given_up_call_took_is_used_up(place: Local | Shared) -> None:
    pace = await place.pace(100.0)
    begun = await place.now()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.3):
            await pace.take(100)
    await pace.take(1)
    assert await place.now() - begun >= 101 / 100 - BURST_SECONDS - 0.01


@pytest.mark.parametrize(("rate", "most"), [(1.0, 1), (19.0, 1), (40.0, 2), (500.0, 25)])
async def test_no_more_than_a_twentieth_of_a_second_comes_at_once(
    place: Local | Shared, rate: float, most: int
) -> None:
    assert (await place.pace(rate)).most == most


async def test_without_a_ceiling_nothing_waits(place: Local | Shared) -> None:
    pace = await place.pace(0)
    assert pace.most >= 1_000_000
    async with asyncio.timeout(10):
        for _ in range(10_000):
            await pace.take(1_000_000)


@pytest.mark.parametrize(
    ("grants", "expected"),
    [
        pytest.param([Grant(0, 0, 11)], 0, id="a burst, and a little for the clocks"),
        pytest.param([Grant(0, 0, 12)], 1, id="one more"),
        pytest.param([Grant(0, 1, 111)], 0, id="a second's worth and a burst"),
        pytest.param([Grant(0, 1, 1), Grant(5, 5, 20)], 9, id="a span in the middle"),
        pytest.param([Grant(0, 5, 20), Grant(5, 5, 11)], 0, id="what was asked for earlier belongs to a longer span"),
    ],
)
def test_the_measure_of_this_suite(grants: list[Grant], expected: float) -> None:
    assert excess(grants, 100.0) == pytest.approx(expected)
