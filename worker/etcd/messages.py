"""etcd's messages: what transactions say, and what their answers mean."""

from __future__ import annotations

from typing import Any

from kube_rewrap.worker.errors import FencedError
from kube_rewrap.worker.etcd import compat
from kube_rewrap.worker.etcd.store import Expect, Item, Outcome, SwapResult

_rpc: Any = compat.load()[0]


def swap_request(item: Item, value: bytes, guard: Expect | None) -> Any:
    """Build the transaction of one swap.

    One registry key a transaction, always: two would share a revision, and kube-apiserver's watchers
    would lose one of them. The guard is a record of ours, and is only compared.
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
    """Read the answer to a swap, None = it was lost. Raises FencedError when the guard did not hold."""
    if response is None:
        return SwapResult(Outcome.UNKNOWN)
    revision = response.header.revision
    if response.succeeded:
        return SwapResult(Outcome.APPLIED, revision)
    if guard is not None and not _holds(guard, response.responses[1].response_range.kvs):
        raise FencedError("this process lost its claim on the batch; nothing more is written")
    found = response.responses[0].response_range.kvs
    return SwapResult(Outcome.LOST, revision, item_of(found[0]) if found else None)


def _holds(guard: Expect, found: Any) -> bool:
    """Whether a guard that was read in a refused transaction is as expected."""
    if not found:
        return guard.revision == 0
    return bool(guard.revision == (found[0].create_revision if guard.created else found[0].mod_revision))


def item_of(kv: Any) -> Item:
    """Return a stored key."""
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
