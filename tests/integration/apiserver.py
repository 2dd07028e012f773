"""What kube-apiserver does to etcd, made without the code under test: it seals and opens with upstream's layouts.

Values follow kubernetes/apiserver pkg/storage/value/encrypt. Tests prepare registries with it, write into them while a
run is at work, and judge by it what the run left behind.
"""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from kube_rewrap.config.encryption.secret import SecretBytes
from tests.servers.gateway import Gateway, KeyValue
from tests.servers.kms_values import KmsKey, KmsV1Key

_BLOCK = 16
_GCM_NONCE = 12


@dataclass(frozen=True, slots=True)
class Key:
    """One key of one provider, `identity` included. `fingerprint` is the product's name for it."""

    provider: str
    name: str = ""
    material: bytes = field(default=b"", repr=False)

    @classmethod
    def new(cls, provider: str, name: str, size: int = 32) -> Key:
        return cls(provider, name, os.urandom(size))

    @property
    def prefix(self) -> bytes:
        return b"" if self.provider == "identity" else f"k8s:enc:{self.provider}:v1:{self.name}:".encode()

    @property
    def fingerprint(self) -> str:
        return "-" if self.provider == "identity" else SecretBytes(self.material).fingerprint(self.provider)

    def seal(self, etcd_key: str, plaintext: bytes) -> bytes:
        """The value as kube-apiserver stores it."""
        match self.provider:
            case "identity":
                return plaintext
            case "aesgcm":
                nonce = _nonce(_GCM_NONCE)
                return self.prefix + nonce + AESGCM(self.material).encrypt(nonce, plaintext, etcd_key.encode())
            case "aescbc":
                return self.prefix + _cbc_seal(self.material, plaintext)
            case "secretbox":
                return self.prefix + bytes(SecretBox(self.material).encrypt(plaintext, _nonce(SecretBox.NONCE_SIZE)))
        raise AssertionError(self.provider)

    def open(self, etcd_key: str, stored: bytes) -> bytes | None:
        """The plaintext; None where this is not the key."""
        if not stored.startswith(self.prefix):
            return None
        body = stored[len(self.prefix) :]
        match self.provider:
            case "identity":
                return None if stored.startswith(b"k8s:enc:") else stored
            case "aesgcm":
                return _gcm_open(self.material, body, etcd_key)
            case "aescbc":
                return _cbc_open(self.material, body)
            case "secretbox":
                return _box_open(self.material, body)
        raise AssertionError(self.provider)

    def block(self) -> dict[str, object]:
        """The provider as it stands in an EncryptionConfiguration."""
        if self.provider == "identity":
            return {"identity": {}}
        secret = base64.b64encode(self.material).decode()
        return {self.provider: {"keys": [{"name": self.name, "secret": secret}]}}


AnyKey = Key | KmsKey | KmsV1Key
IDENTITY = Key("identity")


def _nonce(size: int) -> bytes:
    """Random bytes of which the first is not ASCII: what a message shows of a value then ends with its prefix."""
    first, *rest = os.urandom(size)
    return bytes([first | 0x80, *rest])


def _cbc_seal(material: bytes, plaintext: bytes) -> bytes:
    iv, fill = _nonce(_BLOCK), _BLOCK - len(plaintext) % _BLOCK
    encryptor = Cipher(AES(material), CBC(iv)).encryptor()
    return iv + encryptor.update(plaintext + bytes([fill]) * fill) + encryptor.finalize()


def _cbc_open(material: bytes, body: bytes) -> bytes | None:
    """None where the padding is wrong; garbage, with a wrong key, once in 256: tests compare what comes out."""
    decryptor = Cipher(AES(material), CBC(body[:_BLOCK])).decryptor()
    padded = decryptor.update(body[_BLOCK:]) + decryptor.finalize()
    fill = padded[-1]
    return padded[:-fill] if 0 < fill <= _BLOCK and padded.endswith(bytes([fill]) * fill) else None


def _gcm_open(material: bytes, body: bytes, etcd_key: str) -> bytes | None:
    try:
        return AESGCM(material).decrypt(body[:_GCM_NONCE], body[_GCM_NONCE:], etcd_key.encode())
    except InvalidTag:
        return None


def _box_open(material: bytes, body: bytes) -> bytes | None:
    try:
        return SecretBox(material).decrypt(body)
    except CryptoError:
        return None


class Stanza(Protocol):
    """A provider that can say how it stands in an EncryptionConfiguration."""

    def block(self) -> dict[str, object]:
        """Its element of `providers`."""


def configuration(*entries: tuple[Sequence[str], Sequence[Stanza]]) -> str:
    """An EncryptionConfiguration, in JSON: resources with the keys that read them, the first one writing."""
    return json.dumps(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [
                {"resources": list(resources), "providers": [key.block() for key in keys]}
                for resources, keys in entries
            ],
        }
    )


def write_private(file: Path, text: str) -> Path:
    """A file that only its owner can read."""
    file.touch(mode=0o600)
    file.write_text(text)
    return file


def configure(directory: Path, *keys: Stanza, resources: Sequence[str] = ("secrets",), name: str = "enc.json") -> Path:
    """An EncryptionConfiguration with one entry, in a file."""
    return write_private(directory / name, configuration((resources, keys)))


def manifest(kind: str, namespace: str | None, name: str, payload: str) -> bytes:
    """The plaintext of an object, as JSON."""
    metadata = {"name": name, **({"namespace": namespace} if namespace else {})}
    return json.dumps({"apiVersion": "v1", "kind": kind, "metadata": metadata, "data": {"payload": payload}}).encode()


def secrets(count: int, *, namespace: str = "default", payload: str = "") -> dict[str, bytes]:
    """Plaintexts of secrets by etcd key, each with something of its own in it."""
    return {
        f"/registry/secrets/{namespace}/s{number:05}": manifest(
            "Secret", namespace, f"s{number:05}", f"{payload}{number}"
        )
        for number in range(count)
    }


def store(gateway: Gateway, plaintexts: Mapping[str, bytes], key: AnyKey) -> None:
    """Puts objects where kube-apiserver would have, all sealed with one key."""
    gateway.put_all({name: key.seal(name, plaintext) for name, plaintext in plaintexts.items()})


def opened(found: Iterable[KeyValue], key: AnyKey) -> dict[str, bytes | None]:
    """What one key reads: a plaintext for each etcd key, None where it can't."""
    return {one.key: key.open(one.key, one.value) for one in found}
