"""Makes aioetcd3 1.13 run with present protobuf, grpc and Python, without a patch of the package.

aioetcd3 was released in 2020. Its generated modules call a descriptor API that protobuf removed, and
its `Client` needs aiogrpc and `asyncio.Event(loop=...)`. Its message definitions and its stubs still work.
So this module takes the serialized FileDescriptorProto out of each generated module without importing it, adds the
fields that etcd has gained since, builds the message classes in a private descriptor pool, and puts modules with
these classes into `sys.modules` under the names that the stubs import. It uses public protobuf API only, and a
private pool can't clash with another `rpc.proto`.

See docs/adr/0001-aioetcd3.md for the reasons and the costs.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
import sys
from functools import cache
from pathlib import Path
from types import ModuleType

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FileDescriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper

from kube_rewrap.worker.errors import PermanentError

_PACKAGE = "aioetcd3._etcdv3"
_GENERATED = ("kv_pb2", "auth_pb2", "rpc_pb2")  # in the order of their imports

_Field = descriptor_pb2.FieldDescriptorProto
_INT64, _BOOL, _STRING = _Field.TYPE_INT64, _Field.TYPE_BOOL, _Field.TYPE_STRING

# etcd/api/etcdserverpb/rpc.proto, fields added after aioetcd3's copy of it (etcd 3.2).
_NEWER_FIELDS: dict[str, tuple[tuple[str, int, _Field.Type.ValueType, bool], ...]] = {
    "StatusResponse": (
        ("raftAppliedIndex", 7, _Field.TYPE_UINT64, False),
        ("errors", 8, _STRING, True),
        ("dbSizeInUse", 9, _INT64, False),
        ("isLearner", 10, _BOOL, False),
        ("dbSizeQuota", 12, _INT64, False),
    ),
    "WatchCreateRequest": (("fragment", 8, _BOOL, False),),
    "WatchResponse": (("fragment", 7, _BOOL, False),),
}

# Newer messages, all without fields: by the message that has one as a field, in its first oneof.
_NEWER_MESSAGES = {"WatchRequest": ("progress_request", 3, "WatchProgressRequest")}


class IncompatibleClientError(PermanentError):
    """The installed aioetcd3 is not the version that this module supports."""


@cache
def load() -> tuple[ModuleType, ModuleType]:
    """Return aioetcd3's messages (`rpc_pb2`) and stubs (`rpc_pb2_grpc`).

    Raises IncompatibleClientError when aioetcd3 is missing, or its modules are not as expected.
    """
    folder = _generated_folder()
    pool = descriptor_pool.DescriptorPool()
    package = ModuleType(_PACKAGE)
    package.__path__ = [str(folder)]
    sys.modules.setdefault(_PACKAGE, package)
    for name in _GENERATED:
        descriptor = _file_descriptor(folder / f"{name}.py")
        pool.Add(descriptor)
        sys.modules[f"{_PACKAGE}.{name}"] = _module(f"{_PACKAGE}.{name}", pool.FindFileByName(descriptor.name))
    messages = sys.modules[f"{_PACKAGE}.rpc_pb2"]
    return messages, importlib.import_module(f"{_PACKAGE}.rpc_pb2_grpc")


def _generated_folder() -> Path:
    spec = importlib.util.find_spec("aioetcd3")
    if spec is None or not spec.submodule_search_locations:
        raise IncompatibleClientError("aioetcd3 is not installed")
    return Path(spec.submodule_search_locations[0]) / "_etcdv3"


def _file_descriptor(path: Path) -> descriptor_pb2.FileDescriptorProto:
    """Read the FileDescriptorProto out of a generated module's source, without running it."""
    try:
        tree = ast.parse(path.read_text(encoding="utf-8"))
    except (OSError, SyntaxError) as error:
        raise IncompatibleClientError(f"aioetcd3's {path.name} can't be read: {error}") from error
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == "serialized_pb" and isinstance(node.value, ast.Call):
            literal = ast.literal_eval(node.value.args[0])
            descriptor = descriptor_pb2.FileDescriptorProto.FromString(literal.encode("latin-1"))
            _add_newer_fields(descriptor)
            return descriptor
    version = importlib.metadata.version("aioetcd3")
    raise IncompatibleClientError(f"aioetcd3 {version}: no descriptor in {path.name}; version 1.13 is needed")


def _add_newer_fields(file: descriptor_pb2.FileDescriptorProto) -> None:
    for message in file.message_type:
        for name, number, kind, repeated in _NEWER_FIELDS.get(message.name, ()):
            label = _Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL
            message.field.add(name=name, number=number, type=kind, label=label)
    for message in list(file.message_type):
        if message.name in _NEWER_MESSAGES:
            field, number, added = _NEWER_MESSAGES[message.name]
            file.message_type.add(name=added)
            type_name = f".{file.package}.{added}"
            message.field.add(
                name=field,
                number=number,
                type=_Field.TYPE_MESSAGE,
                type_name=type_name,
                oneof_index=0,
                label=_Field.LABEL_OPTIONAL,
            )


def _module(name: str, file: FileDescriptor) -> ModuleType:
    """Return a module that holds a file's messages and enum values where generated code keeps them."""
    module = ModuleType(name)
    for message, descriptor in file.message_types_by_name.items():
        setattr(module, message, message_factory.GetMessageClass(descriptor))
    for enum, enum_descriptor in file.enum_types_by_name.items():
        setattr(module, enum, EnumTypeWrapper(enum_descriptor))
        for value in enum_descriptor.values:
            setattr(module, value.name, value.number)
    return module
