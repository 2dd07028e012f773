"""One compare-and-swap alone, for the tests of what a swap promises."""

from __future__ import annotations

from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.etcd.store import Expect, Item, Store, SwapResult


async def swap(store: Store, item: Item, value: bytes, guard: Expect | None = None) -> SwapResult:
    """Do a group of one swap; raises the error that the store returns for it."""
    (end,) = await store.swap_all([(item, value)], guard)
    if isinstance(end, WorkerError):
        raise end
    return end
