"""KMS values made by the format tables alone: shares no code with `kms_v1.py` and `kms_v2.py`."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import Sequence

from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7


def v1_body(wrapped: bytes, inner: bytes) -> bytes:
    return len(wrapped).to_bytes(2, "big") + wrapped + inner


def gcm(key: bytes, plaintext: bytes, etcd_key: bytes) -> bytes:
    nonce = os.urandom(12)
    return nonce + AESGCM(key).encrypt(nonce, plaintext, etcd_key)


def cbc(key: bytes, plaintext: bytes) -> bytes:
    iv, padder = os.urandom(16), PKCS7(128).padder()
    encryptor = Cipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return iv + encryptor.update(padder.update(plaintext) + padder.finalize()) + encryptor.finalize()


def type_1(seed: bytes, plaintext: bytes, etcd_key: bytes) -> bytes:
    info = os.urandom(32)
    return info + gcm(hmac.digest(seed, info + b"\x01", hashlib.sha256), plaintext, etcd_key)


def varint(number: int) -> bytes:
    low, rest = number & 0x7F, number >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def text(number: int, content: bytes) -> bytes:
    """A field of wire type 2: string, bytes or message."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def fields_of(
    data: bytes,
    key_id: bytes = b"kek-1",
    source: bytes = b"c291cmNl",
    annotations: Sequence[tuple[bytes, bytes]] = (),
    kind: int = 1,
) -> list[bytes]:
    """The fields of an EncryptedObject, each as its bytes on the wire."""
    entries = [text(4, text(1, name) + text(2, value)) for name, value in annotations]
    return [text(1, data), text(2, key_id), text(3, source), *entries, varint(5 << 3) + varint(kind)]


def v2_body(
    data: bytes,
    key_id: bytes = b"kek-1",
    source: bytes = b"c291cmNl",
    annotations: Sequence[tuple[bytes, bytes]] = (),
    kind: int = 1,
) -> bytes:
    return b"".join(fields_of(data, key_id, source, annotations, kind))
