"""Builds etcd's transactions, and interprets their answers."""

from __future__ import annotations

from typing import Any

from kube_rewrap.worker.errors import FencedError
from kube_rewrap.worker.etcd import compat
from kube_rewrap.worker.etcd.store import Expect, Item, Outcome, SwapResult

_rpc: Any = compat.load()[0]


def swap_request(item: Item, value: bytes, guard: Expect | None) -> Any:
    """Build the transaction of one swap.

    A transaction never has more than one registry key: two writes would share a revision, and kube-apiserver's watchers
    would lose one of them. `guard` is on a record of ours; the transaction compares it only.
    """
    request = _rpc.TxnRequest()
    request.compare.add(
        key=item.key, target=_rpc.Compare.MOD, result=_rpc.Compare.EQUAL, mod_revision=item.mod_revision
    )
    put = request.success.add().request_put
    # ignore_lease: a plain Put detaches the lease, and the object would never expire.
    put.key, put.value, put.ignore_lease = item.key, value, True
    request.failure.add().request_range.key = item.key
    if guard is not None:
        request.compare.append(compare(guard))
        request.failure.add().request_range.key = guard.key
    return request


def swapped(response: Any, guard: Expect | None) -> SwapResult:
    """Return the result of a swap from its answer, None = lost. Raises FencedError if the guard did not hold."""
    if response is None:
        return SwapResult(Outcome.UNKNOWN)
    revision = response.header.revision
    if response.succeeded:
        return SwapResult(Outcome.APPLIED, revision)
    if guard is not None and not _holds(guard, response.responses[1].response_range.kvs):
        raise FencedError("this process lost the claim or lock that guards this write; it writes nothing more")
    found = response.responses[0].response_range.kvs
    return SwapResult(Outcome.LOST, revision, item_of(found[0]) if found else None)


def _holds(guard: Expect, found: Any) -> bool:
    """Whether the guard's record, as a lost transaction read it, meets the guard's condition."""
    if not found:
        return guard.revision == 0
    return bool(guard.revision == (found[0].create_revision if guard.created else found[0].mod_revision))


def item_of(kv: Any) -> Item:
    """Return the item of an etcd KeyValue."""
    return Item(kv.key, kv.value, kv.mod_revision, kv.version, kv.lease)


def compare(expect: Expect) -> Any:
    """Build the comparison of an expectation."""
    if expect.created:
        return _rpc.Compare(
            key=expect.key,
            target=_rpc.Compare.CREATE,
            result=_rpc.Compare.EQUAL,
            create_revision=expect.revision,
        )
    return _rpc.Compare(
        key=expect.key, target=_rpc.Compare.MOD, result=_rpc.Compare.EQUAL, mod_revision=expect.revision
    )
