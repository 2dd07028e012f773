"""The JSON form of a record follows from its type hints: every field of every kind has a reader that bounds it."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, make_dataclass
from enum import StrEnum
from typing import Annotated

import pytest

from kube_rewrap.worker import records
from kube_rewrap.worker.records.form import (
    Count,
    Flat,
    Form,
    Key,
    Later,
    Most,
    Name,
    Named,
    Row,
    Text,
    Time,
    read,
    whole,
    within,
)


def kinds() -> list[type[Form | Row]]:
    """All classes of worker/records with a form."""
    for module in pkgutil.iter_modules(records.__path__):
        importlib.import_module(f"{records.__name__}.{module.name}")
    found: list[type[Form | Row]] = [*Form.__subclasses__(), *Row.__subclasses__()]
    return [kind for kind in found if kind.__module__.startswith(records.__name__)]


def read_nothing(kind: type[Form | Row]) -> None:
    """Read an empty form: TypeError, naming the field, if a field has no reader; ValueError if one is required."""
    if issubclass(kind, Form):
        read(kind, {})
    else:
        kind.from_json([])


def test_every_field_of_every_kind_is_bounded() -> None:
    assert len(kinds()) > 5
    for kind in kinds():
        with suppress(ValueError):
            read_nothing(kind)


@pytest.mark.parametrize("hint", [int, str, float, bytes, dict, object, tuple[int, ...], str | None, Later[str]])
def test_a_field_without_a_reader_is_refused(hint: object) -> None:
    kind = make_dataclass("Unbounded", [("one", hint)], bases=(Form,))
    with pytest.raises(TypeError, match=r"Unbounded\.one: no reader bounds"):
        read_nothing(kind)


class Color(StrEnum):
    RED = "red"
    BLUE = "blue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Point(Row):
    x: Count
    y: Annotated[int, whole(least=-9, most=9)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inner(Form):
    names: tuple[Name, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outer(Form):
    id: Annotated[str, within(most=5)]
    inner: Flat[Inner]
    color: Color
    key: Key
    points: Annotated[tuple[Point, ...], Most(2)]
    by_name: Annotated[Mapping[Text, Count], Most(1), Named("by")]
    tags: frozenset[Text]
    at: Time | None
    is_new: Later[bool] = True
    wanted: Annotated[Count, Named(former="wish")] = 3


VALUE = Outer(
    id="a",
    inner=Inner(names=("n",)),
    color=Color.RED,
    key=b"/k\xff",
    points=(Point(x=1, y=-2),),
    by_name={"b": 1},
    tags=frozenset({"t", "s"}),
    at=None,
)
GOOD: dict[str, object] = {
    "id": "a",
    "names": ["n"],
    "color": "red",
    "key": "/k\udcff",
    "points": [[1, -2]],
    "by": {"b": 1},
    "tags": ["s", "t"],
    "at": None,
    "is_new": True,
    "wanted": 3,
}


def test_a_form_is_an_object_with_the_fields_and_a_row_is_a_list() -> None:
    assert (VALUE.to_json(), Outer.from_json(GOOD)) == (GOOD, VALUE)


def test_a_later_field_may_be_absent_a_former_name_is_read_and_an_unknown_field_is_ignored() -> None:
    older = {name: one for name, one in GOOD.items() if name not in ("is_new", "wanted", "at")}
    assert Outer.from_json({**older, "wish": 3, "newer": []}) == VALUE


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("id", "123456", "id is no text of at most 5 characters"),
        ("names", ["/"], "names is not of the required form"),
        ("color", "green", "color is none of red, blue"),
        ("key", 1, "key is no text"),
        ("points", [[1, 2]] * 3, "points is no list of at most 2"),
        ("points", [[1]], "a list of x, y is no list of 2"),
        ("points", [[True, 1]], f"x is no whole number from 0 to {2**63 - 1}"),
        ("points", [[1, 10]], "y is no whole number from -9 to 9"),
        ("by", {"a": 1, "b": 2}, "by has more than 1 members"),
        ("by", [], "by is no object with fields"),
        ("tags", [1], "tags is no text"),
        ("at", float("inf"), "at is no number from 0 to"),
        ("is_new", 1, "is_new is neither true nor false"),
        ("wanted", None, "wanted is no whole number"),
    ],
)
def test_a_value_out_of_bounds_is_refused_by_the_name_of_its_field(field: str, value: object, sentence: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(sentence)}"):
        Outer.from_json({**GOOD, field: value})
