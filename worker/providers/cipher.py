"""The interface of every provider in this folder: open, and seal with a given nonce.

`seal_with` takes the nonce as an argument so that tests can replay recorded vectors. In the service only `chain.py`
calls it, with a fresh random nonce for each call.
"""

from __future__ import annotations

from typing import Protocol

from kube_rewrap.config.encryption.secret import SecretBytes

_AES_KEYS = (16, 24, 32)


class OpenError(Exception):
    """The bytes did not open. The message never contains any of them."""


class MalformedError(OpenError):
    """The bytes around the ciphertext, or the key that a plugin unwrapped, can't be right; nothing was decrypted."""


def require_aes_key(secret: SecretBytes) -> None:
    """Raise MalformedError unless an unwrapped key has the length of an AES key."""
    if len(secret) not in _AES_KEYS:
        raise MalformedError(f"the plugin returned a data key of {len(secret)} bytes, which is no AES key")


class Cipher(Protocol):
    """One provider with one key.

    A cipher without authentication also has `open_recognised`, which the chain calls instead of `open`.
    """

    nonce_size: int
    """Length of the nonce or IV of `seal_with`, in bytes."""

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Return the plaintext; `sealed` is the stored value without its prefix. Raises OpenError."""

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Return the value to store, without its prefix. `nonce` must never have been used with this key."""
