"""A range page by page: bounded by count and by bytes, one page ahead, and all of it."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from kube_rewrap.config.settings.schema import PageSettings
from kube_rewrap.worker.errors import CompactedError, TooLargeError
from kube_rewrap.worker.etcd.pages import PageSizer, read_pages
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Item, Page
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.timeout(20)

ALL = KeyRange.of_prefix(b"/s/")


class Recording(MemoryStore):
    """Notes what it was asked for, and refuses answers of more bytes than gRPC would take."""

    def __init__(self, most: int = 10**9) -> None:
        super().__init__()
        self.limits: list[int] = []
        self.asked = asyncio.Event()
        self._most = most

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        self.limits.append(limit)
        self.asked.set()
        page = await super().page(keys, limit, revision=revision, since=since)
        if page.bytes > self._most:
            raise TooLargeError("received message larger than max")
        return page


def filled(count: int, size: int = 10, *, most: int = 10**9) -> Recording:
    store = Recording(most)
    for number in range(count):
        store.put(b"/s/%06d" % number, bytes(size))
    return store


async def read(store: Recording, sizer: PageSizer, *, revision: int = 0) -> list[Page]:
    async with aclosing(read_pages(store, ALL, sizer, revision=revision)) as pages:
        return [page async for page in pages]


def item(size: int) -> Item:
    return Item(b"", bytes(size), 1, 1, 0)


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40, 1_000])
async def test_every_key_comes_once_and_in_order(count: int) -> None:
    pages = await read(filled(count), PageSizer(PageSettings(objects=500)))
    keys = [one.key for page in pages for one in page.items]
    assert keys == [b"/s/%06d" % number for number in range(count)]


async def test_pages_begin_small_and_grow_to_the_limit() -> None:
    store = filled(1_500)
    await read(store, PageSizer(PageSettings(objects=500)))
    assert store.limits == [8, 32, 128, 500, 500, 500]


async def test_pages_are_bounded_in_bytes() -> None:
    store = filled(100, size=1_000)
    pages = await read(store, PageSizer(PageSettings(objects=500, bytes=10_090)))
    assert max(page.bytes for page in pages) == 10 * 1_009
    assert store.limits == [8, *[10] * 10]


async def test_an_object_larger_than_a_page_comes_alone() -> None:
    store = filled(20, size=10_000)
    pages = await read(store, PageSizer(PageSettings(bytes=4_096)))
    assert [len(page.items) for page in pages] == [8, *[1] * 12]


async def test_an_answer_that_is_too_large_is_asked_for_in_quarters() -> None:
    store = filled(10, size=1_000, most=2_100)
    pages = await read(store, PageSizer(PageSettings()))
    assert sum(len(page.items) for page in pages) == 10
    assert store.limits[:2] == [8, 2]
    assert max(page.bytes for page in pages) <= 2_100


async def test_one_object_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(TooLargeError):
        await read(filled(3, size=1_000, most=500), PageSizer(PageSettings()))


async def test_the_next_page_is_fetched_while_one_is_worked_on() -> None:
    store = filled(100)
    async with aclosing(read_pages(store, ALL, PageSizer(PageSettings()))) as pages:
        await anext(pages)
        store.asked.clear()
        async with asyncio.timeout(5):
            await store.asked.wait()
        assert len(store.limits) == 2


async def test_whoever_leaves_early_leaves_no_task_behind() -> None:
    async with aclosing(read_pages(filled(100), ALL, PageSizer(PageSettings()))) as pages:
        await anext(pages)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_pinned_pages_show_one_revision() -> None:
    store = filled(50)
    pinned = await store.revision()
    store.put(b"/s/000049", b"changed")
    store.delete(b"/s/000001")
    pages = await read(store, PageSizer(PageSettings()), revision=pinned)
    assert [one.value for page in pages for one in page.items] == [bytes(10)] * 50


async def test_a_compaction_between_pinned_pages_is_raised() -> None:
    store = filled(50)
    pinned = await store.revision()
    async with aclosing(read_pages(store, ALL, PageSizer(PageSettings(objects=1)), revision=pinned)) as pages:
        await anext(pages)
        store.put(b"/s/x", b"")
        store.compact()
        with pytest.raises(CompactedError):
            _ = [page async for page in pages]


@pytest.mark.parametrize(
    ("limit", "largest", "expected"),
    [
        pytest.param(8, 1, 32, id="small objects => four times as many"),
        pytest.param(100, 1, 100, id="never more objects than set"),
        pytest.param(8, 500, 20, id="as many of the largest as fit"),
        pytest.param(8, 10**6, 1, id="never less than one"),
    ],
)
def test_the_next_page_fits_the_largest_object_of_this_one(limit: int, largest: int, expected: int) -> None:
    sizer = PageSizer(PageSettings(objects=100, bytes=10_000))
    sizer.limit = limit
    sizer.learn(Page((item(1), item(largest)), more=True, revision=1))
    assert sizer.limit == expected
