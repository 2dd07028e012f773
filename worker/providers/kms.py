"""`kms`: recognises and names values under a KMS provider; never opens them. This version calls no KMS plugin."""

from __future__ import annotations

from kube_rewrap.worker.providers.cipher import OpenError


class KmsUnsupportedError(OpenError):
    """The value is under a KMS provider, which this version can't read."""


class Kms:
    """The chain's member for a KMS provider, so that verdicts distinguish its values."""

    __slots__ = ()

    nonce_size = 0

    def open(self, sealed: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Raise KmsUnsupportedError, always."""
        raise KmsUnsupportedError("the value is under a KMS provider, which this version does not read")

    def seal_with(self, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:  # noqa: ARG002
        """Raise KmsUnsupportedError, always. `Chain.require_writable` refuses a KMS primary before."""
        raise KmsUnsupportedError("this version does not write with a KMS provider")
