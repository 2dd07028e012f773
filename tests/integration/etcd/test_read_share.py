"""A process reads the registry for a share of the time only, over a slow line to a real etcd; our records at once."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from kube_rewrap.config.settings.schema import PaceSettings
from kube_rewrap.worker.errors import UnavailableError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.ranges import KeyRange
from tests.contract.conftest import STATE_PREFIX, settings_of
from tests.servers.etcd import EtcdCluster
from tests.servers.proxy import Proxy

pytestmark = pytest.mark.timeout(60)

SECRETS = KeyRange.of_prefix(b"/registry/secrets/")
OURS = KeyRange.of_prefix(STATE_PREFIX.encode() + b"/")
DELAY = 0.05
READS = 6


async def seconds_of_reads(etcd: EtcdCluster, keys: KeyRange, share: float) -> float:
    """Return how long some reads take, one of each kind, when each answer takes `DELAY` longer."""
    with Proxy(etcd.endpoints[0]) as proxy:
        async with open_store(settings_of(proxy.endpoint), STATE_PREFIX, read_share=share) as store:
            proxy.delay_replies(DELAY)
            started = time.perf_counter()
            for _ in range(READS // 3):
                await store.page(keys, 10)
                await store.keys(keys, 10)
                await store.stamps(keys, 10)
            return time.perf_counter() - started


async def test_reads_of_the_registry_rest_as_the_share_says(etcd: EtcdCluster) -> None:
    assert await seconds_of_reads(etcd, SECRETS, 0.2) >= DELAY * (1 + (READS - 1) * 5)


async def test_reads_of_our_records_do_not(etcd: EtcdCluster) -> None:
    """A lock that waits for the rest of a scan could be lost."""
    assert await seconds_of_reads(etcd, OURS, 0.01) < DELAY * (1 + (READS - 1) * 100)


async def test_reads_under_pressure_ask_for_fewer_objects_and_miss_none(etcd: EtcdCluster) -> None:
    """A page may have fewer objects than were asked for: what it leaves out is counted in `left`."""
    for number in range(100):
        etcd.admin().put(f"/registry/secrets/default/{number:03}", b"v")
    with Proxy(etcd.endpoints[0]) as proxy:
        async with open_store(settings_of(proxy.endpoint), STATE_PREFIX, read_share=0.9) as store:
            for _ in range(5):  # the fastest counts: this machine may be busy
                assert (await store.page(SECRETS, 80)).left >= 20
            proxy.delay_replies(2)
            await store.page(SECRETS, 80)
            proxy.delay_replies(0)
            page = await store.page(SECRETS, 80)
            assert (len(page.items) <= 40, len(page.items) + page.left) == (True, 100)


@pytest.mark.parametrize(("rate", "share"), [(500.0, 0.5), (0.0, 1.0)])
def test_without_a_ceiling_for_writes_reads_do_not_rest(rate: float, share: float) -> None:
    assert PaceSettings(rate=rate).share_of_reads == share


async def test_reads_that_wait_for_each_other_give_up_together_in_an_outage(etcd: EtcdCluster) -> None:
    with Proxy(etcd.endpoints[0]) as proxy:
        settings = replace(settings_of(proxy.endpoint), call_timeout=0.5, give_up_after=4.0)
        async with open_store(settings, STATE_PREFIX, read_share=0.9) as store:
            proxy.delay_replies(60)
            started = time.perf_counter()
            ends = await asyncio.gather(*(store.page(SECRETS, 1) for _ in range(4)), return_exceptions=True)
            assert [type(end) for end in ends] == [UnavailableError] * 4
            assert time.perf_counter() - started < 3 * 4.0
