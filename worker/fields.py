"""Readers of a record's fields: type, value and size are checked before anything else looks at them.

Records are hostile input, as messages are: whoever may write to etcd writes them, and what is damaged is one, too.
Each reader returns a value within its bounds, or raises ValueError with a sentence that names the field and repeats
nothing of it.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TypeGuard, TypeVar

from kube_rewrap.worker.etcd.ranges import key_bytes

NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
"""Of a campaign, a request or a rotation."""

NAMESPACE = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
MOST_BATCHES = 99_999_999
"""The highest number of a batch or part: their names in etcd have eight digits."""

MOST = 2**63 - 1
"""Of counts and revisions: what etcd's own numbers go up to."""

_LATEST = 2.0**40
"""Of times in seconds since 1970: in 34,000 years. What is close to infinity is no time."""

_LONGEST = 100_000
"""Characters of a text. No sentence of ours comes near."""

_LONGEST_LIST = 100_000

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one JSON object. Those that no reader asks for are ignored: a newer writer's."""

    _values: Mapping[str, object]

    @classmethod
    def of(cls, value: object) -> Fields:
        """Return the fields of a JSON object. Raises ValueError for anything else."""
        return cls(mapping_of(value, "it, or a part of it,"))

    def has(self, field: str) -> bool:
        """Whether the field is there, and not null."""
        return self._values.get(field) is not None

    def either(self, field: str, former: str) -> str:
        """Return the name of a field, or the one that it had in records of version 0.1 where only that is there."""
        return former if self.has(former) and not self.has(field) else field

    def text(self, field: str, most: int = _LONGEST) -> str:
        """Return a text."""
        return text_of(self._values.get(field), field, most)

    def name(self, field: str) -> str:
        """Return a name of ours."""
        return matching(self._values.get(field), field, NAME)

    def name_or_none(self, field: str) -> str:
        """Return a name of ours, "" = none."""
        return "" if self._values.get(field) == "" else self.name(field)

    def moment(self, field: str) -> str:
        """Return a time in ISO 8601 with its zone."""
        text = self.text(field, 64)
        try:
            is_exact = datetime.fromisoformat(text).tzinfo is not None
        except ValueError:
            is_exact = False
        if not is_exact:
            raise ValueError(f"{field} is no time in ISO 8601 with a zone")
        return text

    def moment_or_none(self, field: str) -> str:
        """Return a time in ISO 8601 with its zone, "" = none."""
        return "" if self._values.get(field) == "" else self.moment(field)

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
        value = self._values.get(field)
        if not isinstance(value, bool):
            raise ValueError(f"{field} is neither true nor false")  # noqa: TRY004 - bad data, not a caller's bug
        return value

    def choice(self, field: str, choices: type[E]) -> E:
        """Return one of a few words."""
        try:
            return choices(self.text(field))
        except ValueError:
            raise ValueError(f"{field} is none of {', '.join(choices)}") from None

    def mapping(self, field: str) -> Mapping[str, object]:
        """Return an object inside."""
        return mapping_of(self._values.get(field), field)

    def each(self, field: str, read: Callable[[object], T], most: int = _LONGEST_LIST) -> tuple[T, ...]:
        """Return what `read` makes of each member of a list."""
        return tuple(map(read, list_of(self._values.get(field), field, most)))

    def one(self, field: str, read: Callable[[object], T]) -> T:
        """Return what `read` makes of a field."""
        return read(self._values.get(field))

    def texts(self, field: str, most: int = _LONGEST_LIST) -> tuple[str, ...]:
        """Return a list of texts."""
        return self.each(field, lambda one: text_of(one, field), most)

    def counts(self, field: str) -> dict[str, int]:
        """Return whole numbers by text."""
        inner = self.mapping(field)
        return {text_of(name, field): count_of(count, field) for name, count in inner.items()}


def mapping_of(value: object, what: str) -> Mapping[str, object]:
    """Return an object with fields."""
    if not isinstance(value, Mapping) or len(value) > _LONGEST_LIST:
        raise ValueError(f"{what} is no object with fields")
    return value


def text_of(value: object, what: str, most: int = _LONGEST) -> str:
    """Return a text that an etcd key or a log line can hold."""
    if not isinstance(value, str) or len(value) > most:
        raise ValueError(f"{what} is no text of at most {most} characters")
    key_of(value, what)
    return value


def key_of(value: object, what: str) -> bytes:
    """Return the etcd key that `key_text` spelled."""
    if not isinstance(value, str):
        raise ValueError(f"{what} is no text")  # noqa: TRY004 - bad data, not a caller's bug
    try:
        return key_bytes(value)
    except UnicodeEncodeError:
        raise ValueError(f"{what} is a text that stands for no bytes") from None


def matching(value: object, what: str, form: re.Pattern[str]) -> str:
    """Return a text of a form."""
    if not isinstance(value, str) or not form.fullmatch(value):
        raise ValueError(f"{what} is not of the form that it must have")
    return value


def count_of(value: object, what: str, least: int = 0, most: int = MOST) -> int:
    """Return a whole number; true and false are none, though Python counts with them."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise ValueError(f"{what} is no whole number from {least} to {most}")
    return value


def number_of(value: object, what: str, most: float = _LATEST) -> float:
    """Return a finite number from 0 on."""
    # Compared before it is converted: an int may be too large for a float. NaN is within no bounds.
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most:
        raise ValueError(f"{what} is no number from 0 to {most:.0f}")
    return float(value)


def is_scalar(value: object) -> TypeGuard[str | int | float | bool | None]:
    """Whether a value is a text, a finite number, true, false or nothing."""
    return value is None or isinstance(value, str | int) or (isinstance(value, float) and math.isfinite(value))


def list_of(value: object, what: str, most: int = _LONGEST_LIST) -> list[object]:
    """Return a list."""
    if not isinstance(value, list) or len(value) > most:
        raise ValueError(f"{what} is no list of at most {most}")
    return value


def members_of(value: object, what: str, count: int) -> list[object]:
    """Return a list of exactly so many."""
    if not isinstance(value, list) or len(value) != count:
        raise ValueError(f"{what} is no list of {count}")
    return value
