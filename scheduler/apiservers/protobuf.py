"""The little of protobuf's wire format that is needed to read a few fields of one message. Pure.

For messages that are known by their field numbers only; what is not asked for is checked for form and
left out. Follows protobuf.dev/programming-guides/encoding. Not handled: groups, packed numbers.
"""

from __future__ import annotations

from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTHS = {_FIXED64: 8, _FIXED32: 4}
_LONGEST_VARINT = 10
_SIGN = 1 << 63


def fields(message: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Yield (field number, value) in order: numbers as unsigned ints, all else as bytes.

    Raises ValueError where the bytes are no message.
    """
    place = 0
    while place < len(message):
        tag, place = _varint(message, place)
        number, kind = tag >> 3, tag & 7
        if number == 0:
            raise ValueError("a field has the number 0")
        if kind == _VARINT:
            value, place = _varint(message, place)
            yield number, value
            continue
        if kind == _BYTES:
            length, place = _varint(message, place)
        elif kind in _WIDTHS:
            length = _WIDTHS[kind]
        else:
            raise ValueError(f"a field has the wire type {kind}")
        if length > len(message) - place:
            raise ValueError("a field is longer than its message")
        yield number, message[place : place + length]
        place += length


def bytes_at(message: bytes, number: int) -> bytes:
    """Return the last value of a field that holds bytes, a text or a message; b"" = absent. Raises ValueError."""
    return next(reversed(all_at(message, number)), b"")


def all_at(message: bytes, number: int) -> list[bytes]:
    """Return every value of such a field. Raises ValueError."""
    return [_bytes(value) for found, value in fields(message) if found == number]


def int_at(message: bytes, number: int) -> int:
    """Return the last value of a field of type int32 or int64; 0 = absent. Raises ValueError."""
    found = 0
    for at, value in fields(message):
        if at == number:
            if not isinstance(value, int):
                raise ValueError(f"field {number} is not a number")
            found = value - 2 * _SIGN if value >= _SIGN else value
    return found


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise ValueError("a field is a number and should not be")  # noqa: TRY004 - the bytes are bad, not the call
    return value


def _varint(message: bytes, place: int) -> tuple[int, int]:
    """Return a number and the place behind it."""
    value = 0
    for shift, byte in enumerate(message[place : place + _LONGEST_VARINT]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:
            if value >= 2 * _SIGN:
                raise ValueError("a number has more than 64 bits")
            return value, place + shift + 1
    raise ValueError("a number does not end")
