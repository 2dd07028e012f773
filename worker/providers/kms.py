"""`kms`: recognised and named, never opened. The plugin is not spoken to yet."""

from __future__ import annotations

from kube_rewrap.worker.providers.cipher import OpenError


class KmsUnsupportedError(OpenError):
    """The value is under a KMS provider, which this version can't read."""


class Kms:
    """Stands in the chain where a KMS provider is configured, so that its values are told apart."""

    __slots__ = ()

    nonce_size = 0

    def open(self, sealed: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Refuse with a reason of its own. Always raises KmsUnsupportedError."""
        raise KmsUnsupportedError("the value is under a KMS provider, which this version does not read")

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Refuse. Always raises KmsUnsupportedError: a chain with a KMS primary is refused before."""
        raise KmsUnsupportedError("this version does not write with a KMS provider")
