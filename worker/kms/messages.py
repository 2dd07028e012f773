"""The messages of the two KMS services, from descriptors at run time, and the methods' paths.

Follows kubernetes/kms apis/v1beta1/api.proto and apis/v2/api.proto. Each file has a descriptor pool of its own, since
upstream's `EncryptedObject`, another file, is in the package `v2`, too. No generated code, no reflection on demand.
"""

from __future__ import annotations

from functools import cache
from typing import Any, Literal

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Method = Literal["Version", "Status", "Decrypt", "Encrypt"]

V1BETA1 = "v1beta1"
V2 = "v2"

_Field = descriptor_pb2.FieldDescriptorProto
_MAP = "map"

# (name, number, type) of every field, by message. `map` is map<string, bytes>.
_MESSAGES: dict[str, dict[str, tuple[tuple[str, int, str], ...]]] = {
    V1BETA1: {
        "VersionRequest": (("version", 1, "string"),),
        "VersionResponse": (
            ("version", 1, "string"),
            ("runtime_name", 2, "string"),
            ("runtime_version", 3, "string"),
        ),
        "DecryptRequest": (("version", 1, "string"), ("cipher", 2, "bytes")),
        "DecryptResponse": (("plain", 1, "bytes"),),
        "EncryptRequest": (("version", 1, "string"), ("plain", 2, "bytes")),
        "EncryptResponse": (("cipher", 1, "bytes"),),
    },
    V2: {
        "StatusRequest": (),
        "StatusResponse": (("version", 1, "string"), ("healthz", 2, "string"), ("key_id", 3, "string")),
        "DecryptRequest": (
            ("ciphertext", 1, "bytes"),
            ("uid", 2, "string"),
            ("key_id", 3, "string"),
            ("annotations", 4, _MAP),
        ),
        "DecryptResponse": (("plaintext", 1, "bytes"),),
        "EncryptRequest": (("plaintext", 1, "bytes"), ("uid", 2, "string")),
        "EncryptResponse": (("ciphertext", 1, "bytes"), ("key_id", 2, "string"), ("annotations", 3, _MAP)),
    },
}


def path_of(package: str, method: Method) -> str:
    """Return the gRPC path of a method."""
    return f"/{package}.KeyManagementService/{method}"


def message(package: str, name: str) -> Any:
    """Return the class of a message: `message("v2", "StatusRequest")`."""
    return _classes(package)[name]


@cache
def _classes(package: str) -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name=f"kube_rewrap/kms/{package}.proto", package=package, syntax="proto3")
    for name, fields in _MESSAGES[package].items():
        entry = file.message_type.add(name=name)
        for field in fields:
            _add_field(entry, package, *field)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{package}.{name}"))
        for name in _MESSAGES[package]
    }


def _add_field(entry: descriptor_pb2.DescriptorProto, package: str, name: str, number: int, kind: str) -> None:
    added = entry.field.add(name=name, number=number, label=_Field.LABEL_OPTIONAL)
    if kind != _MAP:
        added.type = _Field.TYPE_STRING if kind == "string" else _Field.TYPE_BYTES
        return
    pair = entry.nested_type.add(name=f"{name.capitalize()}Entry")
    pair.options.map_entry = True
    pair.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
    pair.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_BYTES)
    added.label, added.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
    added.type_name = f".{package}.{entry.name}.{pair.name}"
