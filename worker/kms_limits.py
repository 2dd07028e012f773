"""What Kubernetes accepts of a KMS plugin, and in a stored value of KMS v2.

Follows kubernetes/apiserver pkg/storage/value/encrypt/envelope/kmsv2/envelope.go, `ValidateEncryptedObject`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

LONGEST_KEY_ID = 1024
"""Bytes of UTF-8."""
LONGEST_WRAPPED = {"v1": 65_535, "v2": 1024}
"""Bytes, by version: v1 has two bytes for the length."""
LARGEST_ANNOTATIONS = 32_768
"""Bytes of all names and values."""

_LABEL = "[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = rf"{_LABEL}(?:\.{_LABEL})+\.?\n"
_DOMAINS = re.compile(f"(?>{_DOMAIN})*+")
"""Without backtracking."""
_LONGEST_DOMAIN = 253


def is_key_id(key_id: str) -> bool:
    """Whether Kubernetes accepts a key id."""
    return 1 <= len(key_id.encode()) <= LONGEST_KEY_ID


def fault_of_annotations(annotations: Sequence[tuple[str, bytes]]) -> str:
    """Return what Kubernetes refuses in a plugin's annotations, "" for nothing. No text of theirs is in it.

    Within the limits, there is room for 8,000 of them: all names are checked at once, since one by one that would be
    most of what the value costs.
    """
    names = [name for name, _ in annotations]
    size = len("".join(names).encode()) + sum(len(value) for _, value in annotations)
    if size > LARGEST_ANNOTATIONS:
        return f"its annotations have {size} bytes"
    return "" if _are_domains(names) else "an annotation's name is not a lower-case DNS name of two labels or more"


def _are_domains(names: Sequence[str]) -> bool:
    """As `IsFullyQualifiedDomainName` of kubernetes/apimachinery, for each name: one trailing dot is allowed."""
    lines = "".join([f"{name}\n" for name in names])
    has_one_a_line = lines.count("\n") == len(names)
    has_long = any(len(name.removesuffix(".")) > _LONGEST_DOMAIN for name in names if len(name) > _LONGEST_DOMAIN)
    return has_one_a_line and not has_long and _DOMAINS.fullmatch(lines) is not None
