"""`aescbc`: AES-CBC with PKCS#7 padding and a random IV in front. It has no integrity protection.

Under a wrong key the padding is valid by chance about once in 256 values, so a caller must check the content
(`plaintext.py`) before it uses it. Layout and the lenient unpadding follow
kubernetes/apiserver pkg/storage/value/encrypt/aes/aes.go.

An attacker who learns whether a padding was valid can decrypt every object without the key (Vaudenay's padding
oracle). So bad padding and bad content give the same error, by the same path: this module always compares the
padding and always runs the recogniser on the content. Timing still shows a little: the content is shorter by its
padding, and a parser's time depends on its input.
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
"""Returns whether decrypted bytes are valid content."""


class AesCbc:
    """AES-CBC with one key of 16, 24 or 32 bytes; the AAD is ignored, as upstream does. For one thread."""

    __slots__ = ("_algorithm", "_decryptor")

    nonce_size = _BLOCK

    def __init__(self, secret: SecretBytes) -> None:
        self._algorithm = AES(secret.reveal())
        self._decryptor = Cipher(self._algorithm, CBC(bytes(_BLOCK))).decryptor()

    def open(self, sealed: bytes, aad: bytes) -> bytes:  # noqa: ARG002 - the mode has no AAD
        """Return the plaintext, or garbage if the padding is valid by chance. Raises OpenError.

        Only for values that this process sealed itself.
        """
        return self.open_recognised(sealed, lambda _: True)

    def open_recognised(self, sealed: bytes, is_right: Recogniser) -> bytes:
        """Return the plaintext if its padding is valid and `is_right` accepts it.

        Raises OpenError, with the same message for both failures.
        """
        # The length is public, so this check may return early; its message is the same all the same.
        if len(sealed) < 2 * _BLOCK or len(sealed) % _BLOCK:
            raise OpenError(NOT_RECOGNISED_DETAIL)
        # One decryptor for all values: to make one takes longer than to decrypt 4 KiB. A plaintext block depends on its
        # ciphertext block and the one before it alone. So only the first block, decrypted from the IV, depends on the
        # value before; it is dropped.
        content, is_padded = _unpad(self._decryptor.update(sealed)[_BLOCK:])
        if is_right(content) & is_padded:  # not `and`: both are always evaluated
            return content
        raise OpenError(NOT_RECOGNISED_DETAIL)

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Return IV and ciphertext."""
        fill = _BLOCK - len(plaintext) % _BLOCK
        encryptor = Cipher(self._algorithm, CBC(nonce)).encryptor()
        return nonce + encryptor.update(plaintext + bytes([fill]) * fill) + encryptor.finalize()


def _unpad(padded: bytes) -> tuple[bytes, bool]:
    """Return the content, and whether its padding is valid: any length from 1 to the whole, as upstream allows.

    For invalid padding it returns the content less one byte, so that the recogniser has an input.
    """
    fill, tail = padded[-1], padded[-_WIDEST:]
    # As long as the tail, unless `fill` exceeds the tail's length: the comparison covers the whole tail each time.
    expected = tail[: max(0, len(tail) - fill)] + bytes([fill]) * fill
    is_padded = hmac.compare_digest(tail, expected) & (fill > 0)
    return padded[: len(padded) - (1, fill)[is_padded]], is_padded
