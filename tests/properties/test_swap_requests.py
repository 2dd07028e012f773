"""The transactions of swaps, which rewrap encodes by hand, are the messages that protobuf would have made."""

from __future__ import annotations

from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from kube_rewrap.worker.etcd import compat
from kube_rewrap.worker.etcd.messages import compare, guarded_by, swap_request
from kube_rewrap.worker.etcd.store import Expect, Item

_rpc: Any = compat.load()[0]

REVISIONS = st.integers(-(2**63), 2**63 - 1) | st.sampled_from([0, 1, 127, 128, 2**14, 2**32, 2**63 - 1])
KEYS = st.binary(min_size=1, max_size=300)
VALUES = st.binary(min_size=1, max_size=300) | st.builds(bytes, st.sampled_from([127, 128, 16_383, 16_384, 2**21]))
GUARDS = st.none() | st.builds(Expect, KEYS, REVISIONS, st.booleans())


def message(key: bytes, value: bytes, revision: int, guard: Expect | None) -> Any:
    """Build the transaction of a swap as a protobuf message."""
    request = _rpc.TxnRequest(
        compare=[_rpc.Compare(key=key, target=_rpc.Compare.MOD, result=_rpc.Compare.EQUAL, mod_revision=revision)],
        success=[_rpc.RequestOp(request_put=_rpc.PutRequest(key=key, value=value, ignore_lease=True))],
        failure=[_rpc.RequestOp(request_range=_rpc.RangeRequest(key=key))],
    )
    if guard is not None:
        request.compare.append(compare(guard))
        request.failure.append(_rpc.RequestOp(request_range=_rpc.RangeRequest(key=guard.key)))
    return request


@given(key=st.just(b"") | KEYS, value=st.just(b"") | VALUES, revision=REVISIONS, guard=GUARDS)
@example(key=b"/registry/secrets/a/b", value=bytes(1_500_000), revision=2**40, guard=Expect(b"/g", 7, created=True))
def test_an_encoded_swap_is_read_as_its_message(key: bytes, value: bytes, revision: int, guard: Expect | None) -> None:
    encoded = swap_request(Item(key, b"before", revision, 3, 9), value, guarded_by(guard))
    expected = message(key, value, revision, guard)
    read = _rpc.TxnRequest.FromString(encoded)
    assert read == expected
    assert read.SerializeToString(deterministic=True) == expected.SerializeToString(deterministic=True)


@given(key=KEYS, value=VALUES, revision=REVISIONS)
def test_an_encoded_swap_without_a_guard_has_the_bytes_of_its_message(key: bytes, value: bytes, revision: int) -> None:
    encoded = swap_request(Item(key, b"before", revision, 3, 9), value)
    assert encoded == message(key, value, revision, None).SerializeToString(deterministic=True)
