"""Records as bytes: JSON with a version, read tolerantly.

Unknown fields are ignored, so that an older reader gets along with a newer writer of the same
version; another version is refused, since its meaning is not known.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from worker.errors import RecordError
from worker.model.keys import key_text

VERSION = 1


def encode(record: Mapping[str, object]) -> bytes:
    """Return the stored form of a record."""
    return json.dumps({"v": VERSION, **record}, separators=(",", ":"), sort_keys=True).encode()


def decode(key: bytes, value: bytes) -> dict[str, object]:
    """Return the fields of a stored record. Raises RecordError naming its key."""
    try:
        record = json.loads(value)
    except (ValueError, RecursionError):
        raise RecordError(
            f"the record {key_text(key)} is not JSON; restore it, or delete it if it is not ours"
        ) from None
    if not isinstance(record, dict) or record.get("v") != VERSION:
        raise RecordError(
            f"the record {key_text(key)} is of a version that this program does not know; use the version that wrote it"
        )
    return record


def damaged(key: bytes, fault: ValueError) -> RecordError:
    """Return the error for a record whose fields are not what they should be."""
    return RecordError(f"the record {key_text(key)} is damaged: {fault}")
