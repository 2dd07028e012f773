"""Edits of one list in the text of a YAML or JSON document: insert as second, move to the front, remove.

Text in, text out: every byte that is not part of the item stays as it is; no part of the file is serialised again. Not
handled: what the lists mean, and whether the result means what was intended (`edit`, which parses it again).

1. In block style whole lines move. An item includes the comment lines directly above its dash in the dash's column, and
   those below its last line that are indented more than the dash. Blank lines between items stay where they are.
2. In flow style and JSON the items change places, and the text between them stays.
3. A flow list with comments between its items is refused: which item a comment belongs to would be a guess.
4. A text without a line break at its end keeps none.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from kube_rewrap.config.editing.pieces import Path, Piece, Unsafe, find
from kube_rewrap.config.parsing import scalars
from kube_rewrap.config.parsing.node import NodeKind

Tree = dict[str, "Tree"] | list["Tree"] | str
"""A new item: mappings, lists and strings. It holds a key, so it must not be shown."""

_LINE = re.compile(r"[^\n]*\n|[^\n]+")
_COMMENT = re.compile(r"( *)#")
_PLAIN = re.compile(r"[A-Za-z0-9+/][A-Za-z0-9+/=_.-]*")


def insert_second(text: str, path: Path, item: Tree) -> str:
    """Return the text with `item` after the first item of the list at `path`, in the style of that one.

    Raises Unsafe.
    """
    where = _find(text, path)
    flow = where.start_of(0) in "{["
    if where.is_flow:
        gaps = where.gaps()
        between = gaps[1] if len(where.items) > 1 else "," + (gaps[0] if "\n" in gaps[0] else " ")
        at = where.items[0].end
        return text[:at] + between + where.in_flow(item) + text[at:]
    column, gap = where.whole.column, where.gap()
    body = [where.in_flow(item)] if flow else _in_block(item, where.deeper())
    dashed = [f"{' ' * column}-{' ' * (gap - 1)}{body[0]}", *(" " * (column + gap) + line for line in body[1:])]

    def insert(lines: list[str], spans: list[slice]) -> list[str]:
        end = "\r\n" if lines[spans[0].start].endswith("\r\n") else "\n"
        return lines[: spans[0].stop] + [line + end for line in dashed] + lines[spans[0].stop :]

    return where.on_lines(insert)


def move_to_front(text: str, path: Path, index: int) -> str:
    """Return the text with the item at `index` as the first one of the list at `path`. Raises Unsafe."""
    where = _find(text, path)
    if where.is_flow:
        gaps = where.gaps()
        items = [text[item.start : item.end] for item in where.items]
        moved = [items[index], *items[:index], *items[index + 1 :]]
        inside = "".join(gap + item for gap, item in zip(gaps, moved, strict=False))
        return text[: where.whole.start + 1] + inside + text[where.items[-1].end :]

    def move(lines: list[str], spans: list[slice]) -> list[str]:
        front = spans[0].start
        return lines[:front] + lines[spans[index]] + lines[front : spans[index].start] + lines[spans[index].stop :]

    return where.on_lines(move)


def remove(text: str, path: Path, index: int) -> str:
    """Return the text without the item at `index` of the list at `path`, which has others. Raises Unsafe."""
    where = _find(text, path)
    if where.is_flow:
        where.gaps()
        if index:
            return text[: where.items[index - 1].end] + text[where.items[index].end :]
        return text[: where.items[0].start] + text[where.items[1].start :]
    return where.on_lines(lambda lines, spans: lines[: spans[index].start] + lines[spans[index].stop :])


# -------------------------------------------------------------------------------------------------------------- lists


def _find(text: str, path: Path) -> _List:
    whole, parent = find(text, path)
    return _List(text, path, whole, whole.column - parent.column)


@dataclass(frozen=True, slots=True, repr=False)
class _List:
    """A list with at least one item, and the text around it."""

    text: str
    path: Path
    whole: Piece
    indent: int
    """Columns between the name of its field and a block list."""

    @property
    def items(self) -> tuple[Piece, ...]:
        return self.whole.children

    @property
    def is_flow(self) -> bool:
        return self.text[self.whole.start] == "["

    def start_of(self, index: int) -> str:
        return self.text[self.items[index].start]

    def gaps(self) -> list[str]:
        """Return the texts before, between and after the items of a flow list. Raises Unsafe for comments."""
        starts = [item.start for item in self.items] + [self.whole.end - 1]
        ends = [self.whole.start + 1] + [item.end for item in self.items]
        gaps = [self.text[end:start] for end, start in zip(ends, starts, strict=True)]
        if any(gap.strip() not in {"", ","} for gap in gaps):
            raise Unsafe(self.path, "a list in brackets has comments between its items", self.whole.line)
        return gaps

    def gap(self) -> int:
        """Return the columns from its dash to the first item, 2 when that starts on the next line."""
        first = self.items[0]
        return first.column - self.whole.column if first.line == self.whole.line else 2

    def deeper(self) -> tuple[int, int]:
        """Return the columns by which the items indent a mapping, and a list, below its field's name.

        When no item has either: 2, and the columns by which this list is indented.
        """
        for item in self.items:
            for value in item.children[1::2]:
                inner = value.children[1] if value.children else value
                if inner.children and self.text[item.start] != "{" and self.text[inner.start] == "-":
                    return value.column - item.column, inner.column - value.column
        return 2, self.indent

    def in_flow(self, item: Tree) -> str:
        """Return an item in braces, with quotes and blanks as in the first item; in JSON it is JSON."""
        first = self.items[0]
        name, value = first.children[:2]
        quoted = self.text[name.start] == '"'
        blank = "" if quoted and self.text[name.end : value.start] == ":" else " "
        return _in_flow(item, blank, json.dumps if quoted and self.start_of(0) == "{" else _scalar)

    def on_lines(self, edit: Callable[[list[str], list[slice]], list[str]]) -> str:
        """Return the text with `edit` applied to its lines, given the lines of each item of a block list."""
        lines = _LINE.findall(self.text)
        spans = list(self._spans(lines))
        cut = not lines[-1].endswith("\n")
        if cut:
            lines[-1] += "\r\n" if lines[0].endswith("\r\n") else "\n"
        edited = "".join(edit(lines, spans))
        return edited.removesuffix("\n").removesuffix("\r") if cut else edited

    def _spans(self, lines: list[str]) -> Iterator[slice]:
        column = self.whole.column
        dash = " " * column + "-"
        done = 0
        for item in self.items:
            first = self._dash(lines, item, dash, done)
            while first > done and _comment_column(lines[first - 1]) == column:
                first -= 1
            done = self.text.count("\n", 0, item.end) + 1
            after = done
            while after < len(lines) and (not lines[after].strip() or _comment_column(lines[after]) > column):
                after += 1
                # Blank lines belong to the item only if one of its comments follows.
                done = after if lines[after - 1].strip() else done
            yield slice(first, done)

    def _dash(self, lines: list[str], item: Piece, dash: str, done: int) -> int:
        """Return the line of an item's dash: that of its first character, or one above with only comments between."""
        for first in range(item.line - 1, done - 1, -1):
            if lines[first].startswith(dash):
                return first
            if first < item.line - 1 and lines[first].strip() and _comment_column(lines[first]) < 0:
                break
        raise Unsafe(self.path, "the dash of an item is not the first thing on its line", item.line)


def _comment_column(line: str) -> int:
    """Return the column of a line that is a comment; -1 for any other."""
    found = _COMMENT.match(line)
    return -1 if found is None else len(found[1])


# ------------------------------------------------------------------------------------------------------------ writing


def _scalar(value: str) -> str:
    """Return a string so that YAML reads it as a string: unquoted where that is safe, else in JSON's quotes."""
    read = scalars.resolve(value, None, 1, plain=True) if _PLAIN.fullmatch(value) else None
    return value if read is not None and read.kind is NodeKind.STRING else json.dumps(value, ensure_ascii=False)


def _in_flow(item: Tree, blank: str, write: Callable[[str], str]) -> str:
    match item:
        case str():
            return write(item)
        case list():
            return "[" + f",{blank}".join(_in_flow(part, blank, write) for part in item) + "]"
        case dict():
            fields = (f"{write(name)}:{blank}{_in_flow(value, blank, write)}" for name, value in item.items())
            return "{" + f",{blank}".join(fields) + "}"


def _in_block(item: Tree, deeper: tuple[int, int]) -> list[str]:
    """Return the lines of a mapping, its first field in column 0."""
    match item:
        case str():
            return [_scalar(item)]
        case list():
            items = [_in_block(part, deeper) for part in item]
            return [f"{mark}{line}" for lines in items for mark, line in zip(_marks(lines), lines, strict=True)]
        case dict():
            lines: list[str] = []
            for name, value in item.items():
                inner = _in_block(value, deeper)
                if isinstance(value, str):
                    lines.append(f"{name}: {inner[0]}")
                else:
                    by = deeper[1] if isinstance(value, list) else deeper[0]
                    lines += [f"{name}:", *(" " * by + line for line in inner)]
            return lines


def _marks(lines: list[str]) -> list[str]:
    return ["- ", *["  "] * (len(lines) - 1)]
