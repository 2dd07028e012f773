"""A range page by page: bounded by count and by bytes, one page ahead, and all of it; etcd's work is linear."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from itertools import pairwise

import pytest

from kube_rewrap.config.settings.schema import PageSettings
from kube_rewrap.worker.errors import CompactedError, TooLargeError
from kube_rewrap.worker.etcd.pages import PageSizer, read_pages
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Page
from tests.fakes.store import MemoryStore
from tests.unit.clock import without_waiting

pytestmark = pytest.mark.timeout(60)

ALL = KeyRange.of_prefix(b"/s/")
MIB = 2**20


class Recording(MemoryStore):
    """Notes what it was asked for and what it sent, and refuses answers of more bytes than gRPC would take."""

    def __init__(self, most: int = 8 * MIB) -> None:
        super().__init__()
        self.limits: list[int] = []
        self.counted = self.sent = self.largest = 0
        self.asked = asyncio.Event()
        self._most = most

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        self.limits.append(limit)
        self.asked.set()
        page = await super().page(keys, limit, revision=revision, since=since)
        self.counted += len(page.items) + page.left
        self.sent += page.bytes
        self.largest = max(self.largest, page.bytes)
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


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 40, 1_000, 5_000])
async def test_every_key_comes_once_and_in_order(count: int) -> None:
    pages = await read(filled(count), PageSizer(PageSettings(objects=500)))
    keys = [one.key for page in pages for one in page.items]
    assert keys == [b"/s/%06d" % number for number in range(count)]
    assert [page.more for page in pages[-1:]] == [False] * len(pages[-1:])


async def test_answers_begin_small_and_grow_to_what_objects_of_a_mebibyte_may_cost() -> None:
    store = filled(300)
    await read(store, PageSizer(PageSettings(objects=500)))
    assert store.limits == [8, 32, 48, 48, 48, 48, 48, 48]


async def test_answers_are_as_large_as_set_in_a_range_whose_largest_object_is_known() -> None:
    store, sizer = filled(1_500), PageSizer(PageSettings(objects=500))
    await read(store, sizer)
    store.limits.clear()
    await read(store, sizer)
    assert store.limits == [48, 452, 500, 500]


GROWN = [
    pytest.param(0, 500, id="all at once"),
    pytest.param(61, 500, id="all of them within a minute or more"),
    pytest.param(61, 450, id="within a minute or more, all but the first, which look as before"),
]


@pytest.mark.parametrize(("seconds", "grown"), GROWN)
@without_waiting
async def test_what_a_scan_has_shown_of_sizes_bounds_no_answer_after_objects_have_grown(
    seconds: int, grown: int
) -> None:
    store, sizer = filled(500, size=1_000, most=8 * MIB), PageSizer(PageSettings(objects=500))
    await read(store, sizer)
    await asyncio.sleep(seconds)
    for number in range(500 - grown, 500):
        store.put(b"/s/%06d" % number, bytes(MIB - 100))
    store.sent = 0
    pages = await read(store, sizer)
    assert sum(len(page.items) for page in pages) == 500
    assert store.largest <= 48 * MIB
    assert store.sent < 1.3 * sum(page.bytes for page in pages)


@without_waiting
async def test_a_database_that_was_small_a_minute_ago_bounds_no_answer() -> None:
    store, sizer = filled(500, size=1_000, most=8 * MIB), PageSizer(PageSettings(objects=500))
    sizer.learn_database(MIB, asyncio.get_running_loop().time())
    await read(store, sizer)
    await asyncio.sleep(61)
    for number in range(500):
        store.put(b"/s/%06d" % number, bytes(MIB - 100))
    store.sent = 0
    pages = await read(store, sizer)
    assert store.largest <= 48 * MIB
    assert store.sent < 1.3 * sum(page.bytes for page in pages)


@pytest.mark.parametrize(
    ("database", "most"),
    [
        pytest.param(48 * MIB, 500, id="no larger than what may be sent in vain => as set"),
        pytest.param(49 * MIB, 48, id="larger => few"),
        pytest.param(1_600 * MIB, 100, id="much larger => a sixteenth of it may be"),
    ],
)
async def test_the_size_of_the_database_bounds_what_an_answer_may_cost(database: int, most: int) -> None:
    store, sizer = filled(2_000, size=0), PageSizer(PageSettings(objects=500))
    sizer.learn_database(database, asyncio.get_running_loop().time())
    await read(store, sizer)
    assert max(store.limits) == most


async def test_pages_are_put_together_from_answers() -> None:
    pages = await read(filled(5_000), PageSizer(PageSettings(objects=500)))
    assert {250 <= len(page.items) <= 500 for page in pages[:-1]} == {True}


async def test_pages_are_bounded_in_bytes() -> None:
    store = filled(100, size=1_000)
    pages = await read(store, PageSizer(PageSettings(objects=500, bytes=10_090)))
    assert max(page.bytes for page in pages) == 10 * 1_009
    assert store.limits == [8, *[10] * 10]


async def test_an_object_larger_than_a_page_comes_alone() -> None:
    store = filled(20, size=10_000)
    pages = await read(store, PageSizer(PageSettings(bytes=4_096)))
    assert [len(page.items) for page in pages] == [8, *[1] * 12]


async def test_the_objects_of_an_answer_that_is_too_large_are_asked_for_in_small_numbers() -> None:
    store = filled(10, size=1_000, most=2_100)
    pages = await read(store, PageSizer(PageSettings(bytes=4_096)))
    assert sum(len(page.items) for page in pages) == 10
    assert store.limits[:2] == [8, 1]
    assert max(page.bytes for page in pages) <= 4_096


async def test_one_object_that_does_not_fit_is_an_error() -> None:
    with pytest.raises(TooLargeError):
        await read(filled(3, size=1_000, most=500), PageSizer(PageSettings()))


SMALL, LARGE = [1_000], [MIB - 100]


@pytest.mark.parametrize(
    "sizes",
    [
        pytest.param(SMALL * 2_000 + LARGE * 300, id="many small, then many large"),
        pytest.param((SMALL * 400 + LARGE * 50) * 6, id="runs of large ones between small ones"),
        pytest.param((SMALL * 100 + LARGE * 10) * 30, id="short runs"),
        pytest.param((SMALL * 20 + LARGE) * 300, id="large ones one by one"),
        pytest.param((SMALL * 900 + [300_000] * 10) * 100, id="runs that just do not fit into an answer"),
        pytest.param(LARGE * 300 + SMALL * 2_000, id="large ones first"),
        pytest.param([3 * MIB // 2] * 200, id="objects as large as etcd takes by default"),
    ],
)
async def test_a_scan_makes_etcd_send_less_than_a_third_too_much(sizes: list[int]) -> None:
    """Also where small objects have let the count grow before large ones come."""
    store = Recording()
    for number, size in enumerate(sizes):
        store.put(b"/s/%06d" % number, bytes(size))
    pages = await read(store, PageSizer(PageSettings()))
    assert [len(one.value) for page in pages for one in page.items] == sizes
    assert store.sent < 1.3 * sum(page.bytes for page in pages)
    assert max(page.bytes for page in pages) < 10 * MIB


async def test_every_key_comes_once_where_large_objects_follow_small_ones_and_answers_become_smaller() -> None:
    store, sizer = Recording(), PageSizer(PageSettings())
    for number, size in enumerate([8_000] * 1_500 + [4_000] * 1_500 + [60_000] * 1_000):
        store.put(b"/s/ns-%03d/%06d" % (number // 50, number), bytes(size))
    for _ in "with small answers, and once more with large ones":
        pages = await read(store, sizer)
        keys = [one.key for page in pages for one in page.items]
        assert keys == sorted(set(keys))
        assert len(keys) == 4_000


@pytest.mark.parametrize("objects", [1_000, 10_000])
async def test_etcd_counts_each_key_a_few_times_however_many_there_are(objects: int) -> None:
    """Without a clock: the keys of all ranges that were asked for, which etcd visits to count them."""
    store = Recording()
    for number in range(objects):
        store.put(b"/s/team-%05d/object-%06d" % (number % 500, number), b"")
    sizer = PageSizer(PageSettings())
    for _ in "once, and once more with larger answers":
        store.counted, store.limits = 0, []
        pages = await read(store, sizer)
        assert sum(len(page.items) for page in pages) == objects
        assert store.counted <= 10 * objects
        assert len(store.limits) <= 1.5 * objects / min(500, store.limits[-2]) + 10


async def test_the_next_page_is_fetched_while_one_is_worked_on() -> None:
    store = filled(1_000)
    async with aclosing(read_pages(store, ALL, PageSizer(PageSettings(objects=8)))) as pages:
        await anext(pages)
        store.asked.clear()
        async with asyncio.timeout(5):
            await store.asked.wait()
        assert len(store.limits) == 2


async def test_whoever_leaves_early_leaves_no_task_behind() -> None:
    async with aclosing(read_pages(filled(1_000), ALL, PageSizer(PageSettings(objects=8)))) as pages:
        await anext(pages)
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_what_is_left_shrinks_to_nothing() -> None:
    pages = await read(filled(3_000), PageSizer(PageSettings(objects=100)))
    left = [page.left for page in pages]
    assert all(before > behind for before, behind in pairwise(left))
    assert (left[0], left[-1]) == (3_000 - len(pages[0].items), 0)


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
