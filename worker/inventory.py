"""Scans: every governed object opened once, counted by the key that opened it.

The scan is pinned to one revision, so that its counts belong together, and reads in pages, so that
its memory does not grow with the store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping
from contextlib import aclosing

import structlog

from worker.errors import CompactedError
from worker.etcd.pages import PageSizer, read_pages
from worker.etcd.store import Item, Store
from worker.model.inventory import Inventory, ResourceRange, ResourceTally
from worker.model.verdict import Quarantine
from worker.providers.chain import Chain

_RESTARTS = 5
_SLICE = 32
_log = structlog.get_logger()


async def take_inventory(
    store: Store, ranges: Iterable[ResourceRange], chains: Mapping[str, Chain], sizer: PageSizer
) -> Inventory:
    """Scan all ranges at the store's current revision.

    When etcd compacts that revision away, a newer one is pinned and the scan starts again. Raises
    CompactedError when that happens too often to come to an end.
    """
    wanted = tuple(ranges)
    for _ in range(_RESTARTS):
        revision = await store.revision()
        try:
            tallies = [await _scan(store, one, chains[one.resource], sizer, revision) for one in wanted]
        except CompactedError:
            _log.warning("scan.restarted", revision=revision, because="etcd compacted the revision away")
            continue
        return Inventory(revision, tuple(tallies))
    raise CompactedError(
        f"etcd compacted every revision away within one scan, {_RESTARTS} times; compact less often, or scan fewer "
        "resources at a time with --resource"
    )


async def _scan(store: Store, wanted: ResourceRange, chain: Chain, sizer: PageSizer, revision: int) -> ResourceTally:
    tally = ResourceTally(wanted.resource, chain.primary, chain.keys)
    async with aclosing(read_pages(store, wanted.range, sizer, revision=revision)) as pages:
        async for page in pages:
            for place, item in enumerate(page.items):
                if place % _SLICE == 0:
                    await asyncio.sleep(0)  # else the next page's request would not even leave until this one is done
                _count(tally, item, chain)
    return tally


def _count(tally: ResourceTally, item: Item, chain: Chain) -> None:
    opened = chain.open(item.value, item.key)
    if isinstance(opened, Quarantine):
        tally.add_unreadable(item.key, opened)
    else:
        tally.add_readable(opened.ref, len(item.value), item.version)
