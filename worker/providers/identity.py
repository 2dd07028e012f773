"""`identity`: the plaintext itself, as long as it does not look encrypted."""

from __future__ import annotations

from kube_rewrap.worker.providers.cipher import OpenError
from kube_rewrap.worker.providers.envelope import ENCRYPTED


class Identity:
    """No encryption. Refuses values that carry an encryption prefix, so that later providers may try."""

    __slots__ = ()

    nonce_size = 0

    def open(self, sealed: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Return the value as it is. Raises OpenError for one that some provider encrypted."""
        if sealed.startswith(ENCRYPTED):
            raise OpenError("the value is encrypted")
        return sealed

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Return the plaintext."""
        return plaintext
