"""`identity`: the stored value is the plaintext, unless it has the prefix of encrypted values."""

from __future__ import annotations

from kube_rewrap.worker.providers.cipher import OpenError
from kube_rewrap.worker.providers.envelope import ENCRYPTED


class Identity:
    """No encryption. Refuses values with the prefix of encrypted values, so that the chain tries later providers."""

    __slots__ = ()

    nonce_size = 0

    def open(self, sealed: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Return the value unchanged. Raises OpenError for one with the prefix of encrypted values."""
        if sealed.startswith(ENCRYPTED):
            raise OpenError("the value is encrypted")
        return sealed

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Return the plaintext."""
        return plaintext
