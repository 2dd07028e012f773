"""One setting: what its field in `schema.py` declares beside the default.

A field calls `setting(...)` where another dataclass calls `field(...)`. Parsing, checks, flags with their `--help`, and
the tables of docs/settings.md (`tools/settings_page.py`) read the declaration as a `Setting`. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.errors import Fault, SettingsError

T = TypeVar("T")

_KINDS = {
    int: "a whole number",
    float: "a number",
    str: "a text",
    SecretBytes: "a text",
    bool: "true or false",
    tuple: "a list of texts",
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """The numbers that a setting takes: `low` to `high`, both included. 0 is included only by `or_zero`."""

    low: float
    high: float | None = None
    or_zero: bool = False

    def include(self, number: float) -> bool:
        """Whether the setting takes this number. NaN is never taken."""
        if number == 0:
            return self.or_zero
        return self.low <= number and (self.high is None or number <= self.high)

    def __str__(self) -> str:
        """As messages and docs have it: `0 or 1 to 64`, `at least 10`, `above 0`."""
        if self.high is None:
            rest = f"at least {_plain(self.low)}" if self.low else "above 0"
        else:
            rest = f"{_plain(self.low)} to {_plain(self.high)}" if self.low else f"above 0, at most {_plain(self.high)}"
        return f"0 or {rest}" if self.or_zero else rest


def setting(
    default: T, unit: str, summary: str, flag: str = "", *, bounds: Bounds | None = None, variable: str = ""
) -> T:
    """Return a dataclass field with this declaration; its type is that of the default, as with `field`.

    `variable` is for a setting without a flag: the name of a flag's variable follows from the flag.
    """
    declared = {"unit": unit, "summary": summary, "bounds": bounds, "flag": flag, "variable": variable}
    made: T = field(default=default, metadata=declared)
    return made


def seconds(default: float, summary: str, flag: str = "", *, most: float = 3600) -> float:
    """Declare a time above 0."""
    return setting(default, "seconds", summary, flag, bounds=Bounds(0, most))


def file(summary: str, flag: str) -> str | None:
    """Declare the path of a file, none by default."""
    return setting(None, "file", summary, flag)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A row of the table of settings."""

    group: str
    """Its table in the settings file, and its field of `Settings`."""
    name: str
    """Its key in that table, and its field of the group."""
    kind: type
    """`int`, `float`, `str`, `bool`, `SecretBytes`, or `tuple` for texts. Where the default is None, None is valid."""
    default: object
    unit: str
    summary: str
    """What it is, in one phrase, for `--help`. The docstring below the field adds details and the reason."""
    bounds: Bounds | None
    flag: str
    """`--name`; empty where only the settings file, or a variable, sets it."""
    variable: str

    @property
    def path(self) -> str:
        """The name in messages: `pace.rate`."""
        return f"{self.group}.{self.name}"

    @property
    def default_text(self) -> str:
        """The default as an operator writes it; `none` where it is None or empty."""
        match self.default:
            case None | ():
                return "none"
            case bool():
                return str(self.default).lower()
            case int() | float():
                return _plain(self.default)
            case SecretBytes():
                return self.default.reveal().decode()
            case _:
                return ",".join(self.default) if isinstance(self.default, tuple) else str(self.default)

    @property
    def help(self) -> str:
        """The summary and the default, for `--help` and for messages."""
        text = self.summary.replace("`", "")
        starts_with_a_word = text[1].islower()  # unlike URL and PEM
        default = "" if self.default in {None, (), False} else f" (default {self.default_text})"
        return (text[0].lower() if starts_with_a_word else text[0]) + text[1:] + default

    def typed(self, value: object, source: str) -> object:
        """Return a value of a settings file in the field's own type. Raises SettingsError naming `source`."""
        if isinstance(value, bool) is (self.kind is bool):
            if self.kind is tuple and isinstance(value, list) and all(isinstance(item, str) for item in value):
                return tuple(value)
            if self.kind is SecretBytes and isinstance(value, str):
                return SecretBytes(value.encode())
            if self.kind is float and isinstance(value, int):
                with suppress(OverflowError):
                    return float(value)
            if isinstance(value, self.kind):
                return value
        message = f"must be {_KINDS[self.kind]}"
        raise SettingsError(source, (Fault(self.path, message, f"give {self.unit}: {self.help}"),))


def settings_in(group: str, values: type) -> Iterator[Setting]:
    """Yield the settings that a group's dataclass declares, in its order."""
    hints = get_type_hints(values)
    for one in fields(values):
        yield Setting(group=group, name=one.name, kind=_kind(hints[one.name]), default=one.default, **one.metadata)


def _kind(hint: Any) -> type:
    """Return `float` for `float | None`, `tuple` for `tuple[str, ...]`."""
    alternatives = get_args(hint) if isinstance(hint, UnionType) else (hint,)
    [wanted] = [one for one in alternatives if one is not NoneType]
    kind: type = get_origin(wanted) or wanted
    return kind


def _plain(number: float) -> str:
    return str(int(number)) if number == int(number) else str(number)
