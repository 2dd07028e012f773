"""A JSON text as a tree, by encoding/json's rules. It has no lines: faults are located by their path.

Go differs from Python's json in refusing NaN and Infinity, and in replacing lone surrogates by U+FFFD.
"""

from __future__ import annotations

import json
import re
from typing import NoReturn

from kube_rewrap.config.parsing.node import Field, Node, NodeKind
from kube_rewrap.config.parsing.yaml_events import UnreadableTextError

MAX_DEPTH = 100
"""As in YAML: an EncryptionConfiguration is 9 deep."""

# A string, also one without an end: if that did not match, the search would start at each of its quotes again.
_STRING_OR_BRACKET = re.compile(r'"(?:[^"\\]++|\\.)*+"?|[\[\]{}]', re.DOTALL)
_SURROGATE = re.compile("[\ud800-\udfff]")

_Value = Node | str | bool | list["_Value"] | None


def parse_json(text: str) -> Node:
    """Return the tree of a text that is one JSON value. Raises UnreadableTextError."""
    _check_depth(text)
    decoder = json.JSONDecoder(
        object_pairs_hook=_object,
        parse_int=lambda digits: Node(NodeKind.INT, None, digits),
        parse_float=lambda digits: Node(NodeKind.FLOAT, None, digits),
        parse_constant=_refuse_constant,
    )
    try:
        return _node(decoder.decode(text))
    except json.JSONDecodeError as error:
        # Its message is one of json's own sentences; its .doc is the whole text, so it must not be chained.
        refused = UnreadableTextError(f"it starts as JSON and is not JSON: {error.msg}", error.lineno)
    raise refused


def _refuse_constant(_: str) -> NoReturn:
    raise UnreadableTextError("a number is infinite or not a number, which JSON can't express", None)


def _object(pairs: list[tuple[str, _Value]]) -> Node:
    fields = tuple(Field(_text(name), None, _node(value)) for name, value in pairs)
    return Node(NodeKind.MAPPING, None, fields=fields)


def _node(value: _Value) -> Node:
    match value:
        case Node():
            return value
        case None:
            return Node(NodeKind.NULL, None)
        case bool():
            return Node(NodeKind.BOOL, None, "true" if value else "false")
        case str():
            return Node(NodeKind.STRING, None, _text(value))
        case list():
            return Node(NodeKind.SEQUENCE, None, items=tuple(_node(item) for item in value))


def _text(value: str) -> str:
    return _SURROGATE.sub("\ufffd", value)


def _check_depth(text: str) -> None:
    """Raise UnreadableTextError for deep nesting, before the decoder would recurse into it."""
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(text):
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(found[0], 0)
        if depth > MAX_DEPTH:
            raise UnreadableTextError(f"it is nested deeper than {MAX_DEPTH} levels", None)
