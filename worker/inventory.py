"""Scans: they open every governed object once, and count it by the key that opened it.

A scan is pinned to one revision, so that its counts belong together, and reads in pages, so that its memory does not
grow with the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing

from kube_rewrap.worker.data_keys import DataKeys, NoPlugins, fetch_again
from kube_rewrap.worker.errors import KmsSourceError
from kube_rewrap.worker.etcd.pages import PageSizer, read_pages, read_stamps
from kube_rewrap.worker.etcd.ranges import KeyRange, after
from kube_rewrap.worker.etcd.store import Item, Stamp, Store
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.records.census import Census, ResourceCensus
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange, ResourceTally, merged
from kube_rewrap.worker.verdict import KeyRef, Quarantine
from kube_rewrap.worker.wrapped import WrappedKey

_GROUP = 16
"""With 16 processes that share 10 calls a second, and a plugin that refuses each key, a group takes some 200 s."""


async def take_inventory(
    store: Store,
    ranges: Iterable[ResourceRange],
    chains: Mapping[str, Chain],
    sizer: PageSizer,
    revision: int,
    *,
    data_keys: DataKeys | None = None,
    kek_since: int = 0,
    peeks: bool = False,
    apart: frozenset[str] = frozenset(),
    by_namespace: bool = False,
) -> Inventory:
    """Scan all ranges at a revision. Raises CompactedError when etcd compacts it away meanwhile.

    Current objects up to the revision `kek_since` count as stale, too (`Chain.is_outdated`). With `peeks`, a value
    under a KMS provider counts under the key that it names, without being opened; else raises the errors of
    `data_keys`, which asks the KMS plugins page by page. `apart` as in ResourceTally. With `by_namespace`, the
    inventory has a census.
    """
    tallies, peeked, counted = [], 0, []
    for one in ranges:
        count = _Count(chains[one.resource], one.resource, data_keys or NoPlugins(), kek_since, peeks=peeks)
        count.tally.apart = apart
        census = Census(one.borders.prefix if one.borders else one.range.start)
        async with aclosing(read_pages(store, one.range, sizer, revision=revision, borders=one.borders)) as pages:
            async for page in pages:
                await count.add(page.items)
                if by_namespace:
                    census.add(page.items)
        tallies.append(count.tally)
        peeked += count.peeked
        if by_namespace:
            counted.append(ResourceCensus(one.resource, one.range, census.namespaces()))
    return Inventory(revision, merged(tallies), peeked=peeked, census=tuple(counted))


async def take_slice(
    store: Store,
    wanted: ResourceRange,
    chains: Mapping[str, Chain],
    sizer: PageSizer,
    *,
    revision: int,
    is_over: Callable[[], bool],
    data_keys: DataKeys | None = None,
    kek_since: int = 0,
    apart: frozenset[str] = frozenset(),
) -> tuple[Inventory, bytes | None]:
    """Scan a range in groups of a page, one at least, until `is_over`; returns the counts, and the key to continue at.

    The key is None at the end of the range. A page of KMS v1 values whose keys a plugin refuses takes minutes: a group
    bounds what a slice takes beyond its end. Raises as `take_inventory`; KmsSourceError only where the first group has
    such a key. Then the keys of the page's other groups were asked for, too, for each takes minutes, and the groups
    must not take them one after the other.
    """
    keys = data_keys or NoPlugins()
    count = _Count(chains[wanted.resource], wanted.resource, keys, kek_since)
    count.tally.apart = apart
    cursor = None
    async with aclosing(read_pages(store, wanted.range, sizer, revision=revision)) as pages:
        async for page in pages:
            for start in range(0, len(page.items), _GROUP):
                if cursor is not None and is_over():
                    return Inventory(revision, (count.tally,)), cursor
                group = page.items[start : start + _GROUP]
                try:
                    await count.add(group)
                except KmsSourceError as error:
                    if cursor is not None:
                        return Inventory(revision, (count.tally,)), cursor
                    raise await _latest(error, keys, count.wanted_by(page.items[start + _GROUP :]), is_over) from None
                cursor = after(group[-1].key)
    return Inventory(revision, (count.tally,)), None


async def _latest(
    error: KmsSourceError, keys: DataKeys, wanted: Sequence[WrappedKey], is_over: Callable[[], bool]
) -> KmsSourceError:
    """Ask for keys until `is_over`; return the KmsSourceError with the longest delay."""
    for start in range(0, len(wanted), _GROUP):
        if is_over():
            break
        try:
            await keys.fetch(wanted[start : start + _GROUP])
        except KmsSourceError as other:
            error = max(error, other, key=lambda one: one.delay)
    return error


class _Count:
    """Counts the objects of one resource, page by page. `kek_since` and `peeks` as in `take_inventory`."""

    def __init__(self, chain: Chain, resource: str, keys: DataKeys, kek_since: int, *, peeks: bool = False) -> None:
        self.tally = ResourceTally(resource, chain.primary, chain.described)
        self._chain = chain
        self._keys = keys
        self._kek_since = kek_since
        self._peeks = peeks
        self.peeked = 0
        """Values that were counted without being opened."""

    def wanted_by(self, items: Sequence[Item]) -> Sequence[WrappedKey]:
        """Return the wrapped keys of these objects."""
        return self._chain.all_wanted(item.value for item in items)

    async def add(self, items: Sequence[Item]) -> None:
        """Count objects, after the keys of those that did not open were asked for once more."""
        chain = self._chain
        named = {item.key: key for item in items if (key := chain.peek(item.value))} if self._peeks else {}
        self.peeked += len(named)
        to_open = [item.value for item in items if item.key not in named]
        unwrapped = await self._keys.fetch(chain.all_wanted(to_open))
        closed: list[tuple[Item, Quarantine]] = []
        for place, item in enumerate(items):
            if place % _GROUP == 0:
                await asyncio.sleep(0)  # lets the next page's request be sent meanwhile
            if item.key in named:
                self._add_readable(item, named[item.key], is_primary=named[item.key] == chain.primary)
                continue
            opened = chain.open(item.value, item.key, unwrapped)
            if isinstance(opened, Quarantine):
                closed.append((item, opened))
            else:
                self._add_readable(item, opened.ref, is_primary=opened.is_primary)
        left = {item.key: item.value for item, _ in closed}
        others = (item.value for item in items if item.key not in left and item.key not in named)
        again = await fetch_again(self._keys, *chain.wanted_apart(left.values(), others, unwrapped), unwrapped)
        for item, why in closed:
            reopened = chain.open(item.value, item.key, {**unwrapped, **again}) if again else why
            if isinstance(reopened, Quarantine):
                self.tally.add_unreadable(item.key, reopened)
            else:
                self._add_readable(item, reopened.ref, is_primary=reopened.is_primary)

    def _add_readable(self, item: Item, key: KeyRef, *, is_primary: bool) -> None:
        is_outdated = is_primary and self._chain.is_outdated(item.mod_revision, self._kek_since)
        self.tally.add_readable(key, len(item.value), item.version, is_outdated=is_outdated)


async def last_stamps(
    store: Store, keys: KeyRange, first: int, end: int, *, revision: int
) -> AsyncGenerator[list[Stamp]]:
    """Yield stamps of keys last written from revision `first` to before `end`, in key order, some hundred at once.

    `revision` as in `Store.page`.
    """
    async with aclosing(read_stamps(store, keys, revision=revision)) as looks:
        async for stamps in looks:
            if found := [one for one in stamps if first <= one.modified < end]:
                yield found


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
