"""`aesgcm`: AES-GCM with a random 96-bit nonce in front and the etcd key as AAD.

With random nonces the number of encryptions under a key is limited (NIST SP 800-38D 8.3): a caller must hold a write
token from the ledger before it seals. Layout follows kubernetes/apiserver pkg/storage/value/encrypt/aes/aes.go.
"""

from __future__ import annotations

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.providers.cipher import OpenError

_NONCE = 12
_TAG = 16


class AesGcm:
    """AES-GCM with one key of 16, 24 or 32 bytes."""

    __slots__ = ("_aead",)

    nonce_size = _NONCE

    def __init__(self, secret: SecretBytes) -> None:
        self._aead = AESGCM(secret.reveal())

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Return the authenticated plaintext. Raises OpenError."""
        if len(sealed) < _NONCE + _TAG:
            raise OpenError("the value is too short for a nonce and a tag")
        try:
            return self._aead.decrypt(sealed[:_NONCE], sealed[_NONCE:], aad)
        except InvalidTag:
            raise OpenError("authentication failed: wrong key, another etcd key's value, or damaged") from None

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Return nonce, ciphertext and tag."""
        return nonce + self._aead.encrypt(nonce, plaintext, aad)
