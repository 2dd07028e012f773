"""What only a real etcd refuses: objects that are too large, and writes when its database is full."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from kube_rewrap.worker.errors import SpaceError, TooLargeError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Put, Store
from tests.contract.conftest import STATE_PREFIX, settings_of
from tests.contract.swapping import swap
from tests.servers.etcd import EtcdCluster, EtcdOptions

pytestmark = pytest.mark.timeout(90)

SECRET = b"/registry/secrets/default/a"
LIMIT = 3 * 2**19


@pytest.mark.parametrize("size", [LIMIT + 1, 2 * LIMIT, 8 * LIMIT], ids=["a byte over", "double", "gRPC refuses first"])
async def test_an_object_over_the_request_limit_is_refused_and_stays(etcd_any: EtcdCluster, size: int) -> None:
    etcd_any.admin().put(SECRET.decode(), b"old")
    async with open_store(settings_of(etcd_any.endpoints[0]), STATE_PREFIX) as store:
        item = await store.get(SECRET)
        assert item is not None
        with pytest.raises(TooLargeError):
            await swap(store, item, bytes(size))
        assert await store.get(SECRET) == item


async def test_an_object_near_the_request_limit_is_taken_and_read(etcd_any: EtcdCluster) -> None:
    etcd_any.admin().put(SECRET.decode(), b"old")
    value = os.urandom(LIMIT - 1_000)
    async with open_store(settings_of(etcd_any.endpoints[0]), STATE_PREFIX) as store:
        item = await store.get(SECRET)
        assert item is not None
        await swap(store, item, value)
        found = await store.get(SECRET)
        assert found is not None
        assert found.value == value


async def test_a_page_of_more_than_four_mebibytes_is_read(etcd: EtcdCluster) -> None:
    value = os.urandom(2**20)
    for number in range(6):
        etcd.admin().put(f"/registry/secrets/default/{number}", value)
    async with open_store(settings_of(etcd.endpoints[0]), STATE_PREFIX) as store:
        page = await store.page(KeyRange.of_prefix(b"/registry/secrets/"), 10)
    assert [len(item.value) for item in page.items] == [2**20] * 6


async def fill_up(store: Store) -> None:
    for number in range(20):
        await store.commit([], [Put(b"/kube-rewrap/v1/%d" % number, bytes(2**20))])


async def test_a_full_database_refuses_writes_raises_its_alarm_and_still_answers_reads(
    new_etcd: Callable[[EtcdOptions], EtcdCluster],
) -> None:
    cluster = new_etcd(EtcdOptions(quota_bytes=4 * 2**20))
    cluster.admin().put(SECRET.decode(), b"old")
    async with open_store(settings_of(cluster.endpoints[0]), STATE_PREFIX) as store:
        with pytest.raises(SpaceError, match="NOSPACE"):
            await fill_up(store)
        assert await store.alarms() == ("NOSPACE",)
        item = await store.get(SECRET)
        assert item is not None
        with pytest.raises(SpaceError):
            await swap(store, item, b"new")
        assert await store.get(SECRET) == item
