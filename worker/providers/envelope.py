"""The prefixes that kube-apiserver puts in front of stored values.

Key names may contain colons (k3s names keys by RFC 3339 time), so compare stored bytes with the *configured* prefixes;
never split them on a colon.
"""

from __future__ import annotations

from kube_rewrap.config.encryption.configuration import ProviderType

ENCRYPTED = b"k8s:enc:"
"""The start of every encrypted value."""

_SHOWN = 80


def provider_prefix(provider: ProviderType, version: str = "v1") -> bytes:
    """Return `k8s:enc:<provider>:<version>:`, empty for `identity`."""
    if provider is ProviderType.IDENTITY:
        return b""
    return ENCRYPTED + f"{provider.value}:{version}:".encode()


def key_prefix(provider: ProviderType, name: str, version: str = "v1") -> bytes:
    """Return the prefix of each value that this key sealed, empty for `identity`."""
    prefix = provider_prefix(provider, version)
    return prefix + name.encode() + b":" if prefix else b""


def readable_head(stored: bytes) -> str:
    """Return the part of a stored value that messages may show: its prefix, up to the last colon of its printable head.

    For messages only: if the ciphertext begins with printable bytes, the key name in it may be wrong.
    """
    head = stored[:_SHOWN]
    printable = next((i for i, byte in enumerate(head) if not 0x20 <= byte < 0x7F), len(head))
    return head[: head[:printable].rfind(b":") + 1].decode("ascii")
