"""What every provider of this folder offers: open, and seal with a given nonce.

`seal_with` takes the nonce as an argument so that recorded vectors can be replayed; `chain.py` is
the only caller that makes nonces, and it makes a fresh one for each call.
"""

from __future__ import annotations

from typing import Protocol


class OpenError(Exception):
    """The bytes did not open. The message never holds any of them."""


class Cipher(Protocol):
    """One provider with one key.

    One that does not authenticate what it opens has an `open_recognised` beside, and the chain asks that.
    """

    nonce_size: int
    """Bytes of nonce or IV that `seal_with` wants."""

    def open(self, sealed: bytes, aad: bytes) -> bytes:
        """Return the plaintext of what stands behind the prefix. Raises OpenError."""

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
        """Return what stands behind the prefix. `nonce` must never have been used with this key."""
