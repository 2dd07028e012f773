"""Records as bytes: JSON with a version, read tolerantly.

Unknown fields are ignored, so that an older reader gets along with a newer writer of the same
version; another version is refused, since its meaning is not known. So is what is too large, or nested
too deeply, before it is parsed: records are hostile input.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import NoReturn

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.ranges import key_text

VERSION = 1

_LARGEST = 1_572_864
"""Bytes of a record: etcd's own limit of a request."""

_DEEPEST = 32
"""Objects and lists inside each other; no record of ours has more than 6."""

_NESTING = re.compile(r"[\[\]{}]")


def encode(record: Mapping[str, object]) -> bytes:
    """Return the stored form of a record."""
    return json.dumps({"v": VERSION, **record}, separators=(",", ":"), sort_keys=True, allow_nan=False).encode()


def decode(key: bytes, value: bytes) -> dict[str, object]:
    """Return the fields of a stored record. Raises RecordError naming its key."""
    try:
        record = _parsed(value)
    except ValueError:
        raise RecordError(
            f"the record {key_text(key)} is not JSON; restore it, or delete it if it is not ours"
        ) from None
    if not isinstance(record, dict) or record.get("v") != VERSION or isinstance(record["v"], bool):
        raise RecordError(
            f"the record {key_text(key)} is of a version that this program does not know; use the version that wrote it"
        )
    return record


def damaged(key: bytes, fault: ValueError) -> RecordError:
    """Return the error for a record whose fields are not what they should be."""
    return RecordError(f"the record {key_text(key)} is damaged: {fault}")


def require_place(key: bytes, place: bytes) -> None:
    """Raise RecordError for a record that lies where another one belongs."""
    if key != place:
        raise damaged(key, ValueError(f"it is the record {key_text(place)}"))


def _parsed(value: bytes) -> object:
    if len(value) > _LARGEST:
        raise ValueError("it is too large")
    text = value.decode()
    if not _is_shallow(text):
        raise ValueError("it is nested too deeply")
    return json.loads(text, parse_constant=_refuse)


def _is_shallow(text: str) -> bool:
    """Tell whether nothing in a JSON text is nested deeper than `_DEEPEST`. Linear in time, whatever the text is."""
    outside = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    depth = 0
    for char in _NESTING.findall(outside):
        depth += 1 if char in "[{" else -1
        if depth > _DEEPEST:
            return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")
