"""A write whose answer is lost is UNKNOWN: it is not sent again, and reading tells what became of it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import pytest

from kube_rewrap.worker.errors import UnavailableError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.store import Outcome, Put, Store
from tests.contract.conftest import STATE_PREFIX, settings_of
from tests.contract.swapping import swap
from tests.fakes.store import MemoryStore
from tests.servers.etcd import EtcdCluster
from tests.servers.proxy import Proxy

pytestmark = pytest.mark.timeout(60)

SECRET = b"/registry/secrets/default/a"
OURS = b"/kube-rewrap/v1/one"


@dataclass(frozen=True)
class Lossy:
    """A store that holds one secret, and the order to lose the next answer about a key."""

    store: Store
    lose_the_answer_to: Callable[[bytes], None]


@asynccontextmanager
async def in_memory() -> AsyncIterator[Lossy]:
    lost: set[bytes] = set()

    def fault(_kind: str, key: bytes) -> Outcome | None:
        if key not in lost:
            return None
        lost.remove(key)
        return Outcome.UNKNOWN

    store = MemoryStore(fault)
    store.put(SECRET, b"old")
    yield Lossy(store, lost.add)


@asynccontextmanager
async def through_a_proxy(cluster: EtcdCluster) -> AsyncIterator[Lossy]:
    cluster.admin().put(SECRET.decode(), b"old")
    with Proxy(cluster.endpoints[0]) as proxy:
        async with open_store(settings_of(proxy.endpoint), STATE_PREFIX) as store:
            yield Lossy(store, lambda key: proxy.swallow_replies(to=key))


async def check_a_swap(lossy: Lossy) -> None:
    item = await lossy.store.get(SECRET)
    assert item is not None
    lossy.lose_the_answer_to(SECRET)
    result = await swap(lossy.store, item, b"new")
    assert (result.outcome, result.current) == (Outcome.UNKNOWN, None)
    found = await lossy.store.get(SECRET)
    assert found is not None
    assert (found.value, found.version, found.mod_revision) == (b"new", 2, item.mod_revision + 1)


async def check_a_commit(lossy: Lossy) -> None:
    lossy.lose_the_answer_to(OURS)
    result = await lossy.store.commit([], [Put(OURS, b"1")])
    assert result.outcome is Outcome.UNKNOWN
    found = await lossy.store.get(OURS)
    assert found is not None
    assert (found.value, found.version) == (b"1", 1)


async def test_in_memory_a_swap_is_applied_once_and_unknown() -> None:
    async with in_memory() as lossy:
        await check_a_swap(lossy)


async def test_in_memory_a_commit_is_applied_once_and_unknown() -> None:
    async with in_memory() as lossy:
        await check_a_commit(lossy)


async def test_on_etcd_a_swap_is_applied_once_and_unknown(etcd_any: EtcdCluster) -> None:
    async with through_a_proxy(etcd_any) as lossy:
        await check_a_swap(lossy)


async def test_on_etcd_a_commit_is_applied_once_and_unknown(etcd_any: EtcdCluster) -> None:
    async with through_a_proxy(etcd_any) as lossy:
        await check_a_commit(lossy)


async def test_on_etcd_a_write_that_reaches_nobody_is_unknown_too(etcd: EtcdCluster) -> None:
    etcd.admin().put(SECRET.decode(), b"old")
    with Proxy(etcd.endpoints[0]) as proxy:
        async with open_store(settings_of(proxy.endpoint), STATE_PREFIX) as store:
            item = await store.get(SECRET)
            assert item is not None
            proxy.refuse()
            assert (await swap(store, item, b"new")).outcome is Outcome.UNKNOWN
            proxy.pass_on()
            assert await store.get(SECRET) == item


async def test_on_etcd_a_lost_read_is_asked_again(etcd_any: EtcdCluster) -> None:
    async with through_a_proxy(etcd_any) as lossy:
        lossy.lose_the_answer_to(SECRET)
        item = await lossy.store.get(SECRET)
        assert item is not None
        assert item.value == b"old"


async def test_on_etcd_reads_give_up_at_their_bound(etcd: EtcdCluster) -> None:
    with Proxy(etcd.endpoints[0]) as proxy:
        settings = settings_of(proxy.endpoint)
        proxy.refuse()
        with pytest.raises(UnavailableError, match=r"no etcd endpoint of http://127\.0\.0\.1:\d+ answered"):
            async with open_store(settings, STATE_PREFIX):
                pass
