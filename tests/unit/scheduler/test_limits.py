"""The limits of a run over its child processes: the window is divided, and never exceeded on the way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from random import Random

import pytest

from kube_rewrap.config.settings.schema import KmsSettings, PaceSettings, Settings
from kube_rewrap.scheduler.dispatch.limits import Limits

pytestmark = pytest.mark.timeout(30)

WINDOW = 64


class Sharer:
    """Answers a smaller window after some turns of the loop, until when it may use the larger one."""

    def __init__(self, dice: Random) -> None:
        self.window = 0
        self.sharers = 0
        self.used = 0
        self.jobs = 0
        self._dice = dice

    async def resize(self, window: int, sharers: int) -> None:
        self.window, self.sharers = window, sharers
        if window < self.used:
            for _ in range(self._dice.randint(0, 5)):
                await asyncio.sleep(0)
        self.used = window


def limits(window: int = WINDOW, *, rate: float = 0.0) -> Limits:
    kms = replace(KmsSettings(), v1_rate=5.0, v2_rate=0.0)
    return Limits(replace(Settings(), pace=PaceSettings(rate=rate, max_window=window), kms=kms))


@pytest.mark.parametrize("seed", range(20))
async def test_the_window_is_never_exceeded_whoever_comes_and_goes(seed: int) -> None:
    dice = Random(seed)
    shared = limits()
    sharers = [Sharer(dice) for _ in range(4)]
    most = 0

    async def work(sharer: Sharer) -> None:
        nonlocal most
        for _ in range(20):
            async with shared.shared(sharer):
                sharer.jobs += 1
                for _ in range(dice.randint(0, 8)):
                    in_use = sum(one.used for one in sharers if one.jobs)
                    most = max(most, in_use)
                    assert in_use <= WINDOW
                    await asyncio.sleep(0)
                sharer.jobs -= 1
            for _ in range(dice.randint(0, 8)):
                await asyncio.sleep(0)

    await asyncio.gather(*(work(sharer) for sharer in sharers for _ in range(2)))
    assert most == WINDOW


async def test_what_is_left_to_the_last_one_is_all() -> None:
    shared, one, other = limits(), Sharer(Random(0)), Sharer(Random(0))
    async with shared.shared(one):
        assert (one.window, one.sharers) == (64, 1)
        async with shared.shared(other):
            assert (one.window, other.window, one.sharers, other.sharers) == (32, 32, 2, 2)
        assert (one.window, one.sharers) == (64, 1)


async def test_one_rate_holds_for_all() -> None:
    shared = limits(rate=100.0)
    began = asyncio.get_running_loop().time()
    await asyncio.gather(*(shared.take("objects", 5) for _ in range(8)))
    assert 0.3 <= asyncio.get_running_loop().time() - began < 5


async def test_each_plugin_has_a_ceiling_of_its_own() -> None:
    shared = limits()
    began = asyncio.get_running_loop().time()
    await shared.take("kms:v2:a", 1_000)
    await shared.take("kms:v1:a", 1)
    await shared.take("kms:v1:b", 1)
    assert asyncio.get_running_loop().time() - began < 5
    await asyncio.gather(*(shared.take("kms:v1:a", 1) for _ in range(3)))
    assert asyncio.get_running_loop().time() - began > 0.4


async def test_names_without_end_are_refused() -> None:
    shared = limits()
    with pytest.raises(ValueError, match="too many"):
        await asyncio.gather(*(shared.take(f"kms:v2:{number}", 1) for number in range(1_000)))
