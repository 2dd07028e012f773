"""YAML scalars to values as kube-apiserver sees them: YAML 1.1 words, Go's numbers, then JSON.

Follows `resolve` of sigs.k8s.io/yaml's goyaml.v2, and encoding/json for the text of a number. Known to differ
from PyYAML: `010` and `0o10` are 8, `1e3` is a number, `y` is true, `12:30` and dates are strings.
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from kube_rewrap.config.parsing.golang import decode_base64
from kube_rewrap.config.parsing.node import Node, NodeKind

if TYPE_CHECKING:
    from collections.abc import Mapping

MERGE = "tag:yaml.org,2002:merge"

_BOOL = "tag:yaml.org,2002:bool"
_INT = "tag:yaml.org,2002:int"
_FLOAT = "tag:yaml.org,2002:float"
_NULL = "tag:yaml.org,2002:null"
_TIMESTAMP = "tag:yaml.org,2002:timestamp"
_BINARY = "tag:yaml.org,2002:binary"

_KIND_OF_TAG = {
    _BOOL: NodeKind.BOOL,
    _INT: NodeKind.INT,
    _FLOAT: NodeKind.FLOAT,
    _NULL: NodeKind.NULL,
}


def _cases(*words: str) -> set[str]:
    return {form for word in words for form in (word, word.capitalize(), word.upper())}


_WORDS: Mapping[str, tuple[NodeKind, str]] = {
    **dict.fromkeys(_cases("y", "yes", "true", "on"), (NodeKind.BOOL, "true")),
    **dict.fromkeys(_cases("n", "no", "false", "off"), (NodeKind.BOOL, "false")),
    **dict.fromkeys(_cases("", "~", "null"), (NodeKind.NULL, "")),
    **dict.fromkeys((".nan", ".NaN", ".NAN"), (NodeKind.FLOAT, "nan")),
    **dict.fromkeys((".inf", ".Inf", ".INF", "+.inf", "+.Inf", "+.INF"), (NodeKind.FLOAT, "inf")),
    **dict.fromkeys(("-.inf", "-.Inf", "-.INF"), (NodeKind.FLOAT, "-inf")),
}

_DECIMAL = re.compile(r"([-+]?)(0|[1-9][0-9]*)")
_OCTAL = re.compile(r"([-+]?)0[oO]?([0-7]+)")
_HEX = re.compile(r"([-+]?)0[xX]([0-9a-fA-F]+)")
_BINARY_DIGITS = re.compile(r"([-+]?)0[bB]([01]+)")
_YAML_FLOAT = re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?")
_DOT_FLOAT = re.compile(r"\.[0-9]+(?:[eE][-+]?[0-9]+)?")
_DATE = re.compile(
    r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}"
    r"(?:[Tt][0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(?:\.[0-9]+)?(?:[Zz]|[-+][0-9]{2}:[0-9]{2})"
    r"| [0-9]{1,2}:[0-9]{1,2}:[0-9]{1,2}(?:\.[0-9]+)?)?",
)
_LARGEST_WITHOUT_EXPONENT = 1e21
_BEYOND_64_BITS = 2**64
"""Larger integers are clamped to this: no field takes them, and int() has a limit on digits."""
_MAX_INT_DIGITS = 80


def resolve(text: str, tag: str | None, line: int, *, plain: bool) -> Node | None:
    """Return the value of a scalar; None where goyaml refuses the tag for this text.

    `tag` is the resolved explicit tag or None; `plain` is true for an unquoted scalar without a tag.
    """
    if tag is None:
        return _implicit(text, line) if plain else Node(NodeKind.STRING, line, text)
    if tag == _BINARY:
        return _binary(text, line)
    if tag == _TIMESTAMP:
        return Node(NodeKind.STRING, line, text) if _DATE.fullmatch(text) else None
    wanted = _KIND_OF_TAG.get(tag)
    if wanted is None:
        return Node(NodeKind.STRING, line, text)  # !!str, and any tag that goyaml does not know
    node = _implicit(text, line)
    if wanted is NodeKind.FLOAT and node.kind is NodeKind.INT:
        return Node(NodeKind.FLOAT, line, _go_float(float(node.text)))
    return node if node.kind is wanted else None


def _implicit(text: str, line: int) -> Node:
    word = _WORDS.get(text)
    if word is not None:
        return Node(word[0], line, word[1])
    number = _number(text)
    return Node(NodeKind.STRING, line, text) if number is None else Node(number[0], line, number[1])


def _binary(text: str, line: int) -> Node | None:
    data = decode_base64(text)
    # encoding/json writes U+FFFD for bytes that are not UTF-8.
    return None if data is None else Node(NodeKind.STRING, line, data.decode("utf-8", "replace"))


def _number(text: str) -> tuple[NodeKind, str] | None:
    if not text or text[0] not in "+-.0123456789":
        return None
    if text[0] == ".":
        return _float(text) if _DOT_FLOAT.fullmatch(text) else None
    plain = text.replace("_", "")
    integer = _integer(plain)
    if integer is not None:
        return NodeKind.INT, str(integer)
    return _float(plain) if _YAML_FLOAT.fullmatch(plain) else None


def _integer(plain: str) -> int | None:
    """Read what Go's ParseInt reads with base 0. Past 64 bits it stays an integer, as in goyaml's later versions."""
    for pattern, base in ((_DECIMAL, 10), (_OCTAL, 8), (_HEX, 16), (_BINARY_DIGITS, 2)):
        found = pattern.fullmatch(plain)
        if found:
            digits = found[2].lstrip("0") or "0"
            size = int(digits, base) if len(digits) <= _MAX_INT_DIGITS else _BEYOND_64_BITS
            return min(size, _BEYOND_64_BITS) * (-1 if found[1] == "-" else 1)
    return None


def _float(plain: str) -> tuple[NodeKind, str] | None:
    value = float(plain)
    # Go's ParseFloat reports a range error instead of infinity, and the scalar stays a string.
    return None if math.isinf(value) else (NodeKind.FLOAT, _go_float(value))


def _go_float(value: float) -> str:
    """Return the number as JSON. Whole ones as encoding/json writes them: 1e3 is `1000`, so integer fields take it."""
    if not value.is_integer() or abs(value) >= _LARGEST_WITHOUT_EXPONENT:
        return repr(value)
    return ("-" if math.copysign(1.0, value) < 0 else "") + str(abs(int(value)))
