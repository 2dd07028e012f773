"""Records as bytes: JSON with a version.

A reader ignores unknown fields, so that it can read what a newer writer of the same version wrote. It refuses
another version, whose fields may mean something else. Records are hostile input: a reader also refuses one that
is too large, or nested too deeply, before it parses it.
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
"""Most bytes of a record: etcd's default limit of a request."""

_DEEPEST = 32
"""Deepest nesting of objects and lists; rewrap's own records nest at most 6 deep."""

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
    """Return the error for a record with invalid fields."""
    return RecordError(f"the record {key_text(key)} is damaged: {fault}")


def require_place(key: bytes, place: bytes) -> None:
    """Raise RecordError if the record found at `key` belongs at another key, `place`."""
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
    """Tell whether a JSON text nests at most `_DEEPEST` deep. Takes linear time for any text."""
    outside = "".join(text.replace("\\\\", "").replace('\\"', "").split('"')[::2])
    depth = 0
    for char in _NESTING.findall(outside):
        depth += 1 if char in "[{" else -1
        if depth > _DEEPEST:
            return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")
