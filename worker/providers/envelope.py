"""The prefixes that kube-apiserver puts in front of what it stores.

Key names may hold colons (k3s names keys by RFC 3339 time), so stored bytes are compared with the
*configured* prefixes and never split on a colon.
"""

from __future__ import annotations

from kube_rewrap.config.encryption.configuration import ProviderType

ENCRYPTED = b"k8s:enc:"
"""What every encrypted value starts with."""

_SHOWN = 80


def provider_prefix(provider: ProviderType, version: str = "v1") -> bytes:
    """Return `k8s:enc:<provider>:<version>:`, or nothing for `identity`."""
    if provider is ProviderType.IDENTITY:
        return b""
    return ENCRYPTED + f"{provider.value}:{version}:".encode()


def key_prefix(provider: ProviderType, name: str, version: str = "v1") -> bytes:
    """Return what stands in front of a value that this key sealed."""
    prefix = provider_prefix(provider, version)
    return prefix + name.encode() + b":" if prefix else b""


def readable_head(stored: bytes) -> str:
    """Return the part of a stored value that may be shown: its prefix, up to the last colon of its printable head.

    For messages only. The name in it is a guess where the ciphertext happens to begin printable.
    """
    head = stored[:_SHOWN]
    printable = next((i for i, byte in enumerate(head) if not 0x20 <= byte < 0x7F), len(head))
    return head[: head[:printable].rfind(b":") + 1].decode("ascii")
