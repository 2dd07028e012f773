"""`aescbc`: AES-CBC with PKCS#7 padding and a random IV in front. No integrity whatsoever.

With a wrong key the padding comes out right by luck about once in 256, so a caller must look at
what it got (`plaintext.py`) before it believes it. Layout and the lenient unpadding follow
kubernetes/apiserver pkg/storage/value/encrypt/aes/aes.go.

Who learns whether a padding was right reads every object without the key (Vaudenay's padding oracle).
So bad padding and bad content are one failure here, found by one path: the padding is compared and the
content is recognised, whatever came of the other. What is left to a clock: the content is shorter by
its padding, and a parser's time depends on what it parses.
"""

from __future__ import annotations

import hmac
from collections.abc import Callable

from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.providers.cipher import OpenError
from kube_rewrap.worker.verdict import NOT_RECOGNISED_DETAIL

_BLOCK = 16
_WIDEST = 255

Recogniser = Callable[[bytes], bool]
"""Whether bytes are what may be believed."""


class AesCbc:
    """AES-CBC with one key of 16, 24 or 32 bytes; the AAD is ignored, as upstream does."""

    __slots__ = ("_algorithm",)

    nonce_size = _BLOCK

    def __init__(self, secret: SecretBytes) -> None:
        self._algorithm = AES(secret.reveal())

    def open(self, sealed: bytes, aad: bytes) -> bytes:  # noqa: ARG002 - the mode has no AAD
        """Return the plaintext, or by bad luck garbage: for what we sealed ourselves only. Raises OpenError."""
        return self.open_recognised(sealed, lambda _: True)

    def open_recognised(self, sealed: bytes, is_right: Recogniser) -> bytes:
        """Return the plaintext if its padding is valid and it is right. Raises OpenError, which never says which."""
        # A length is public: it may take less time, and is told as everything else all the same.
        if len(sealed) < 2 * _BLOCK or len(sealed) % _BLOCK:
            raise OpenError(NOT_RECOGNISED_DETAIL)
        decryptor = Cipher(self._algorithm, CBC(sealed[:_BLOCK])).decryptor()
        content, is_padded = _unpad(decryptor.update(sealed[_BLOCK:]) + decryptor.finalize())
        if is_right(content) & is_padded:  # no `and`: both are always asked
            return content
        raise OpenError(NOT_RECOGNISED_DETAIL)

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Return IV and ciphertext."""
        fill = _BLOCK - len(plaintext) % _BLOCK
        encryptor = Cipher(self._algorithm, CBC(nonce)).encryptor()
        return nonce + encryptor.update(plaintext + bytes([fill]) * fill) + encryptor.finalize()


def _unpad(padded: bytes) -> tuple[bytes, bool]:
    """Return the content, and whether its padding is valid: any length from 1 to the whole, as upstream has it.

    Where it is not valid, the content is that of a padding of one byte, for the recogniser to work on.
    """
    fill, tail = padded[-1], padded[-_WIDEST:]
    # As long as the tail unless the padding is longer than everything, so that all of it is always compared.
    expected = tail[: max(0, len(tail) - fill)] + bytes([fill]) * fill
    is_padded = hmac.compare_digest(tail, expected) & (fill > 0)
    return padded[: len(padded) - (1, fill)[is_padded]], is_padded
