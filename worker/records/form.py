"""The JSON form of a record, from the type hints of its fields.

A hint names the reader that bounds the value::

    batches: Annotated[int, whole(most=MOST_BATCHES)]

A reader is a function of worker/fields.py: it takes a value and its name, and returns the value or raises ValueError.
A nested form, a KeyRef, a KeyRange, a StrEnum, bool, a tuple, a frozenset and a Mapping need no reader of their own;
their members do. A field without a reader raises TypeError when the class is first read or written.

Not handled: rules across fields, for which `__post_init__` raises ValueError; and records that group their values
otherwise than their class does (`GenerationRecord`, `Budget`, `ProofPart`), which read and write their JSON by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache, partial
from types import NoneType, UnionType
from typing import Annotated, Any, Self, TypeVar, Union, get_args, get_origin, get_type_hints

from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.fields import (
    LONGEST_LIST,
    NAME,
    count_of,
    flag_of,
    key_of,
    list_of,
    mapping_of,
    matching,
    members_of,
    moment_of,
    number_of,
    text_of,
)

T = TypeVar("T")
F = TypeVar("F", bound="Form")
Reader = Callable[[object, str], Any]

LATER = object()
FLAT = object()


@dataclass(frozen=True, slots=True)
class Named:
    """The name of a field in the JSON form, where it differs from the attribute; `former` is its name in version 0.1.

    A reader takes the former name only if the present one is absent.
    """

    name: str = ""
    former: str = ""


@dataclass(frozen=True, slots=True)
class Most:
    """Most members of a list or an object; `LONGEST_LIST` without it."""

    members: int = LONGEST_LIST


whole = partial(partial, count_of)
"""Return the reader of a whole number from `least` to `most`."""

within = partial(partial, text_of)
"""Return the reader of a text of at most `most` characters."""

form_of = partial(partial, matching)
"""Return the reader of a text that matches the expression `form`."""


def or_empty(read: Reader) -> Reader:
    """Return a reader that also takes the empty text."""
    return lambda value, name: "" if value == "" else read(value, name)


Later = Annotated[T, LATER]
"""A field that older records lack: an absent or null one gets the default of the dataclass."""

Flat = Annotated[T, FLAT]
"""A nested form whose fields are among those of the outer object."""

Count = Annotated[int, count_of]
Key = Annotated[bytes, key_of]
Moment = Annotated[str, moment_of]
"""A time in ISO 8601 with its zone."""
Name = Annotated[str, form_of(form=NAME)]
Text = Annotated[str, text_of]
Time = Annotated[float, number_of]
"""A time in seconds since 1970."""


class Form:
    """Base class of a frozen dataclass that has a JSON form: an object with the names of its fields."""

    __slots__ = ()

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        written: dict[str, object] = {}
        for part in _plan(type(self)):
            value = _written(getattr(self, part.field))
            written.update(value if part.is_flat else {part.name: value})
        return written

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read the JSON form, and ignore unknown fields. Raises ValueError if `value` is not one."""
        return read(cls, value)


class Row:
    """Base class of a frozen dataclass whose JSON form is a list: the values of its fields in their order."""

    __slots__ = ()

    def to_json(self) -> list[object]:
        """Return the JSON form."""
        return [_written(getattr(self, part.field)) for part in _plan(type(self))]

    @classmethod
    def from_json(cls, value: object) -> Self:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        plan = _plan(cls)
        values = members_of(value, f"a list of {', '.join(part.name for part in plan)}", len(plan))
        return cls(**{part.field: part.read(one, part.name) for part, one in zip(plan, values, strict=True)})


def read(kind: type[F], value: object) -> F:
    """As `kind.from_json`, for a class that extends it."""
    values = mapping_of(value, "it, or a part of it,")
    return kind(**{part.field: part.read_in(values) for part in _plan(kind) if not part.is_left_out(values)})


def require_plan(kind: type[Form | Row]) -> None:
    """Raise TypeError, naming the field, if a field of the form has no reader."""
    _plan(kind)


@dataclass(frozen=True, slots=True)
class _Part:
    """How a field is read and written."""

    field: str
    name: str
    former: str
    read: Reader
    is_later: bool
    is_flat: bool

    def read_in(self, values: Mapping[str, object]) -> object:
        """Return the field's value in an object."""
        if self.is_flat:
            return self.read(values, self.name)
        name = self.former if self.former and values.get(self.name) is None and self.former in values else self.name
        return self.read(values.get(name), name)

    def is_left_out(self, values: Mapping[str, object]) -> bool:
        """Whether the field keeps its default."""
        return self.is_later and values.get(self.name) is None and values.get(self.former) is None


def _parts(kind: Any) -> tuple[_Part, ...]:
    hints = get_type_hints(kind, include_extras=True)
    return tuple(_part(kind, one.name, hints[one.name]) for one in fields(kind))


_plan: Callable[[Any], tuple[_Part, ...]] = cache(_parts)  # mypy takes a dataclass' type for unhashable


def _part(kind: type, field: str, hint: Any) -> _Part:
    notes = getattr(hint, "__metadata__", ())
    named = next((note for note in notes if isinstance(note, Named)), Named())
    try:
        reader = _reader(hint)
    except TypeError as error:
        raise TypeError(f"{kind.__name__}.{field}: {error}") from None
    return _Part(field, named.name or field, named.former, reader, LATER in notes, FLAT in notes)


def _reader(hint: Any) -> Reader:
    if get_origin(hint) is not Annotated:
        return _reader_of(hint, Most())
    notes = hint.__metadata__
    most = next((note for note in notes if isinstance(note, Most)), Most())
    return next((note for note in notes if callable(note)), None) or _reader_of(hint.__origin__, most)


def _reader_of(hint: Any, most: Most) -> Reader:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in {Union, UnionType}:
        (one,) = (argument for argument in arguments if argument is not NoneType)
        return partial(_or_none, _reader(one))
    if origin in {tuple, frozenset}:
        return partial(_members, origin, _reader(arguments[0]), most)
    if origin is Mapping:
        return partial(_pairs, _reader(arguments[0]), _reader(arguments[1]), most)
    if hint is bool:
        return flag_of
    if isinstance(hint, type) and issubclass(hint, StrEnum):
        return partial(_choice, hint)
    if isinstance(hint, type) and hasattr(hint, "from_json"):
        return partial(_nested, hint)
    raise TypeError(f"no reader bounds {hint}")


def _nested(kind: Any, value: object, name: str) -> object:
    return kind.from_json(mapping_of(value, name) if issubclass(kind, Form) else value)


def _or_none(read_one: Reader, value: object, name: str) -> object:
    return None if value is None else read_one(value, name)


def _members(kind: Callable[[Any], object], read_one: Reader, most: Most, value: object, name: str) -> object:
    return kind([read_one(one, name) for one in list_of(value, name, most.members)])


def _pairs(read_key: Reader, read_value: Reader, most: Most, value: object, name: str) -> dict[Any, Any]:
    pairs = mapping_of(value, name)
    if len(pairs) > most.members:
        raise ValueError(f"{name} has more than {most.members} members")
    return {read_key(key, name): read_value(one, name) for key, one in pairs.items()}


def _choice(kind: type[StrEnum], value: object, name: str) -> StrEnum:
    try:
        return kind(text_of(value, name))
    except ValueError:
        raise ValueError(f"{name} is none of {', '.join(kind)}") from None


def _written(value: Any) -> Any:
    match value:
        case bytes():
            return key_text(value)
        case StrEnum():
            return value.value
        case tuple():
            return [_written(one) for one in value]
        case frozenset():
            return sorted(_written(one) for one in value)
        case Mapping():
            return {_written(key): _written(one) for key, one in value.items()}
    return value.to_json() if hasattr(value, "to_json") else value
