"""Scans: they open every governed object once, and count it by the key that opened it.

A scan is pinned to one revision, so that its counts belong together, and reads in pages, so that its memory does not
grow with the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing

from kube_rewrap.worker.data_keys import DataKeys, NoPlugins
from kube_rewrap.worker.etcd.pages import PageSizer, read_pages
from kube_rewrap.worker.etcd.ranges import KeyRange, after
from kube_rewrap.worker.etcd.store import Item, Page, Stamp, Store
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange, ResourceTally, merged
from kube_rewrap.worker.verdict import Quarantine
from kube_rewrap.worker.wrapped import UnwrappedKeys

_SLICE = 32
_PIECE = 500
"""Keys per request when only their revisions matter; etcd still loads the value of each."""


async def take_inventory(
    store: Store,
    ranges: Iterable[ResourceRange],
    chains: Mapping[str, Chain],
    sizer: PageSizer,
    revision: int,
    *,
    data_keys: DataKeys | None = None,
) -> Inventory:
    """Scan all ranges at a revision. Raises CompactedError when etcd compacts it away meanwhile.

    Raises the errors of `data_keys`, which asks the KMS plugins page by page.
    """
    keys = data_keys or NoPlugins()
    tallies = [await _scan(store, one, chains[one.resource], sizer, revision=revision, keys=keys) for one in ranges]
    return Inventory(revision, merged(tallies))


async def take_slice(
    store: Store,
    wanted: ResourceRange,
    chains: Mapping[str, Chain],
    sizer: PageSizer,
    *,
    revision: int,
    is_over: Callable[[], bool],
    data_keys: DataKeys | None = None,
) -> tuple[Inventory, bytes | None]:
    """Scan a range page by page, one at least, until `is_over`; returns the counts, and the key to continue at.

    The key is None at the end of the range. Raises as `take_inventory`.
    """
    keys = data_keys or NoPlugins()
    chain = chains[wanted.resource]
    tally, cursor = ResourceTally(wanted.resource, chain.primary, chain.described), None
    async with aclosing(read_pages(store, wanted.range, sizer, revision=revision)) as pages:
        async for page in pages:
            if cursor is not None and is_over():
                return Inventory(revision, (tally,)), cursor
            await _count_page(tally, page, chain, keys)
            cursor = after(page.items[-1].key)
    return Inventory(revision, (tally,)), None


async def _scan(
    store: Store, wanted: ResourceRange, chain: Chain, sizer: PageSizer, *, revision: int, keys: DataKeys
) -> ResourceTally:
    tally = ResourceTally(wanted.resource, chain.primary, chain.described)
    async with aclosing(read_pages(store, wanted.range, sizer, revision=revision)) as pages:
        async for page in pages:
            await _count_page(tally, page, chain, keys)
    return tally


async def _count_page(tally: ResourceTally, page: Page, chain: Chain, keys: DataKeys) -> None:
    unwrapped = await keys.fetch(chain.all_wanted(item.value for item in page.items))
    for place, item in enumerate(page.items):
        if place % _SLICE == 0:
            await asyncio.sleep(0)  # lets the next page's request be sent meanwhile
        _count(tally, item, chain, unwrapped)


def _count(tally: ResourceTally, item: Item, chain: Chain, unwrapped: UnwrappedKeys) -> None:
    opened = chain.open(item.value, item.key, unwrapped)
    if isinstance(opened, Quarantine):
        tally.add_unreadable(item.key, opened)
    else:
        tally.add_readable(opened.ref, len(item.value), item.version)


async def last_stamps(
    store: Store, keys: KeyRange, first: int, end: int, *, revision: int
) -> AsyncGenerator[list[Stamp]]:
    """Yield stamps of keys last written from revision `first` to before `end`, in key order, `_PIECE` at most at once.

    `revision` as in `Store.page`.
    """
    more = True
    while more:
        stamps, more = await store.stamps(keys, _PIECE, revision=revision)
        if found := [one for one in stamps if first <= one.modified < end]:
            yield found
        if more:
            keys = keys.since(after(stamps[-1].key))


async def last_writes(
    store: Store, stamps: Sequence[Stamp], sizer: PageSizer, *, revision: int
) -> AsyncGenerator[Item]:
    """Yield the objects of one list of `last_stamps`, with values; leaves out objects that were written since."""
    keys = KeyRange(stamps[0].key, after(stamps[-1].key))
    wanted = {one.key: one.modified for one in stamps}
    pages = read_pages(store, keys, sizer, revision=revision, since=min(wanted.values()))
    async with aclosing(pages):
        async for page in pages:
            for item in page.items:
                if wanted.get(item.key) == item.mod_revision:
                    yield item
