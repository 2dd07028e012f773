"""Finds where each value of a YAML or JSON document starts and ends in its text, by the events of the YAML parser.

Finds one list for `splice` and refuses what can't be edited without a guess: shared values (anchors, aliases, merge
keys), several documents, unusual line breaks. Pieces hold key material as text: their reprs are masked.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from yaml.events import AliasEvent, CollectionEndEvent, CollectionStartEvent, Event, MappingStartEvent, ScalarEvent

from kube_rewrap.config.errors import Fault
from kube_rewrap.config.parsing.yaml_events import UnreadableTextError, line_of, read_events

BY_HAND = "edit the file by hand: rotate --manual prints its new content for each step"

Path = tuple[str | int, ...]
"""Field names and indexes from the root, such as `("resources", 0, "providers")`."""

_ODD_BREAK = re.compile("\r(?!\n)|[\x85\u2028\u2029]")
# Possessive quantifiers: a \r fits two parts of the pattern, so n lines of them could be matched in 2^n ways.
_AFTER = re.compile(r"[ \t]*+(?:#[^\n]*+)?+(?:\r?\n(?:\.\.\.)?+[ \t\r]*+(?:#[^\n]*+)?+)*+")
_BLOCK_STYLES = {"|", ">"}


class Unsafe(ValueError):  # noqa: N818 - it never leaves this package
    """The text can't be edited without a guess. The fault holds nothing of the text."""

    def __init__(self, path: Path, message: str, line: int | None = None, remedy: str = BY_HAND) -> None:
        where = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path)
        self.fault = Fault(where.removeprefix("."), message, remedy, line)
        super().__init__(str(self.fault))


@dataclass(frozen=True, slots=True, repr=False)
class Piece:
    """The place of one value: its first character, and the one after its last, as indexes into the text."""

    start: int
    end: int
    line: int
    """Counted from 1."""
    column: int
    shared: bool
    """It is an alias, has an anchor, or is a collection with a tag or a merge key."""
    name: str = ""
    """The text of a scalar."""
    children: tuple[Piece, ...] = ()
    """Items of a list; of a mapping: field name, value, field name, value, and so on."""


def find(text: str, path: Path) -> tuple[Piece, Piece]:
    """Return the list at `path`, and the mapping that it is a field of. Raises Unsafe.

    The path must exist, and `encryption.load` must accept the text.
    """
    if _ODD_BREAK.search(text):
        raise Unsafe((), "it has line breaks other than LF and CR LF")
    parent = piece = _root(text)
    if not _AFTER.fullmatch(text, piece.end):
        raise Unsafe((), "text follows the first document, which kube-apiserver would ignore")
    for depth, part in enumerate(path):
        _check(piece, path[:depth])
        parent, piece = piece, _child(piece, part, path[: depth + 1])
    _check_all(piece, path)
    return piece, parent


def _child(piece: Piece, part: str | int, path: Path) -> Piece:
    if isinstance(part, int):
        return piece.children[part]
    fields = zip(piece.children[::2], piece.children[1::2], strict=True)
    found = next((value for name, value in fields if name.name == part), None)
    if found is None:
        raise Unsafe(path, "the field can't be found in the text", piece.line)
    return found


def _check(piece: Piece, path: Path) -> None:
    if piece.shared:
        raise Unsafe(path, "it has an anchor, alias, merge key or tag", piece.line)


def _check_all(piece: Piece, path: Path) -> None:
    _check(piece, path)
    for child in piece.children:
        _check_all(child, path)


def _root(text: str) -> Piece:
    refused: UnreadableTextError
    try:
        events = read_events(text)
        return _compose(next(events), events, text)
    except UnreadableTextError as error:
        refused = error
    # Outside the handler, so that nothing is chained.
    raise Unsafe((), f"its parts can't be found in the text: {refused}", refused.line)


def _compose(event: Event, events: Iterator[Event], text: str) -> Piece:
    start, end, column = _span(event)
    line, shared = line_of(event), isinstance(event, AliasEvent)
    if isinstance(event, ScalarEvent):
        if event.style in _BLOCK_STYLES:
            # The parser reports the start of the next token as its end.
            end = start + len(text[start:end].rstrip())
        return Piece(start, end, line, column, event.anchor is not None, event.value)
    if not isinstance(event, CollectionStartEvent):
        return Piece(start, end, line, column, shared)
    children: list[Piece] = []
    while not isinstance(inner := next(events), CollectionEndEvent):
        children.append(_compose(inner, events, text))
    # The parser ends a block collection where the next token starts, comments and all.
    end = _span(inner)[1] if text[start] in "{[" else children[-1].end if children else start
    shared = event.anchor is not None or event.tag is not None
    if isinstance(event, MappingStartEvent):
        shared = shared or any(name.name == "<<" for name in children[::2])
    return Piece(start, end, line, column, shared, children=tuple(children))


def _span(event: Event) -> tuple[int, int, int]:
    """Return where an event starts and ends, and the column of its start."""
    if event.start_mark is None or event.end_mark is None:
        raise TypeError("the parser yielded an event without its place")
    return event.start_mark.index, event.end_mark.index, event.start_mark.column
