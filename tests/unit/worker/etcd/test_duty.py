"""How long reads rest: a share of the time; longer, and with smaller reads, while etcd is slower than it was."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.worker.errors import CompactedError, TooLargeError
from kube_rewrap.worker.etcd.duty import DutyCycle
from kube_rewrap.worker.etcd.turns import Turns
from tests.unit.clock import without_waiting

pytestmark = pytest.mark.timeout(60)


def after(seconds: Sequence[float], duty: DutyCycle, size: int = 500_000, visited: int = 500) -> DutyCycle:
    for each in seconds:
        duty = duty.after_read(each, size, visited)
    return duty


@pytest.mark.parametrize(
    ("reads", "pressure"),
    [
        pytest.param([0.005] * 5, 1.0, id="as fast as ever => calm"),
        pytest.param([0.005, 0.015], 1.0, id="three times as slow => calm"),
        pytest.param([0.005, 0.016], 2.0, id="slower still => twice the rest"),
        pytest.param([0.002, 0.0099], 1.0, id="faster than what harms => calm, whatever was seen"),
        pytest.param([0.005, *[0.05] * 9], 4.0, id="slow on and on => four times the rest, no more"),
        pytest.param([0.005, 0.05, *[0.005] * 7], 1.0, id="fast again => calm again, step by step"),
        pytest.param([0.005, *[0.05] * 400], 1.0, id="slower for good => calm in the end"),
    ],
)
def test_pressure_follows_latency(reads: list[float], pressure: float) -> None:
    assert after(reads, DutyCycle(0.5)).pressure == pytest.approx(pressure)


def test_a_read_is_compared_with_reads_of_its_size() -> None:
    duty = after([0.004], DutyCycle(0.5), size=100_000)
    assert after([0.04], duty, size=1_000_000).pressure == 1
    assert after([0.04], duty, size=100_000).pressure == 2
    assert after([0.04], duty, size=100_000, visited=100_000).pressure == 1


def test_rests_and_sizes_of_reads_follow_pressure() -> None:
    calm, pressed = DutyCycle(0.5), DutyCycle(0.5, pressure=4.0)
    assert (calm.rest_after(0.02), pressed.rest_after(0.02)) == pytest.approx((0.02, 0.08))
    assert (calm.limit(500), pressed.limit(500)) == (100, 25)
    assert (pressed.limit(10), pressed.limit(1)) == (8, 1)
    assert pressed.rest_after(60) == 1
    assert DutyCycle(0.25).rest_after(0.02) == pytest.approx(0.06)


@given(st.lists(st.floats(0, 100), max_size=50), st.floats(0.01, 1), st.integers(1, 10_000))
def test_whatever_the_latency_a_scan_goes_on(reads: list[float], share: float, objects: int) -> None:
    duty = after(reads, DutyCycle(share))
    assert all(0 <= duty.rest_after(each) <= 1 for each in reads)
    assert min(objects, 8) <= duty.limit(objects) <= objects


def test_without_rests_nothing_is_held_back() -> None:
    duty = after([0.001, *[1.0] * 10], DutyCycle(1.0))
    assert (duty.rest_after(1.0), duty.limit(500)) == (0, 500)


class Etcd:
    """Takes so many seconds for each read, and notes when it was busy."""

    def __init__(self, seconds: float, error: Exception | None = None) -> None:
        self.busy: list[tuple[float, float]] = []
        self._seconds = seconds
        self._error = error

    async def read(self) -> str:
        loop = asyncio.get_running_loop()
        began = loop.time()
        await asyncio.sleep(self._seconds)
        self.busy.append((began, loop.time()))
        if self._error is not None:
            raise self._error
        return "answer"

    @property
    def share(self) -> float:
        return sum(end - start for start, end in self.busy) / (self.busy[-1][1] - self.busy[0][0])


def sizes(_: str) -> tuple[int, int]:
    return 500_000, 500


@without_waiting
async def test_reads_take_their_share_of_the_time_however_many_tasks_read() -> None:
    etcd, turns = Etcd(0.02), Turns(DutyCycle(0.5))

    async def read() -> None:
        for _ in range(20):
            assert await turns.read(etcd.read, sizes) == "answer"

    await asyncio.gather(read(), read(), read())
    assert len(etcd.busy) == 60
    assert etcd.share == pytest.approx(0.5, abs=0.05)
    assert all(end <= start for (_, end), (start, _) in zip(etcd.busy, etcd.busy[1:], strict=False))


@without_waiting
async def test_work_between_two_reads_counts_as_rest() -> None:
    etcd, turns = Etcd(0.02), Turns(DutyCycle(0.5))
    for _ in range(20):
        await turns.read(etcd.read, sizes)
        await asyncio.sleep(0.02)
    assert etcd.share == pytest.approx(0.5, abs=0.05)


@without_waiting
async def test_without_rests_reads_do_not_wait_for_each_other() -> None:
    etcd, turns = Etcd(1.0), Turns(DutyCycle(1.0))
    await asyncio.gather(*(turns.read(etcd.read, sizes) for _ in range(3)))
    assert etcd.share == pytest.approx(3, abs=0.1)


@without_waiting
async def test_a_read_that_failed_is_followed_by_a_rest_too() -> None:
    etcd, turns = Etcd(0.02, TooLargeError("larger than max")), Turns(DutyCycle(0.5))
    for _ in range(20):
        with pytest.raises(TooLargeError):
            await turns.read(etcd.read, sizes)
    assert etcd.share == pytest.approx(0.5, abs=0.05)


@without_waiting
async def test_a_scan_that_was_compacted_goes_on_without_rests_so_that_it_ends() -> None:
    etcd, turns = Etcd(0.02), Turns(DutyCycle(0.25))
    with pytest.raises(CompactedError):
        await turns.read(Etcd(0.02, CompactedError("compacted")).read, sizes)
    await asyncio.sleep(1)
    for _ in range(20):
        await turns.read(etcd.read, sizes)
    assert etcd.share == pytest.approx(1, abs=0.05)
    await asyncio.sleep(600)
    etcd.busy.clear()
    for _ in range(20):
        await turns.read(etcd.read, sizes)
    assert etcd.share == pytest.approx(0.25, abs=0.05)
