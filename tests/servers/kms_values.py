"""KMS v2 as kube-apiserver does it, made without the code under test: values under `k8s:enc:kms:v2:<name>:`.

Follows kubernetes/apiserver pkg/storage/value/encrypt/envelope/kmsv2. The plugin is one whose Encrypt is base64 and
whose Decrypt is the inverse, as in the recording, so that no call is needed here to wrap or unwrap a seed. Only
`named_key_id` asks a plugin.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import grpc
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

_INFO, _NONCE = 32, 12
_SEED_TYPE = 1


@dataclass(slots=True)
class KmsKey:
    """A KMS v2 provider of one kube-apiserver: its seed, and the KEK that its plugin names. Used as `Key` is."""

    name: str
    endpoint: str
    key_id: str = "kek-1"
    seed: bytes = field(default_factory=lambda: os.urandom(32), repr=False)
    provider: str = "kms"

    @property
    def prefix(self) -> bytes:
        return f"k8s:enc:kms:v2:{self.name}:".encode()

    @property
    def key_id_hash(self) -> str:
        return f"sha256:{hashlib.sha256(self.key_id.encode()).hexdigest()}"

    @property
    def fingerprint(self) -> str:
        return self.key_id_hash[7:23]

    def turn(self, key_id: str) -> None:
        """The plugin names another KEK: a new seed is wrapped by it."""
        self.key_id, self.seed = key_id, os.urandom(32)

    def seal(self, etcd_key: str, plaintext: bytes) -> bytes:
        info, nonce = os.urandom(_INFO), os.urandom(_NONCE)
        data = info + nonce + AESGCM(_derived(self.seed, info)).encrypt(nonce, plaintext, etcd_key.encode())
        fields = ((1, data), (2, self.key_id.encode()), (3, base64.b64encode(self.seed)))
        return self.prefix + b"".join(_field(number, value) for number, value in fields) + bytes([5 << 3, _SEED_TYPE])

    def open(self, etcd_key: str, stored: bytes) -> bytes | None:
        """The plaintext, whatever KEK it is under; None where this is not the provider."""
        if not stored.startswith(self.prefix):
            return None
        found = dict(_fields(stored[len(self.prefix) :]))
        data, seed = found[1], base64.b64decode(found[3])
        info, nonce = data[:_INFO], data[_INFO : _INFO + _NONCE]
        try:
            return AESGCM(_derived(seed, info)).decrypt(nonce, data[_INFO + _NONCE :], etcd_key.encode())
        except InvalidTag:
            return None

    def is_current(self, stored: bytes) -> bool:
        """Whether a value is under the KEK that the plugin names now."""
        return stored.startswith(self.prefix) and dict(_fields(stored[len(self.prefix) :]))[2] == self.key_id.encode()

    def block(self) -> dict[str, object]:
        """The provider as it stands in an EncryptionConfiguration."""
        return {"kms": {"apiVersion": "v2", "name": self.name, "endpoint": self.endpoint, "timeout": "3s"}}


@dataclass(frozen=True, slots=True)
class KmsStanza:
    """A KMS provider of either version as it stands in an EncryptionConfiguration, and the keys in its values."""

    name: str
    endpoint: str
    version: str = "v2"

    def block(self) -> dict[str, object]:
        stanza = {"apiVersion": self.version, "name": self.name, "endpoint": self.endpoint, "timeout": "3s"}
        return {"kms": stanza}

    def wrapped(self, stored: bytes) -> bytes:
        """The wrapped data key or seed in a value. Raises AssertionError for the value of another provider."""
        prefix = f"k8s:enc:kms:{self.version}:{self.name}:".encode()
        assert stored.startswith(prefix), stored[:40]
        body = stored[len(prefix) :]
        return dict(_fields(body))[3] if self.version == "v2" else body[2 : 2 + int.from_bytes(body[:2], "big")]


@dataclass(frozen=True, slots=True)
class KmsV1Key:
    """A KMS v1 provider, whose plugin wraps in base64: a new data key for each value. Used as `Key` is."""

    name: str
    endpoint: str
    provider: str = "kms"
    fingerprint: str = "v1"

    @property
    def prefix(self) -> bytes:
        return f"k8s:enc:kms:v1:{self.name}:".encode()

    def seal(self, etcd_key: str, plaintext: bytes) -> bytes:
        data_key, nonce = os.urandom(32), os.urandom(_NONCE)
        wrapped = base64.b64encode(data_key)
        inner = nonce + AESGCM(data_key).encrypt(nonce, plaintext, etcd_key.encode())
        return self.prefix + len(wrapped).to_bytes(2, "big") + wrapped + inner

    def open(self, etcd_key: str, stored: bytes) -> bytes | None:
        if not stored.startswith(self.prefix):
            return None
        body = stored[len(self.prefix) :]
        end = 2 + int.from_bytes(body[:2], "big")
        data_key, inner = base64.b64decode(body[2:end]), body[end:]
        try:
            return AESGCM(data_key).decrypt(inner[:_NONCE], inner[_NONCE:], etcd_key.encode())
        except InvalidTag:
            return None

    def block(self) -> dict[str, object]:
        """The provider as it stands in an EncryptionConfiguration."""
        return {"kms": {"apiVersion": "v1", "name": self.name, "endpoint": self.endpoint}}


def kms_key(content: Mapping[str, str]) -> KmsKey | KmsV1Key:
    """A KMS provider of a file, with the KEK that its plugin names, and a new seed. Raises grpc.RpcError."""
    if content.get("apiVersion") == "v2":
        return KmsKey(content["name"], content["endpoint"], named_key_id(content["endpoint"]))
    return KmsV1Key(content["name"], content["endpoint"])


def named_key_id(endpoint: str, timeout: float = 3.0) -> str:
    """The key id in the answer of a plugin's Status. Raises grpc.RpcError."""
    with grpc.insecure_channel(endpoint.replace("unix://", "unix:"), [("grpc.default_authority", "localhost")]) as to:
        status = to.unary_unary("/v2.KeyManagementService/Status", lambda body: body, lambda body: body)
        return dict(_fields(status(b"", timeout=timeout)))[3].decode()


def _derived(seed: bytes, info: bytes) -> bytes:
    """One block of HKDF-Expand with SHA-256."""
    return hmac.digest(seed, info + b"\x01", "sha256")


def _field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + _varint(rest) if rest else bytes([low])


def _fields(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message with one-byte tags: bytes, or the varint's own bytes."""
    at = 0
    while at < len(message):
        number, kind = message[at] >> 3, message[at] & 7
        size, at = _read_varint(message, at + 1)
        if kind == 0:
            yield number, bytes([size])
        else:
            yield number, message[at : at + size]
            at += size


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value, shift = 0, 0
    while message[at] & 0x80:
        value |= (message[at] & 0x7F) << shift
        at, shift = at + 1, shift + 7
    return value | message[at] << shift, at + 1
