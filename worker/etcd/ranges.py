"""Keys and key ranges of etcd, and their spelling as text.

etcd's keys are bytes. In JSON, logs and on the screen they are text; surrogates stand for bytes that are not UTF-8,
so that the conversion back is exact.
"""

from __future__ import annotations

from dataclasses import dataclass


def key_text(key: bytes) -> str:
    """Spell an etcd key as text; `key_bytes` is the exact inverse."""
    return key.decode("utf-8", "surrogateescape")


def key_bytes(text: str) -> bytes:
    """Return the etcd key that `key_text` spelled."""
    return text.encode("utf-8", "surrogateescape")


def after(key: bytes) -> bytes:
    """Return the smallest key greater than `key`: the start of the next page."""
    return key + b"\0"


def prefix_end(prefix: bytes) -> bytes:
    """Return the end (excluded) of the range of all keys that start with `prefix`, as etcd's clients compute it."""
    stripped = prefix.rstrip(b"\xff")
    if not stripped:
        return b"\0"  # etcd's spelling of "to the end of the keyspace"
    return stripped[:-1] + bytes([stripped[-1] + 1])


@dataclass(frozen=True, slots=True)
class KeyRange:
    """The keys from `start` (included) to `end` (excluded)."""

    start: bytes
    end: bytes

    @classmethod
    def of_prefix(cls, prefix: bytes) -> KeyRange:
        """Return the range of all keys under `prefix`."""
        return cls(prefix, prefix_end(prefix))

    def __contains__(self, key: bytes) -> bool:
        return self.start <= key < self.end

    def since(self, start: bytes) -> KeyRange:
        """Return the part of the range from `start` on."""
        return KeyRange(max(self.start, start), self.end)

    @property
    def is_empty(self) -> bool:
        """Whether the range can contain no key."""
        return self.start >= self.end

    def to_json(self) -> list[str]:
        """Return the JSON form: `[start, end]`."""
        return [key_text(self.start), key_text(self.end)]

    @classmethod
    def from_json(cls, value: object) -> KeyRange:
        """Read the JSON form. Raises ValueError for any other value, and for an end before the start."""
        match value:
            case [str(start), str(end)]:
                keys = cls(key_bytes(start), key_bytes(end))
                if keys.start <= keys.end:
                    return keys
        raise ValueError("a key range is a list of two strings, a start and an end that is not before it")
