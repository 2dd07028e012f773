"""Reads a range page by page, one page ahead; each page is bounded by count and by bytes.

etcd bounds a Range by count only. So the reader begins with a small page, and computes the count of each next page from
the largest object of the page before. If an answer is too large nevertheless, it requests a quarter of the count.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from kube_rewrap.config.settings.schema import PageSettings
from kube_rewrap.worker.errors import TooLargeError
from kube_rewrap.worker.etcd.ranges import KeyRange, after
from kube_rewrap.worker.etcd.store import Page, Store

_FIRST_LIMIT = 8
_GROWTH = 4
_SHRINK = 4


class PageSizer:
    """How many objects to ask for next. Use one sizer for all ranges: then only the first page's count is a guess."""

    def __init__(self, settings: PageSettings) -> None:
        self._settings = settings
        self.limit = min(_FIRST_LIMIT, settings.objects)

    def learn(self, page: Page) -> None:
        """Fit the next page to the largest object of this one."""
        largest = max((len(item.key) + len(item.value) for item in page.items), default=1)
        self.limit = max(1, min(self._settings.objects, self.limit * _GROWTH, self._settings.bytes // largest))

    def shrink(self) -> None:
        """Reduce the count to a quarter: the answer was too large."""
        self.limit = max(1, self.limit // _SHRINK)


async def read_pages(
    store: Store, keys: KeyRange, sizer: PageSizer, *, revision: int = 0, since: int = 0
) -> AsyncGenerator[Page]:
    """Yield the non-empty pages of a range in key order; fetches the next one while the caller works on a page.

    `revision` pins all pages to one revision; `since` as in `Store.page`, so for short ranges only. A caller that stops
    early must close the iterator (`aclosing`). Raises TooLargeError when a single object is too large.
    """
    fetching = asyncio.create_task(_fetch(store, keys, sizer, revision, since))
    try:
        while True:
            page = await fetching
            if page.more:
                keys = keys.since(after(page.items[-1].key))
                fetching = asyncio.create_task(_fetch(store, keys, sizer, revision, since))
            if page.items:
                yield page
            if not page.more:
                return
    finally:
        fetching.cancel()
        await asyncio.gather(fetching, return_exceptions=True)


async def _fetch(store: Store, keys: KeyRange, sizer: PageSizer, revision: int, since: int) -> Page:
    while True:
        limit = sizer.limit
        try:
            page = await store.page(keys, limit, revision=revision, since=since)
        except TooLargeError:
            if limit == 1:
                raise
            sizer.shrink()
        else:
            sizer.learn(page)
            return page
