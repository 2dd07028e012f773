"""A range read page by page, one page ahead, each page bounded by count and by bytes.

etcd bounds a Range by count only. The size of what comes next is guessed from the largest object of
the page before, beginning small; an answer that is too large all the same is asked for in quarters.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from config.settings import PageSettings
from worker.errors import TooLargeError
from worker.etcd.store import Page, Store
from worker.model.keys import KeyRange, after

_FIRST_LIMIT = 32
_GROWTH = 4
_SHRINK = 4


def next_limit(settings: PageSettings, limit: int, page: Page) -> int:
    """Return how many objects to ask for after `page`, which was asked for with `limit`."""
    largest = max((len(item.key) + len(item.value) for item in page.items), default=1)
    return max(1, min(settings.objects, limit * _GROWTH, settings.bytes // largest))


async def read_pages(
    store: Store, keys: KeyRange, settings: PageSettings, *, revision: int = 0
) -> AsyncGenerator[Page]:
    """Yield the pages of a range in key order; the next one is fetched while a page is worked on.

    `revision` pins all of them to one revision. Close the iterator (`aclosing`) when leaving early.
    """
    limit = min(_FIRST_LIMIT, settings.objects)
    fetching = asyncio.create_task(_fetch(store, keys, limit, revision))
    try:
        while True:
            page, limit = await fetching
            if page.more:
                limit = next_limit(settings, limit, page)
                keys = keys.since(after(page.items[-1].key))
                fetching = asyncio.create_task(_fetch(store, keys, limit, revision))
            if page.items:
                yield page
            if not page.more:
                return
    finally:
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)


async def _fetch(store: Store, keys: KeyRange, limit: int, revision: int) -> tuple[Page, int]:
    while True:
        try:
            return await store.page(keys, limit, revision=revision), limit
        except TooLargeError:
            if limit == 1:
                raise
            limit = max(1, limit // _SHRINK)
