"""The recogniser: decides whether bytes are a Kubernetes object.

It is the last check before rewrap seals bytes again, since `aescbc` can open a value with the wrong key and return
garbage. It knows three forms (kubernetes/apimachinery pkg/runtime/serializer): protobuf in an `Unknown` envelope,
JSON, and CBOR. It parses the whole object, requires its apiVersion, kind and metadata, and keeps nothing.

Not handled: whether the object is valid for its kind, or belongs under its etcd key. A flipped bit inside the opaque
data of an `aescbc` value is undetectable.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Mapping
from functools import cache, lru_cache
from typing import Protocol, cast

import cbor2
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

PROTOBUF = b"k8s\x00"
CBOR = b"\xd9\xd9\xf7"

_API_VERSION = re.compile(r"[a-z0-9.-]{1,253}(/[a-z0-9]{1,63})?")
_KIND = re.compile(r"[A-Za-z][A-Za-z0-9-]{0,62}")


def is_kubernetes_object(plaintext: bytes) -> bool:
    """Whether the bytes are one whole object as kube-apiserver serializes it."""
    if plaintext.startswith(PROTOBUF):
        return _is_protobuf(plaintext)
    if plaintext.startswith(b"{"):
        return _is_json(plaintext)
    return plaintext.startswith(CBOR) and _is_cbor(plaintext)


@lru_cache(maxsize=1024)
def _names_its_kind(api_version: str, kind: str) -> bool:
    return _API_VERSION.fullmatch(api_version) is not None and _KIND.fullmatch(kind) is not None


# k8s.io/apimachinery: Unknown and TypeMeta from pkg/runtime/generated.proto, ObjectMeta from
# pkg/apis/meta/v1/generated.proto. There `raw` is bytes. In every kind these bytes are a message whose field 1 is
# the metadata; declared as such a message here, one parse checks the whole. The parser checks other fields as
# unknown ones, for their wire format only.
_PROTO: dict[str, tuple[tuple[str, int, str], ...]] = {
    "TypeMeta": (("api_version", 1, "string"), ("kind", 2, "string")),
    "ObjectMeta": (("name", 1, "string"), ("namespace", 3, "string"), ("uid", 5, "string")),
    "Object": (("metadata", 1, "ObjectMeta"),),
    "Unknown": (("type_meta", 1, "TypeMeta"), ("raw", 2, "Object"), ("encoding", 3, "string"), ("type", 4, "string")),
}


class _TypeMeta(Protocol):
    api_version: str
    kind: str


class _Part(Protocol):
    def HasField(self, name: str) -> bool: ...  # noqa: N802 - protobuf's own name


class _Unknown(_Part, Protocol):
    type_meta: _TypeMeta
    raw: _Part


@cache
def _envelope() -> type[Message]:
    """Build the class of the envelope in a descriptor pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="kube_rewrap/object.proto", package="object", syntax="proto3")
    field_type = descriptor_pb2.FieldDescriptorProto
    for message, fields in _PROTO.items():
        entry = file.message_type.add(name=message)
        for name, number, kind in fields:
            added = entry.field.add(name=name, number=number, label=field_type.LABEL_OPTIONAL)
            added.type = field_type.TYPE_STRING if kind == "string" else field_type.TYPE_MESSAGE
            if kind != "string":
                added.type_name = f".object.{kind}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("object.Unknown"))


def _is_protobuf(plaintext: bytes) -> bool:
    try:
        envelope = cast("_Unknown", _envelope().FromString(plaintext[len(PROTOBUF) :]))
    except DecodeError:
        return False
    whole = envelope.HasField("raw") and envelope.raw.HasField("metadata")
    return whole and _names_its_kind(envelope.type_meta.api_version, envelope.type_meta.kind)


def _is_json(plaintext: bytes) -> bool:
    try:
        # Decoded here as UTF-8: `loads` would accept UTF-16 and UTF-32 bytes, too.
        value = json.loads(plaintext.decode(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        return False
    return _is_object(value)


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _is_cbor(plaintext: bytes) -> bool:
    # Without the tag in front, which the caller has checked: inside a tag cbor2 returns its immutable types.
    stream = io.BytesIO(plaintext[len(CBOR) :])
    decoder = cbor2.CBORDecoder(stream, semantic_decoders=_TAGS, allow_duplicate_keys=False, strict_hashable_types=True)
    try:
        value = decoder.decode()
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError):
        return False
    if stream.read(1) or not isinstance(value, Mapping):
        return False
    # kube-apiserver writes Go strings as CBOR byte strings (KEP-4222), and reads text strings all the same.
    named = {_text(key): _text(item) for key, item in value.items()}
    return len(named) == len(value) and _is_object(named)


def _content(value: object, _immutable: object) -> object:
    return value


# The tags from which cbor2 would build objects (dates, decimals, regular expressions, references, …). kube-apiserver
# writes none of them, and any client of etcd could: so the decoder returns their content only.
_TAGS = dict.fromkeys(
    (0, 1, 2, 3, 4, 5, 25, 28, 29, 30, 35, 36, 37, 52, 54, 100, 256, 258, 260, 261, 1004, 43000, 55799), _content
)


def _is_object(value: object) -> bool:
    match value:
        case {"apiVersion": str(api_version), "kind": str(kind), "metadata": Mapping()}:
            return _names_its_kind(api_version, kind)
    return False


def _text(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
