"""KMS v1: each value carries its own data key, wrapped by the plugin. Pure: the plugin is asked elsewhere.

A value's body is the length of the wrapped key (uint16, big-endian), the wrapped key, and the inner value: nonce,
AES-GCM ciphertext and tag, with the etcd key as AAD. Before Kubernetes 1.25 the inner value was AES-CBC (IV,
ciphertext), which has no integrity protection: see `aescbc.py`. The stored bytes do not show which of the two it is,
nor which KEK wrapped the data key. Layout follows kubernetes/apiserver
pkg/storage/value/encrypt/envelope/envelope.go.
"""

from __future__ import annotations

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import SealError
from kube_rewrap.worker.providers.aescbc import AesCbc, Recogniser
from kube_rewrap.worker.providers.aesgcm import AesGcm
from kube_rewrap.worker.providers.cipher import MalformedError, OpenError, require_aes_key
from kube_rewrap.worker.wrapped import DataKey, Plugin, WrappedKey

NONCE_SIZE = AesGcm.nonce_size

_LENGTH = 2
_LONGEST = 0xFFFF


def split(body: bytes, plugin: Plugin) -> tuple[WrappedKey, bytes]:
    """Return the wrapped data key and the inner value of a stored value without its prefix. Raises MalformedError."""
    end = _LENGTH + int.from_bytes(body[:_LENGTH], "big")
    if len(body) < end:
        raise MalformedError("the value ends before its wrapped key does")
    return WrappedKey(plugin, body[_LENGTH:end]), body[end:]


def open_recognised(inner: bytes, secret: SecretBytes, aad: bytes, is_right: Recogniser) -> tuple[bytes, bool]:
    """Return the plaintext of an inner value, and whether AES-GCM opened it and not AES-CBC.

    `is_right` has accepted a plaintext of AES-CBC, not one of AES-GCM, which authenticates. Raises MalformedError for
    a data key that is no AES key, else OpenError, with the same message for all that opens by neither cipher.
    """
    require_aes_key(secret)
    try:
        return AesGcm(secret).open(inner, aad), True
    except OpenError:
        return AesCbc(secret).open_recognised(inner, is_right), False


def seal_with(nonce: bytes, plaintext: bytes, aad: bytes, data_key: DataKey) -> bytes:
    """Return the value to store, without its prefix. Raises SealError for a wrapped key that is too long.

    The data key must never have been used before.
    """
    wrapped = data_key.wrapped.wrapped
    if len(wrapped) > _LONGEST:
        raise SealError(f"the plugin wrapped a data key in {len(wrapped)} bytes; KMS v1 has room for {_LONGEST}")
    inner = AesGcm(data_key.secret).seal_with(nonce, plaintext, aad)
    return len(wrapped).to_bytes(_LENGTH, "big") + wrapped + inner
