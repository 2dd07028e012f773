"""`aescbc`: AES-CBC with PKCS#7 padding and a random IV in front. No integrity whatsoever.

With a wrong key the padding comes out right by luck about once in 256, so a caller must look at
what it got (`plaintext.py`) before it believes it. Layout and the lenient unpadding follow
kubernetes/apiserver pkg/storage/value/encrypt/aes/aes.go.
"""

from __future__ import annotations

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from config.secret import SecretBytes
from worker.providers.cipher import OpenError

_BLOCK = 16


class AesCbc:
    """AES-CBC with one key of 16, 24 or 32 bytes; the AAD is ignored, as upstream does."""

    __slots__ = ("_algorithm",)

    nonce_size = _BLOCK

    def __init__(self, secret: SecretBytes) -> None:
        self._algorithm = AES(secret.reveal())

    def open(self, sealed: bytes, aad: bytes) -> bytes:  # noqa: ARG002 - the mode has no AAD
        """Return the plaintext, or by bad luck garbage. Raises OpenError."""
        if len(sealed) < 2 * _BLOCK or len(sealed) % _BLOCK:
            raise OpenError("the ciphertext is not a whole number of AES blocks behind an IV")
        decryptor = Cipher(self._algorithm, CBC(sealed[:_BLOCK])).decryptor()
        return _unpad(decryptor.update(sealed[_BLOCK:]) + decryptor.finalize())

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Return IV and ciphertext."""
        fill = _BLOCK - len(plaintext) % _BLOCK
        encryptor = Cipher(self._algorithm, CBC(nonce)).encryptor()
        return nonce + encryptor.update(plaintext + bytes([fill]) * fill) + encryptor.finalize()


def _unpad(padded: bytes) -> bytes:
    """Remove the padding as upstream does: any length from 1 to the whole, not just one block."""
    fill = padded[-1]
    if not 0 < fill <= len(padded) or padded[-fill:] != bytes([fill]) * fill:
        raise OpenError("the padding is not valid: wrong key, or damaged")
    return padded[:-fill]
