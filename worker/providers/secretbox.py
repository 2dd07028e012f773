"""`secretbox`: XSalsa20-Poly1305 with a random 192-bit nonce in front. No AAD.

Layout follows kubernetes/apiserver pkg/storage/value/encrypt/secretbox/secretbox.go.
"""

from __future__ import annotations

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.providers.cipher import OpenError


class Secretbox:
    """NaCl's secretbox with one key of 32 bytes; the AAD is ignored, as upstream does."""

    __slots__ = ("_box",)

    nonce_size = SecretBox.NONCE_SIZE

    def __init__(self, secret: SecretBytes) -> None:
        self._box = SecretBox(secret.reveal())

    def open(self, sealed: bytes, aad: bytes) -> bytes:  # noqa: ARG002 - the construction has no AAD
        """Return the authenticated plaintext. Raises OpenError."""
        if len(sealed) < SecretBox.NONCE_SIZE + SecretBox.MACBYTES:
            raise OpenError("the value is too short for a nonce and a tag")
        try:
            return self._box.decrypt(sealed[self.nonce_size :], sealed[: self.nonce_size])
        except CryptoError:
            raise OpenError("authentication failed: wrong key, or damaged") from None

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Return nonce and box."""
        return bytes(self._box.encrypt(plaintext, nonce))
