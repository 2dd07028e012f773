"""Decodes identity leases, of which each kube-apiserver keeps one in etcd. Pure.

Every kube-apiserver (v1.26 and later) renews a Lease `apiserver-<hash of its host name>` in kube-system
every ten seconds; it is valid for an hour. kubernetes/apiserver pkg/server/options/encryptionconfig/metrics
identifies the replica by the SHA-256 of that name. Field numbers: k8s.io/api/coordination/v1/generated.proto,
k8s.io/apimachinery pkg/runtime and pkg/apis/meta/v1 generated.proto.

Not handled: leases that are stored encrypted, because an entry such as `*.*` covers them. They count as unreadable,
and the number of kube-apiservers is then not known.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from kube_rewrap.worker.etcd.ranges import key_text

_PROTOBUF = b"k8s\x00"
_ENCRYPTED = b"k8s:enc:"
_LARGEST = 2**20
_KIND = ("coordination.k8s.io/v1", "Lease")
_IDENTITY = "apiserver.kubernetes.io/identity"
_HOSTNAME = "kubernetes.io/hostname"
_OURS = "kube-apiserver"

_Field = descriptor_pb2.FieldDescriptorProto
# The fields that are read, by number. `raw` is bytes in upstream's file, and the bytes of a Lease here; an entry is one
# of a map. Other fields are checked for form only.
_PROTO = {
    "TypeMeta": {1: ("api_version", "string"), 2: ("kind", "string")},
    "Entry": {1: ("key", "string"), 2: ("value", "string")},
    "ObjectMeta": {1: ("name", "string"), 11: ("labels", "Entry"), 12: ("annotations", "Entry")},
    "MicroTime": {1: ("seconds", "int64"), 2: ("nanos", "int32")},
    "LeaseSpec": {2: ("lease_duration_seconds", "int32"), 4: ("renew_time", "MicroTime")},
    "Lease": {1: ("metadata", "ObjectMeta"), 2: ("spec", "LeaseSpec")},
    "Unknown": {1: ("type_meta", "TypeMeta"), 2: ("raw", "Lease")},
}


@dataclass(frozen=True, slots=True)
class IdentityLease:
    """One kube-apiserver's lease. `renewed` in seconds since 1970 by its clock; `seconds` is how long it is valid."""

    name: str
    hostname: str
    renewed: float
    seconds: int

    @property
    def id_hash(self) -> str:
        """The label `apiserver_id_hash` of its metrics."""
        return f"sha256:{hashlib.sha256(self.name.encode()).hexdigest()}"

    def is_live(self, now: float) -> bool:
        """Whether it has not expired."""
        return self.renewed + self.seconds >= now


@dataclass(frozen=True, slots=True)
class Leases:
    """The identity leases in etcd: those that were decoded, and a sentence for each that was not."""

    found: tuple[IdentityLease, ...] = ()
    unreadable: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Stored:
    """The fields of a Lease that are used, decoded from protobuf or JSON."""

    kind: tuple[str, str]
    name: str
    labels: dict[str, str]
    annotations: dict[str, str]
    renewed: float
    seconds: int


def decode_lease(key: bytes, value: bytes) -> IdentityLease | None:
    """Return a stored lease, None for a component other than kube-apiserver. Raises ValueError for no valid lease."""
    try:
        stored = _decode(value)
    except ValueError as error:
        raise ValueError(f"{key_text(key)}: {error}") from None
    if stored.kind != _KIND or stored.name != key_text(key).rpartition("/")[2]:
        raise ValueError(f"{key_text(key)}: it is not a Lease of the name in its etcd key")
    # A lease without the label (no release writes one) counts as a kube-apiserver: a replica more to wait for is safe.
    if stored.labels.get(_IDENTITY, _OURS) != _OURS:
        return None
    if stored.renewed <= 0 or stored.seconds <= 0:
        raise ValueError(f"{key_text(key)}: its renewTime or duration is not positive")
    hostname = stored.labels.get(_HOSTNAME) or stored.annotations.get(_HOSTNAME, "")
    return IdentityLease(stored.name, hostname, stored.renewed, stored.seconds)


def _decode(value: bytes) -> _Stored:
    if value.startswith(_ENCRYPTED):
        raise ValueError("it is stored encrypted, so it can't be read here")
    if len(value) > _LARGEST:
        raise ValueError("it is too large for a lease")
    if value.startswith(_PROTOBUF):
        return _from_protobuf(value[len(_PROTOBUF) :])
    if value.startswith(b"{"):
        return _from_json(value)
    raise ValueError("it is neither protobuf nor JSON")


def _from_protobuf(unknown: bytes) -> _Stored:
    stored: Any = None
    with suppress(DecodeError):
        stored = _envelope().FromString(unknown)
    if stored is None:
        raise ValueError("it is not a Lease in protobuf")
    kind, metadata, spec = stored.type_meta, stored.raw.metadata, stored.raw.spec
    return _Stored(
        (kind.api_version, kind.kind),
        metadata.name,
        {entry.key: entry.value for entry in metadata.labels},
        {entry.key: entry.value for entry in metadata.annotations},
        spec.renew_time.seconds + spec.renew_time.nanos / 1e9,
        spec.lease_duration_seconds,
    )


@cache
def _envelope() -> type[Message]:
    """Build the class of the envelope in a descriptor pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="kube_rewrap/lease.proto", package="lease", syntax="proto3")
    for message, fields in _PROTO.items():
        added = file.message_type.add(name=message)
        for number, (name, kind) in fields.items():
            label = _Field.LABEL_REPEATED if kind == "Entry" else _Field.LABEL_OPTIONAL
            field = added.field.add(name=name, number=number, label=label)
            if kind in _PROTO:
                field.type, field.type_name = _Field.TYPE_MESSAGE, f".lease.{kind}"
            else:
                field.type = _Field.Type.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("lease.Unknown"))


def _from_json(value: bytes) -> _Stored:
    try:
        document = json.loads(value)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    match document:
        case {
            "apiVersion": str(version),
            "kind": str(kind),
            "metadata": {"name": str(name), **metadata},
            "spec": {"renewTime": str(renewed), "leaseDurationSeconds": int(seconds)},
        }:
            labels, annotations = _texts(metadata.get("labels")), _texts(metadata.get("annotations"))
            return _Stored((version, kind), name, labels, annotations, _seconds(renewed), seconds)
    raise ValueError("it is not a Lease with name, renewTime and duration")


def _texts(value: object) -> dict[str, str]:
    pairs = value.items() if isinstance(value, dict) else ()
    return {key: text for key, text in pairs if isinstance(key, str) and isinstance(text, str)}


def _seconds(time: str) -> float:
    parsed = datetime.fromisoformat(time)
    if parsed.tzinfo is None:
        raise ValueError("its renewTime has no time zone")
    return parsed.timestamp()
