"""Scans: every governed object opened once, counted by the key that opened it.

The scan is pinned to one revision, so that its counts belong together, and reads in pages, so that
its memory does not grow with the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping
from contextlib import aclosing

from worker.etcd.pages import PageSizer, read_pages
from worker.etcd.store import Item, Page, Store
from worker.model.inventory import Inventory, ResourceRange, ResourceTally, merged
from worker.model.keys import KeyRange, after
from worker.model.verdict import Quarantine
from worker.providers.chain import Chain

_SLICE = 32


async def take_inventory(
    store: Store, ranges: Iterable[ResourceRange], chains: Mapping[str, Chain], sizer: PageSizer, revision: int
) -> Inventory:
    """Scan all ranges as of a revision. Raises CompactedError when etcd compacts it away meanwhile."""
    tallies = [await _scan(store, one, chains[one.resource], sizer, revision) for one in ranges]
    return Inventory(revision, merged(tallies))


async def take_slice(
    store: Store,
    wanted: ResourceRange,
    chains: Mapping[str, Chain],
    sizer: PageSizer,
    *,
    revision: int,
    is_over: Callable[[], bool],
) -> tuple[Inventory, bytes | None]:
    """Scan a range page by page, one at least, until `is_over`; returns what was counted, and where to go on.

    None: it is at its end. Raises CompactedError.
    """
    chain = chains[wanted.resource]
    tally, cursor = ResourceTally(wanted.resource, chain.primary, chain.keys), None
    async with aclosing(read_pages(store, wanted.range, sizer, revision=revision)) as pages:
        async for page in pages:
            if cursor is not None and is_over():
                return Inventory(revision, (tally,)), cursor
            await _count_page(tally, page, chain)
            cursor = after(page.items[-1].key)
    return Inventory(revision, (tally,)), None


async def _scan(store: Store, wanted: ResourceRange, chain: Chain, sizer: PageSizer, revision: int) -> ResourceTally:
    tally = ResourceTally(wanted.resource, chain.primary, chain.keys)
    async with aclosing(read_pages(store, wanted.range, sizer, revision=revision)) as pages:
        async for page in pages:
            await _count_page(tally, page, chain)
    return tally


async def _count_page(tally: ResourceTally, page: Page, chain: Chain) -> None:
    for place, item in enumerate(page.items):
        if place % _SLICE == 0:
            await asyncio.sleep(0)  # else the next page's request would not even leave until this one is done
        _count(tally, item, chain)


def _count(tally: ResourceTally, item: Item, chain: Chain) -> None:
    opened = chain.open(item.value, item.key)
    if isinstance(opened, Quarantine):
        tally.add_unreadable(item.key, opened)
    else:
        tally.add_readable(opened.ref, len(item.value), item.version)


async def last_writes(store: Store, keys: KeyRange, sizer: PageSizer, first: int, end: int) -> AsyncGenerator[Item]:
    """Yield what was last written from one revision to before another one, as of now."""
    async with aclosing(read_pages(store, keys, sizer)) as pages:
        async for page in pages:
            for item in page.items:
                if first <= item.mod_revision < end:
                    yield item
