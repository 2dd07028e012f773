"""Reads all items of a range that may be long, as our own records are: pages bounded by bytes, in `parts`.

etcd's work, and the memory of both processes, stay linear in the range whatever its size; see `pages`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from weakref import WeakKeyDictionary

from kube_rewrap.config.settings.schema import PageSettings
from kube_rewrap.worker.etcd.pages import PageSizer, read_pages
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Item, Store

_sizers: WeakKeyDictionary[Store, PageSizer] = WeakKeyDictionary()
"""One for each store: it learns how large the items are. Apart from the sizer of registry scans, whose page an operator
sets."""


async def read_items(store: Store, keys: KeyRange, *, since: int = 0, revision: int = 0) -> AsyncGenerator[Item]:
    """Yield each item of a range in key order; `since` and `revision` as in `read_pages`.

    A caller that stops early must close the iterator (`aclosing`).
    """
    sizer = _sizers.setdefault(store, PageSizer(PageSettings()))
    async with aclosing(read_pages(store, keys, sizer, since=since, revision=revision)) as pages:
        async for page in pages:
            for item in page.items:
                yield item
