"""The recogniser: one whole object of each form, of each kind that is stored, and nothing less or more.

CBOR is written here as upstream's encoder does (apimachinery pkg/runtime/serializer/cbor/internal/modes/encode.go): the
self-described tag, strings and field names as byte strings, Go's []byte under tag 22, maps sorted bytewise by their
encoded keys, the shortest heads and floats, times as RFC 3339 strings without a tag, nothing of indefinite length.
"""

from __future__ import annotations

import base64
import json
import struct
import time
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_rewrap.worker.providers.plaintext import CBOR, PROTOBUF, is_kubernetes_object

# --------------------------------------------------------------------------------------------------- upstream's bytes


def head(major: int, value: int) -> bytes:
    """The shortest head of a data item (RFC 8949 3)."""
    if value < 24:
        return bytes([major << 5 | value])
    for extra, width in ((24, 1), (25, 2), (26, 4), (27, 8)):
        if value < 1 << 8 * width:
            return bytes([major << 5 | extra]) + value.to_bytes(width, "big")
    raise ValueError(value)


def shortest_float(value: float) -> bytes:
    for lead, form in ((b"\xf9", ">e"), (b"\xfa", ">f")):
        try:
            packed = struct.pack(form, value)
        except OverflowError:
            continue
        if struct.unpack(form, packed)[0] == value:
            return lead + packed
    return b"\xfb" + struct.pack(">d", value)


def item(value: object) -> bytes:  # noqa: PLR0911 - one a type
    """One value as upstream encodes it; `bytes` is Go's []byte, and `str` its string."""
    match value:
        case None:
            return b"\xf6"
        case bool():
            return b"\xf5" if value else b"\xf4"
        case int():
            return head(0, value) if value >= 0 else head(1, -1 - value)
        case float():
            return shortest_float(value)
        case str():
            return head(2, len(value.encode())) + value.encode()
        case bytes():
            return head(6, 22) + head(2, len(value)) + value
        case list():
            return head(4, len(value)) + b"".join(map(item, value))
        case dict():
            pairs = sorted((item(key), item(inner)) for key, inner in value.items())
            return head(5, len(pairs)) + b"".join(key + inner for key, inner in pairs)
    raise TypeError(type(value))


def cbor(value: object) -> bytes:
    return b"\xd9\xd9\xf7" + item(value)


def as_json(value: object) -> bytes:
    """Compact, with a newline behind it, []byte in base64: as Go's encoder writes."""
    text = json.dumps(value, separators=(",", ":"), default=lambda inner: base64.b64encode(inner).decode())
    return text.encode() + b"\n"


def field(number: int, value: bytes) -> bytes:
    """One length-delimited field of a protobuf message."""
    size, length = len(value), b""
    while size > 127:
        length += bytes([size & 127 | 128])
        size >>= 7
    return bytes([number << 3 | 2]) + length + bytes([size]) + value


def protobuf(value: dict[str, object]) -> bytes:
    """An Unknown envelope; of the object itself its name, and one more field that only its form is checked of."""
    metadata = value["metadata"]
    assert isinstance(metadata, dict)
    kind = field(1, str(value["apiVersion"]).encode()) + field(2, str(value["kind"]).encode())
    inner = field(1, field(1, str(metadata["name"]).encode())) + field(2, b"\x0a\x03any")
    return b"k8s\x00" + field(1, kind) + field(2, inner) + field(3, b"") + field(4, b"")


def named(api_version: str, kind: str, **fields: object) -> dict[str, object]:
    metadata = {
        "name": "one",
        "namespace": "default",
        "uid": "0b6a1f5e-7f3c-4a58-9d0b-0d2c2d8a6a11",
        "creationTimestamp": "2026-11-26T08:49:54Z",
        "labels": {"app.kubernetes.io/name": "one", "empty": ""},
        "annotations": {"note": "täglich \u2603", "big": "x" * 70_000},
        "ownerReferences": [{"apiVersion": "v1", "kind": "Node", "name": "n", "controller": True}],
        "managedFields": [{"manager": "kubectl", "fieldsV1": {"f:spec": {".": {}, 'k:{"name":"a"}': {}}}}],
    }
    return {"apiVersion": api_version, "kind": kind, "metadata": metadata, **fields}


GOOD: list[dict[str, object]] = [
    named("v1", "Secret", type="Opaque", data={"token": bytes(range(256)), "empty": b"", "text": b"k8s:enc:"}),
    named("v1", "ConfigMap", data={"a.yaml": "a: [1]\n"}, binaryData={"b": b"\xff\x00"}, immutable=False),
    named(
        "v1",
        "Pod",
        spec={
            "containers": [{"name": "a", "image": "b", "ports": [{"containerPort": 80}, {"containerPort": 65_536}]}],
            "tolerations": [{"key": "k", "operator": "Exists", "tolerationSeconds": 300}],
            "securityContext": {},
            "volumes": None,
        },
        status={"startTime": "2026-11-26T08:49:54.000001Z", "conditions": []},
    ),
    named("apps/v1", "Deployment", spec={"replicas": 3, "paused": False}),
    named("rbac.authorization.k8s.io/v1", "Role", rules=[{"verbs": ["*"]}]),
    named("example.com/v1beta2", "Widget", spec={"ratio": 0.1, "half": 0.5, "big": 1e300, "low": -(2**63), "n": -1}),
    named("example.com/v1", "Gadget", spec=[[[{"a": [1.0, 2**63 - 1, 2**32, 2**16, 256, 24, 23]}]]]),
    named("apiextensions.k8s.io/v1", "CustomResourceDefinition", spec={"versions": [{"schema": {"x": {}}}] * 300}),
    {"apiVersion": "v1", "kind": "Event", "metadata": {"name": "a"}},
]


def kinds(value: dict[str, object]) -> str:
    return str(value["kind"])


@pytest.mark.parametrize(("form", "spare"), [(protobuf, 4), (as_json, 1), (cbor, 0)])
@pytest.mark.parametrize("value", GOOD, ids=kinds)
def test_a_whole_object_of_each_form_is_recognised_and_no_part_of_it(
    value: dict[str, object], form: Callable[[dict[str, object]], bytes], spare: int
) -> None:
    whole = form(value)
    assert is_kubernetes_object(whole)
    assert not is_kubernetes_object(whole + b"\x00")
    assert not is_kubernetes_object(whole[: len(whole) // 2])
    assert not is_kubernetes_object(whole[1:])
    # Behind the last object of JSON comes a newline; the envelope of protobuf ends with two empty fields.
    assert not is_kubernetes_object(whole[: -1 - spare])


def test_no_truncation_of_cbor_is_recognised() -> None:
    whole = cbor({**GOOD[-1], "data": {"a": b"bytes", "b": [1.5, None, True]}})
    assert [length for length in range(len(whole) + 1) if is_kubernetes_object(whole[:length])] == [len(whole)]


OBJECT = item(GOOD[-1])
"""A good object without the tag: a map of three."""
TWO = head(5, 4) + OBJECT[1:]
"""The same with room for one entry more."""


def texts(value: dict[str, str]) -> bytes:
    return b"".join(head(3, len(text)) + text.encode() for pair in value.items() for text in pair)


READ_ALL_THE_SAME = {
    "text strings": CBOR + head(5, 3) + texts({"apiVersion": "v1", "kind": "Event"}) + head(3, 8) + b"metadata\xa0",
    "indefinite length": CBOR + b"\xbf" + OBJECT[1:] + b"\xff",
    "a tagged time": CBOR + TWO + item("t") + head(6, 0) + item("2026-11-26T08:49:54Z"),
    "base64url later": CBOR + TWO + item("t") + head(6, 21) + head(2, 1) + b"x",
    "a tag that nobody knows": CBOR + TWO + item("t") + head(6, 2**40) + item([]),
    "the tag inside, where an extension was embedded": CBOR + TWO + item("t") + cbor({"a": [{"b": 1}]}),
    "metadata as it was embedded": CBOR + head(5, 3) + OBJECT[1:].replace(item("metadata"), item("metadata") + CBOR),
}


@pytest.mark.parametrize("plaintext", READ_ALL_THE_SAME.values(), ids=READ_ALL_THE_SAME)
def test_cbor_that_upstream_reads_and_does_not_write_is_recognised(plaintext: bytes) -> None:
    assert is_kubernetes_object(plaintext)


BAD_CBOR = {
    "the tag alone": CBOR,
    "the tag twice and nothing": CBOR + CBOR,
    "no tag": OBJECT,
    "a list of objects": CBOR + head(4, 1) + OBJECT,
    "a string": CBOR + item("{}"),
    "no apiVersion": cbor({"kind": "Pod", "metadata": {}}),
    "no kind": cbor({"apiVersion": "v1", "metadata": {}}),
    "no metadata": cbor({"apiVersion": "v1", "kind": "Pod"}),
    "metadata is a list": cbor({"apiVersion": "v1", "kind": "Pod", "metadata": []}),
    "the kind is a number": cbor({"apiVersion": "v1", "kind": 1, "metadata": {}}),
    "the kind is no name": cbor({"apiVersion": "v1", "kind": "Pod\x00", "metadata": {}}),
    "the kind is not UTF-8": CBOR + OBJECT.replace(b"Event", b"Ev\xff\xfet"),
    "a key twice": CBOR + TWO + item("kind") + item("Pod"),
    "a key twice, as text and as bytes": CBOR + TWO + head(3, 4) + b"kind" + item("Pod"),
    "a key twice, deep inside": CBOR + TWO + item("x") + head(4, 1) + head(5, 2) + (item("a") + item(1)) * 2,
    "a number for a key": CBOR + TWO + item(1) + item(1),
    "a list for a key": CBOR + TWO + item([]) + item(1),
    "text that is not UTF-8": CBOR + TWO + item("x") + head(3, 1) + b"\xff",
    "a break where an item belongs": CBOR + TWO + item("x") + b"\xff",
    "a reserved head": CBOR + TWO + item("x") + b"\x1c",
    "a list of 2^63 items": CBOR + TWO + item("x") + head(4, 2**63),
    "a map of 2^64 - 1 pairs": CBOR + TWO + item("x") + head(5, 2**64 - 1),
    "a string of 2^62 bytes": CBOR + TWO + item("x") + head(2, 2**62) + b"x",
    "a hundred thousand lists": CBOR + TWO + item("x") + b"\x81" * 100_000 + b"\x00",
    "a hundred thousand maps": CBOR + TWO + item("x") + b"\xa1\x41a" * 100_000 + b"\x00",
    "a hundred thousand tags": CBOR + TWO + item("x") + b"\xd9\xd9\xf7" * 100_000 + b"\x00",
}

BAD_JSON = {
    "a list of objects": b"[" + as_json(GOOD[-1]) + b"]",
    "two objects": as_json(GOOD[-1]) * 2,
    "no apiVersion": b'{"kind":"Pod","metadata":{}}',
    "no kind": b'{"apiVersion":"v1","metadata":{}}',
    "metadata is null": b'{"apiVersion":"v1","kind":"Pod","metadata":null}',
    "not a number": b'{"apiVersion":"v1","kind":"Pod","metadata":{},"x":NaN}',
    "infinity": b'{"apiVersion":"v1","kind":"Pod","metadata":{},"x":-Infinity}',
    "not UTF-8": b'{"apiVersion":"v1","kind":"Pod","metadata":{},"x":"\xff"}',
    "UTF-16": '{"apiVersion":"v1","kind":"Pod","metadata":{}}'.encode("utf-16-le"),
    "a number of 100,000 digits": b'{"apiVersion":"v1","kind":"Pod","metadata":{},"x":' + b"9" * 100_000 + b"}",
    "a hundred thousand lists": b'{"x":' + b"[" * 100_000,
    "a hundred thousand maps": b'{"x":' * 100_000,
}

BAD_PROTOBUF = {
    "the magic alone": PROTOBUF,
    "no object": PROTOBUF + field(1, field(1, b"v1") + field(2, b"Pod")),
    "no metadata": PROTOBUF + field(1, field(1, b"v1") + field(2, b"Pod")) + field(2, field(2, b"")),
    "no kind": PROTOBUF + field(1, field(1, b"v1")) + field(2, field(1, field(1, b"a"))),
    "no apiVersion": PROTOBUF + field(1, field(2, b"Pod")) + field(2, field(1, field(1, b"a"))),
    "a length of 2^63": PROTOBUF + b"\x12" + b"\xff" * 8 + b"\x7f",
    "a varint that does not end": PROTOBUF + b"\x12" + b"\xff" * 100,
    "a hundred thousand groups": PROTOBUF + b"\x53" * 100_000,
}


BAD = BAD_CBOR | {f"JSON: {n}": b for n, b in BAD_JSON.items()} | {f"protobuf: {n}": b for n, b in BAD_PROTOBUF.items()}


@pytest.mark.parametrize("plaintext", BAD.values(), ids=BAD)
def test_what_is_no_object_is_refused_and_costs_no_time(plaintext: bytes) -> None:
    began = time.process_time()
    assert not is_kubernetes_object(plaintext)
    assert time.process_time() - began < 1


def test_a_tag_makes_nothing_but_its_content() -> None:
    """A hostile pattern is not compiled, a decimal not computed, a reference not followed."""
    for tag, content in ((35, item("(" * 1_000)), (4, item([10**9, 1])), (29, item(7)), (30, item([1, 0]))):
        assert is_kubernetes_object(CBOR + TWO + item("x") + head(6, tag) + content)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=30) | st.binary(max_size=30),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)  # fmt: skip


@settings(max_examples=100)
@given(st.dictionaries(st.text(max_size=12), VALUES, max_size=6), st.data())
def test_whatever_an_object_holds_it_is_recognised_in_both_forms(
    fields: dict[str, object], data: st.DataObject
) -> None:
    value = {**fields, **GOOD[-1]}
    assert is_kubernetes_object(as_json(value))
    whole = cbor(value)
    assert is_kubernetes_object(whole)
    assert not is_kubernetes_object(whole[: data.draw(st.integers(0, len(whole) - 1))])
