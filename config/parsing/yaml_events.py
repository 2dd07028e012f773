"""PyYAML's parser, made to agree with goyaml's, and with errors that quote nothing of the document.

goyaml is a port of libyaml, and so is this parser, but for two things. libyaml takes tabs between tokens
(`name:<tab>x`) and inside plain scalars; PyYAML refuses them everywhere. And in flow context PyYAML ends a plain
scalar at a colon in front of a bracket, so that it reads `{identity:{}}`, which goyaml refuses.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import yaml
from yaml.events import DocumentEndEvent, DocumentStartEvent, Event, StreamEndEvent
from yaml.parser import Parser
from yaml.reader import Reader
from yaml.scanner import Scanner, ScannerError
from yaml.tokens import ScalarToken

if TYPE_CHECKING:
    from collections.abc import Iterator

    from yaml.error import Mark

_BREAKS = "\r\n\x85\u2028\u2029"
_ENDS = "\0" + _BREAKS
_BLANKS = " \t"
_BLANKS_AND_ENDS = _BLANKS + _ENDS
_DOCUMENT_MARKERS = {"---", "..."}
_QUOTED = re.compile(r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"")
# What a message of the scanner may quote: one character, or the name of a token such as '<block end>'.
_HARMLESS = re.compile(r"(['\"])(?:<[a-z ]+>|\\?.|\\x[0-9a-f]{2}|\\u[0-9a-f]{4})\1")


class Unreadable(ValueError):  # noqa: N818 - it never leaves this package
    """The text is no YAML. Message and line are ours; nothing of the document is in them or chained to them."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


def read_events(text: str) -> Iterator[Event]:
    """Yield the events of the first document, its content only. Yields nothing for an empty stream.

    Raises Unreadable. What stands behind the first document is not looked at, as in goyaml.
    """
    events = _Events(text)
    event = events.take()
    while not isinstance(event, DocumentStartEvent):
        if isinstance(event, StreamEndEvent):
            return
        event = events.take()
    if event.version is not None and tuple(event.version) != (1, 1):
        raise Unreadable("the %YAML directive names another version than 1.1", line_of(event))
    while not isinstance(event := events.take(), DocumentEndEvent):
        yield event


def line_of(event: Event) -> int:
    """Return the line on which an event starts, counted from 1."""
    return 1 if event.start_mark is None else event.start_mark.line + 1


class _Events:
    """Takes events one by one and translates what PyYAML raises."""

    def __init__(self, text: str) -> None:
        self._parser = _Parser(text)

    def take(self) -> Event:
        refused: Unreadable
        try:
            event: Event = self._parser.get_event()  # type: ignore[no-untyped-call]
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            refused = Unreadable(_describe(error), None if mark is None else mark.line + 1)
        except (yaml.YAMLError, ValueError, OverflowError):
            # An escape beyond Unicode, or a version directive of thousands of digits.
            refused = Unreadable("it holds a number or an escape that no YAML parser takes", self._parser.line + 1)
        else:
            return event
        # Raised out here, where no exception is being handled: PyYAML's marks hold the whole document,
        # and `from None` would hide them from print but leave them in __context__.
        raise refused


def _describe(error: yaml.MarkedYAMLError) -> str:
    parts = [part for part in (error.context, error.problem) if part]
    return _QUOTED.sub(_mask, ", ".join(parts)) or "it is not YAML"


def _mask(quoted: re.Match[str]) -> str:
    return quoted[0] if _HARMLESS.fullmatch(quoted[0]) else "something else"


class _Parser(Reader, Scanner, Parser):
    """The parser's parts, with the two methods of the scanner that differ from libyaml replaced."""

    flow_level: int
    allow_simple_key: bool
    column: int
    line: int
    indent: int

    def __init__(self, text: str) -> None:
        Reader.__init__(self, text)
        Scanner.__init__(self)
        Parser.__init__(self)

    def scan_to_next_token(self) -> None:
        """Skip blanks, comments and line breaks. A tab counts as a blank except where it would indent."""
        while True:
            while self.peek() == " " or (self.peek() == "\t" and (self.flow_level or not self.allow_simple_key)):
                self.forward()
            if self.peek() == "#":
                while self.peek() not in _ENDS:
                    self.forward()
            if not self._take_break():
                return
            if not self.flow_level:
                self.allow_simple_key = True

    def scan_plain(self) -> ScalarToken:
        """Scan an unquoted scalar. In flow context a colon ends it only before a blank: `{identity:{}}` is an error."""
        indent = self.indent + 1
        start = end = self.get_mark()
        text, between = list[str](), ""
        while self.peek() != "#" and not self._at_document_marker():
            word = self._take_word()
            if not word:
                break
            self.allow_simple_key = False
            text += [between, word]
            end = self.get_mark()
            between = self._take_plain_space(indent, start)
            # Nothing was skipped: what follows is an indicator. Too far left: the scalar ended on the line before.
            if not between or (not self.flow_level and self.column < indent):
                break
        return ScalarToken("".join(text), True, start, end)

    def _take_word(self) -> str:
        """Take the characters up to a blank, a break, or an indicator that ends a plain scalar."""
        length = 0
        while (character := self.peek(length)) not in _BLANKS_AND_ENDS:
            if character == ":" and self.peek(length + 1) in _BLANKS_AND_ENDS:
                break
            if self.flow_level and character in ",?[]{}":
                break
            length += 1
        return self._take(length)

    def _take_plain_space(self, indent: int, start: Mark) -> str:
        """Take blanks and breaks inside a plain scalar; return what they fold to."""
        blanks = self._take_blanks()
        if self.peek() not in _BREAKS:
            return blanks
        breaks = [self._take_break()]
        self.allow_simple_key = True
        while self.peek() in _BLANKS + _BREAKS and not self._at_document_marker():
            if self.peek() == "\t" and self.column < indent:
                raise ScannerError("while scanning a plain scalar", start, "found a tab that indents", self.get_mark())
            if self.peek() in _BLANKS:
                self.forward()
            else:
                breaks.append(self._take_break())
        first, rest = breaks[0], "".join(breaks[1:])
        return (rest or " ") if first == "\n" else first + rest

    def _take_break(self) -> str:
        taken: str = self.scan_line_break()  # type: ignore[no-untyped-call]
        return taken

    def _take_blanks(self) -> str:
        length = 0
        while self.peek(length) in _BLANKS:
            length += 1
        return self._take(length)

    def _take(self, length: int) -> str:
        taken: str = self.prefix(length)
        self.forward(length)
        return taken

    def _at_document_marker(self) -> bool:
        return self.column == 0 and self.prefix(3) in _DOCUMENT_MARKERS and self.peek(3) in _BLANKS_AND_ENDS
