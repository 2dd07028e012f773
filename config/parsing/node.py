"""The plain tree of a YAML or JSON text: kinds, texts and lines of values, without any meaning of fields.

A scalar may be key material, and so may a field name that has the wrong indentation: reprs mask both.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class NodeKind(StrEnum):
    """What a value is to Go's JSON decoder, after YAML's own rules have been applied."""

    MAPPING = "mapping"
    SEQUENCE = "list"
    STRING = "string"
    BOOL = "boolean"
    INT = "integer"
    FLOAT = "floating-point number"
    NULL = "null"

    @property
    def described(self) -> str:
        """The kind with its article, for messages."""
        if self is NodeKind.NULL:
            return "null"
        return f"an {self}" if self is NodeKind.INT else f"a {self}"


@dataclass(frozen=True, slots=True, repr=False)
class Node:
    """One value of the document."""

    kind: NodeKind
    line: int | None
    """Line of its first character, counted from 1; None in JSON."""
    text: str = ""
    """STRING: the string. INT and FLOAT: the number as JSON text. BOOL: `true` or `false`. Else empty."""
    items: tuple[Node, ...] = ()
    """SEQUENCE: its elements."""
    fields: tuple[Field, ...] = ()
    """MAPPING: its fields in file order, duplicates included, merge keys (`<<`) already resolved."""

    def __repr__(self) -> str:
        return f"Node({self.kind.name}, line={self.line})"


@dataclass(frozen=True, slots=True, repr=False)
class Field:
    """One field of a mapping."""

    name: str
    line: int | None
    value: Node

    def __repr__(self) -> str:
        return f"Field(line={self.line}, value={self.value!r})"
