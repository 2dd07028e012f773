"""KMS v2: each value carries a wrapped seed, from which the key of that one value is derived. Pure.

A value's body is the protobuf message `v2.EncryptedObject`. None of its fields but the ciphertext is authenticated:
anyone who can write to etcd can change the key id, and only a plugin that checks it notices.

Type 1 (seed), the only one that is written: `encryptedData` is info (32 random bytes), nonce (12), ciphertext and tag.
The key is one block of HKDF-Expand (SHA-256) over the seed and that info. Type 0 (data key), which Kubernetes 1.25 to
1.28 wrote: nonce, ciphertext and tag under the unwrapped key itself. In both, the cipher is AES-GCM and the etcd key
is the AAD. Follows kubernetes/apiserver pkg/storage/value/encrypt/envelope/kmsv2/envelope.go and
pkg/storage/value/encrypt/aes/aes_extended_nonce.go.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from functools import cache, lru_cache
from typing import Protocol, cast

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.kms_limits import LONGEST_KEY_ID, LONGEST_WRAPPED, fault_of_annotations, is_key_id
from kube_rewrap.worker.providers.aesgcm import AesGcm
from kube_rewrap.worker.providers.cipher import MalformedError, OpenError, require_aes_key
from kube_rewrap.worker.wrapped import DataKey, Plugin, SourceType, WrappedKey

_INFO = 32
_SHORTEST_SEED = 32
_KEY = 32

_KNOWN = 16
"""Wrapped keys that are kept: the objects of a page have few. One whose annotations reach the limit takes 1.4 MB."""

NONCE_SIZE = _INFO + AesGcm.nonce_size
"""Info and nonce."""


class _EncryptedObject(Protocol):
    encrypted_data: bytes
    key_id: str
    encrypted_dek_source: bytes
    annotations: MutableMapping[str, bytes]
    encrypted_dek_source_type: int

    def SerializeToString(self) -> bytes: ...  # noqa: N802 - protobuf's own name


@cache
def _message() -> type[Message]:
    """Build the class of `EncryptedObject` in a descriptor pool of its own."""
    file = descriptor_pb2.FileDescriptorProto(name="kube_rewrap/kms_v2.proto", package="v2", syntax="proto3")
    kind = descriptor_pb2.FieldDescriptorProto
    message = file.message_type.add(name="EncryptedObject")
    entry = message.nested_type.add(name="AnnotationsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=kind.TYPE_STRING, label=kind.LABEL_OPTIONAL)
    entry.field.add(name="value", number=2, type=kind.TYPE_BYTES, label=kind.LABEL_OPTIONAL)
    for name, number, type_, label in (
        ("encrypted_data", 1, kind.TYPE_BYTES, kind.LABEL_OPTIONAL),
        ("key_id", 2, kind.TYPE_STRING, kind.LABEL_OPTIONAL),
        ("encrypted_dek_source", 3, kind.TYPE_BYTES, kind.LABEL_OPTIONAL),
        ("annotations", 4, kind.TYPE_MESSAGE, kind.LABEL_REPEATED),
        # An enum upstream. An open one has the wire format of int32, and keeps unknown numbers, too.
        ("encrypted_dek_source_type", 5, kind.TYPE_INT32, kind.LABEL_OPTIONAL),
    ):
        added = message.field.add(name=name, number=number, type=type_, label=label)
        if type_ == kind.TYPE_MESSAGE:
            added.type_name = ".v2.EncryptedObject.AnnotationsEntry"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("v2.EncryptedObject"))


def split(body: bytes, plugin: Plugin) -> tuple[WrappedKey, bytes]:
    """Return the wrapped key and the encrypted data of a stored value without its prefix.

    Raises MalformedError for a value that upstream's `ValidateEncryptedObject` refuses.
    """
    try:
        message = cast("_EncryptedObject", _message().FromString(body))
    except (DecodeError, UnicodeDecodeError):  # the latter by protobuf without its extension module
        raise MalformedError("the value is no EncryptedObject of KMS v2") from None
    names = sorted(message.annotations)
    annotations = tuple(zip(names, map(message.annotations.__getitem__, names), strict=True))
    if not message.encrypted_data:
        raise MalformedError("the encrypted data is empty")
    kind = message.encrypted_dek_source_type
    wrapped = _wrapped(plugin, message.encrypted_dek_source, message.key_id, annotations, kind)
    return wrapped, message.encrypted_data


@lru_cache(maxsize=_KNOWN)
def _wrapped(
    plugin: Plugin, source: bytes, key_id: str, annotations: tuple[tuple[str, bytes], ...], kind: int
) -> WrappedKey:
    """Return the wrapped key of a value; cached, for most values have it in common. Raises MalformedError."""
    if (fault := _fault(source, key_id, annotations, kind)) is not None:
        raise MalformedError(fault)
    return WrappedKey(plugin, source, key_id, annotations, SourceType(kind))


def _fault(source: bytes, key_id: str, annotations: tuple[tuple[str, bytes], ...], kind: int) -> str | None:
    """Return what upstream refuses before it asks the plugin; the limits themselves pass."""
    rules = (
        (is_key_id(key_id), f"the key id is empty, or longer than {LONGEST_KEY_ID} bytes"),
        (
            1 <= len(source) <= LONGEST_WRAPPED["v2"],
            f"the wrapped key is empty, or longer than {LONGEST_WRAPPED['v2']} bytes",
        ),
        (kind in set(SourceType), "the type of the wrapped key is unknown"),
    )
    return next((fault for is_met, fault in rules if not is_met), fault_of_annotations(annotations) or None)


def open_with(secret: SecretBytes, source_type: SourceType, sealed: bytes, aad: bytes) -> bytes:
    """Return the authenticated plaintext of the encrypted data.

    Raises MalformedError for an unwrapped key of a wrong length, else OpenError.
    """
    if source_type is SourceType.AES_GCM_KEY:
        require_aes_key(secret)
        return AesGcm(secret).open(sealed, aad)
    if len(secret) < _SHORTEST_SEED:
        raise MalformedError(f"the plugin returned a seed of {len(secret)} bytes, fewer than {_SHORTEST_SEED}")
    if len(sealed) < _INFO:
        raise OpenError("the encrypted data is too short for its info")
    return AesGcm(_derived(secret, sealed[:_INFO])).open(sealed[_INFO:], aad)


def seal_with(nonce: bytes, plaintext: bytes, aad: bytes, data_key: DataKey) -> bytes:
    """Return the value to store, without its prefix. `nonce` is info and nonce, both random.

    The limits of `split` are not checked here: `Chain.seal` splits what it sealed.
    """
    info, wrapped = nonce[:_INFO], data_key.wrapped
    message = cast("_EncryptedObject", _message()())
    message.encrypted_data = info + AesGcm(_derived(data_key.secret, info)).seal_with(nonce[_INFO:], plaintext, aad)
    message.key_id = wrapped.key_id
    message.encrypted_dek_source = wrapped.wrapped
    for name, value in wrapped.annotations:
        message.annotations[name] = value
    message.encrypted_dek_source_type = SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED
    return message.SerializeToString()


def _derived(seed: SecretBytes, info: bytes) -> SecretBytes:
    return SecretBytes(HKDFExpand(SHA256(), _KEY, info).derive(seed.reveal()))
