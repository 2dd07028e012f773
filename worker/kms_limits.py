"""What Kubernetes accepts of a KMS plugin, and in a stored value of KMS v2.

Follows kubernetes/apiserver pkg/storage/value/encrypt/envelope/kmsv2/envelope.go, `ValidateEncryptedObject`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

LONGEST_KEY_ID = 1024
"""Bytes of UTF-8."""
LONGEST_WRAPPED = {"v1": 65_535, "v2": 1024}
"""Bytes, by version: v1 has two bytes for the length."""
LARGEST_ANNOTATIONS = 32_768
"""Bytes of all names and values."""

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_DOMAIN = re.compile(rf"{_LABEL}(\.{_LABEL})+")
_LONGEST_DOMAIN = 253


def is_key_id(key_id: str) -> bool:
    """Whether Kubernetes accepts a key id."""
    return 1 <= len(key_id.encode()) <= LONGEST_KEY_ID


def fault_of_annotations(annotations: Iterable[tuple[str, bytes]]) -> str:
    """Return what Kubernetes refuses in a plugin's annotations, "" for nothing. No text of theirs is in it."""
    size = 0
    for name, value in annotations:
        size += len(name.encode()) + len(value)
        if not is_annotation_name(name):
            return "an annotation's name is not a lower-case DNS name of two labels or more"
    return f"its annotations have {size} bytes" if size > LARGEST_ANNOTATIONS else ""


def is_annotation_name(name: str) -> bool:
    """As `IsFullyQualifiedDomainName` of kubernetes/apimachinery: one trailing dot is allowed."""
    name = name.removesuffix(".")
    return len(name) <= _LONGEST_DOMAIN and _DOMAIN.fullmatch(name) is not None
