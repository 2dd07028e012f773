"""Builds etcd's transactions, and interprets their answers."""

from __future__ import annotations

from typing import Any

from kube_rewrap.worker.errors import FencedError
from kube_rewrap.worker.etcd import compat
from kube_rewrap.worker.etcd.store import Expect, Item, Outcome, SwapResult

_rpc: Any = compat.load()[0]

# The fields of a swap's TxnRequest: the tag of each, with its value where that is always the same
# (etcd/api/etcdserverpb/rpc.proto). A tag is 8 * the field's number + its wire type.
_COMPARE, _SUCCESS, _FAILURE = b"\x0a", b"\x12", b"\x1a"  # TxnRequest
_EQUAL_MOD, _MOD_REVISION = b"\x10\x02\x1a", b"\x30"  # Compare: target MOD, then key; its result EQUAL is the default
_RANGE, _PUT = b"\x0a", b"\x12"  # RequestOp
_KEY, _VALUE = b"\x0a", b"\x12"  # PutRequest; _KEY of RangeRequest, too
_IGNORE_LEASE = b"\x30\x01"  # PutRequest: a plain Put detaches the lease, and the object would never expire

_SHORT = [bytes([number]) for number in range(0x80)]
_UINT64 = 2**64 - 1
"""Protobuf encodes a negative number as its two's complement of 64 bits."""


def swap_request(item: Item, value: bytes, guarded: bytes = b"") -> bytes:
    """Return the serialized TxnRequest of one swap; `guarded` is from `guarded_by`.

    A transaction never has more than one registry key: two writes would share a revision, and kube-apiserver's watchers
    would lose one of them. Encoded by hand, since building the message costs more CPU time than the swap's ciphers.
    """
    key = _sized(item.key)
    compared = _EQUAL_MOD + key + _MOD_REVISION + _varint(item.mod_revision & _UINT64)
    put = _sized(_KEY + key + _VALUE + _sized(value) + _IGNORE_LEASE)
    read = _sized(_KEY + key)
    return b"".join(
        (_COMPARE, _sized(compared), _SUCCESS, _sized(_PUT + put), _FAILURE, _sized(_RANGE + read), guarded)
    )


def guarded_by(guard: Expect | None) -> bytes:
    """Return what a guard adds to the serialized transactions of its swaps: a comparison, and a read if that fails.

    `guard` is on a record of ours; the transaction compares it only. Serialized messages that follow each other are
    merged: the elements of their repeated fields follow each other.
    """
    if guard is None:
        return b""
    request = _rpc.TxnRequest(compare=[compare(guard)])
    request.failure.add().request_range.key = guard.key
    return bytes(request.SerializeToString())


def _sized(body: bytes) -> bytes:
    """Return a length-delimited field's content after its tag."""
    return _varint(len(body)) + body


def _varint(number: int) -> bytes:
    """Encode an unsigned number as protobuf does: seven bits a byte, the lowest first."""
    if number < 0x80:
        return _SHORT[number]
    encoded = bytearray()
    while number >= 0x80:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


def swapped(response: Any, guard: Expect | None) -> SwapResult:
    """Return the result of a swap from its answer, None = lost. Raises FencedError if the guard did not hold.

    UNKNOWN for an answer that etcd does not give to this transaction: only a read can show what happened.
    """
    if response is None:
        return SwapResult(Outcome.UNKNOWN)
    revision = response.header.revision
    if response.succeeded:
        return SwapResult(Outcome.APPLIED, revision)
    if len(response.responses) != (1 if guard is None else 2):
        return SwapResult(Outcome.UNKNOWN)
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
