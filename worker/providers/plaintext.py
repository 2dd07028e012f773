"""The recogniser: whether bytes are a Kubernetes object.

The last question before bytes are sealed again, since `aescbc` can open with the wrong key and
yield garbage. Three forms are known (kubernetes/apimachinery pkg/runtime/serializer): protobuf in
an `Unknown` envelope, JSON, and CBOR. Each is parsed whole and must say its kind; nothing is kept.

Not handled: whether the object is valid for its kind, or the one that belongs under its etcd key.
A flipped bit inside the opaque data of an `aescbc` value can't be noticed by anyone.
"""

from __future__ import annotations

import io
import json
import re
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


class _TypeMeta(Protocol):
    api_version: str
    kind: str


class _Unknown(Protocol):
    type_meta: _TypeMeta
    raw: bytes


@cache
def _messages() -> tuple[type[Message], type[Message]]:
    """Build the two messages that are needed: the envelope, and what all objects have in common.

    Field numbers: k8s.io/apimachinery pkg/runtime/generated.proto (Unknown, TypeMeta) and
    pkg/apis/meta/v1/generated.proto (ObjectMeta: name 1, namespace 3, uid 5, resourceVersion 6).
    """
    file = descriptor_pb2.FileDescriptorProto(name="kube_rewrap/object.proto", package="object", syntax="proto3")
    field_type = descriptor_pb2.FieldDescriptorProto

    def message(name: str, *fields: tuple[str, int, str]) -> None:
        entry = file.message_type.add(name=name)
        for field, number, kind in fields:
            typed = {"string": field_type.TYPE_STRING, "bytes": field_type.TYPE_BYTES}.get(
                kind, field_type.TYPE_MESSAGE
            )
            added = entry.field.add(name=field, number=number, type=typed, label=field_type.LABEL_OPTIONAL)
            if typed == field_type.TYPE_MESSAGE:
                added.type_name = f".object.{kind}"

    message("TypeMeta", ("api_version", 1, "string"), ("kind", 2, "string"))
    message(
        "Unknown",
        ("type_meta", 1, "TypeMeta"),
        ("raw", 2, "bytes"),
        ("contentEncoding", 3, "string"),
        ("contentType", 4, "string"),
    )
    message(
        "ObjectMeta", ("name", 1, "string"), ("namespace", 3, "string"), ("uid", 5, "string"), ("version", 6, "string")
    )
    message("Object", ("metadata", 1, "ObjectMeta"))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    unknown, common = (
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"object.{name}")) for name in ("Unknown", "Object")
    )
    return unknown, common


def _is_protobuf(plaintext: bytes) -> bool:
    unknown, common = _messages()
    try:
        envelope = cast("_Unknown", unknown.FromString(plaintext[len(PROTOBUF) :]))
        common.FromString(envelope.raw)
    except DecodeError:
        return False
    return _names_its_kind(envelope.type_meta.api_version, envelope.type_meta.kind)


def _is_json(plaintext: bytes) -> bool:
    try:
        value = json.loads(plaintext)
    except (ValueError, RecursionError):
        return False
    return _is_object(value)


def _is_cbor(plaintext: bytes) -> bool:
    stream = io.BytesIO(plaintext)
    try:
        value = cbor2.CBORDecoder(stream).decode()
    except (cbor2.CBORDecodeError, ValueError, TypeError, RecursionError, OverflowError):
        return False
    if stream.read(1) or not isinstance(value, dict):
        return False
    # kube-apiserver writes Go strings as CBOR byte strings (KEP-4222).
    return _is_object({_text(key): _text(item) for key, item in value.items()})


def _is_object(value: object) -> bool:
    match value:
        case {"apiVersion": str(api_version), "kind": str(kind), "metadata": dict()}:
            return _names_its_kind(api_version, kind)
    return False


def _text(value: object) -> object:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
