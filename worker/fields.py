"""Readers of a record's fields: they check type, value and size before other code sees a value.

Records are hostile input, as messages are: anyone who can write to etcd can forge them. Each reader returns a value
within its bounds, or raises ValueError with a sentence that names the field and does not quote it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TypeGuard, TypeVar

from kube_rewrap.worker.etcd.ranges import key_bytes

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""The form of a campaign's, a request's or a rotation's name."""

NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
MOST_BATCHES = 99_999_999
"""The highest number of a batch or part: their names in etcd have eight digits."""

MOST = 2**63 - 1
"""The largest count or revision, as in etcd (int64)."""

_LATEST = 2.0**40
"""The latest time in seconds since 1970, in 34,000 years: refuses floats close to infinity."""

_LONGEST = 100_000
"""Most characters of a text; our own sentences are far shorter."""

LONGEST_LIST = 100_000
"""Most members of a list or an object."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one JSON object. Unread fields are ignored: a newer version may have written them."""

    _values: Mapping[str, object]

    @classmethod
    def of(cls, value: object) -> Fields:
        """Return the fields of a JSON object. Raises ValueError for anything else."""
        return cls(mapping_of(value, "it, or a part of it,"))

    def has(self, field: str) -> bool:
        """Whether the field is there, and not null."""
        return self._values.get(field) is not None

    def text(self, field: str, most: int = _LONGEST) -> str:
        """Return a text."""
        return text_of(self._values.get(field), field, most)

    def name(self, field: str) -> str:
        """Return a text of the form `NAME`."""
        return matching(self._values.get(field), field, NAME)

    def key(self, field: str) -> bytes:
        """Return an etcd key."""
        return key_of(self._values.get(field), field)

    def count(self, field: str, least: int = 0, most: int = MOST) -> int:
        """Return a whole number."""
        return count_of(self._values.get(field), field, least, most)

    def number(self, field: str, most: float = _LATEST) -> float:
        """Return a finite number from 0 on."""
        return number_of(self._values.get(field), field, most)

    def flag(self, field: str) -> bool:
        """Return true or false."""
        return flag_of(self._values.get(field), field)

    def mapping(self, field: str) -> Mapping[str, object]:
        """Return a nested object."""
        return mapping_of(self._values.get(field), field)

    def each(self, field: str, read: Callable[[object], T], most: int = LONGEST_LIST) -> tuple[T, ...]:
        """Return the result of `read` for each member of a list."""
        return tuple(map(read, list_of(self._values.get(field), field, most)))

    def one(self, field: str, read: Callable[[object], T]) -> T:
        """Return the result of `read` for a field; it gets None for a missing one."""
        return read(self._values.get(field))

    def texts(self, field: str, most: int = LONGEST_LIST) -> tuple[str, ...]:
        """Return a list of texts."""
        return self.each(field, lambda one: text_of(one, field), most)

    def counts(self, field: str) -> dict[str, int]:
        """Return an object whose values are counts."""
        inner = self.mapping(field)
        return {text_of(name, field): count_of(count, field) for name, count in inner.items()}


def mapping_of(value: object, what: str) -> Mapping[str, object]:
    """Return an object with fields."""
    if not isinstance(value, Mapping) or len(value) > LONGEST_LIST:
        raise ValueError(f"{what} is no object with fields")
    return value


def text_of(value: object, what: str, most: int = _LONGEST) -> str:
    """Return a text that an etcd key or a log line can hold."""
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"{what} is no text of at most {most} characters")
    key_of(value, what)
    return value


def moment_of(value: object, what: str) -> str:
    """Return a time in ISO 8601 with its zone."""
    text = text_of(value, what, 64)
    try:
        is_exact = datetime.fromisoformat(text).tzinfo is not None
    except ValueError:
        is_exact = False
    if not is_exact:
        raise ValueError(f"{what} is no time in ISO 8601 with a zone")
    return text


def key_of(value: object, what: str) -> bytes:
    """Return the etcd key that `key_text` wrote as this text."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is no text")  # noqa: TRY004 - bad data, not a caller's bug
    try:
        return key_bytes(value)
    except UnicodeEncodeError:
        raise ValueError(f"{what} is a text that no etcd key has") from None


def matching(value: object, what: str, form: re.Pattern[str]) -> str:
    """Return a text that matches `form`."""
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{what} is not of the required form")
    return value


def count_of(value: object, what: str, least: int = 0, most: int = MOST) -> int:
    """Return a whole number; refuses true and false, which are integers in Python."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{what} is no whole number from {least} to {most}")
    return value


def number_of(value: object, what: str, most: float = _LATEST) -> float:
    """Return a finite number from 0 on."""
    # Compared before it is converted: an int may be too large for a float. NaN is within no bounds.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{what} is no number from 0 to {most:.0f}")
    return float(value)


def flag_of(value: object, what: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise ValueError(f"{what} is neither true nor false")  # noqa: TRY004 - bad data, not a caller's bug
    return value


def is_scalar(value: object) -> TypeGuard[str | int | float | bool | None]:
    """Whether a value is a text, a finite number, true, false or nothing."""
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def list_of(value: object, what: str, most: int = LONGEST_LIST) -> list[object]:
    """Return a list."""
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"{what} is no list of at most {most}")
    return value


def members_of(value: object, what: str, count: int) -> list[object]:
    """Return a list of exactly `count` members."""
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{what} is no list of {count}")
    return value
