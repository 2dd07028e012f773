"""libyaml's parser, of which kube-apiserver's goyaml is a port; its errors quote nothing of the document.

libyaml is newer than goyaml and accepts a question mark inside an unquoted flow scalar. goyaml refuses it, so this
module does, too. Where the two still differ, libyaml refuses more: `[a:, b]`, and a comma or bracket in a tag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml
from yaml.events import (
    CollectionEndEvent,
    CollectionStartEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    ScalarEvent,
    StreamEndEvent,
)

from kube_rewrap.config.errors import Fault, SettingsError

try:
    from yaml import CBaseLoader
except ImportError:
    remedy = "install one of its wheels, or build it where libyaml's headers are installed"
    raise SettingsError("installation", (Fault("PyYAML", "was built without libyaml", remedy),)) from None

if TYPE_CHECKING:
    from collections.abc import Iterator

_MAX_TAG_DIRECTIVES = 100
"""libyaml compares each with all before it: a file of nothing else would take half a minute."""


class UnreadableTextError(ValueError):
    """The text is no YAML. Message and line are ours or libyaml's constants; nothing of the document is in them."""

    def __init__(self, message: str, line: int | None) -> None:
        super().__init__(message)
        self.line = line


def read_events(text: str) -> Iterator[Event]:
    """Yield the events of the first document, its content only. Yields nothing for an empty stream.

    Positions count characters. Raises UnreadableTextError. Text after the first document is not read, as in goyaml.
    """
    if text.count("%TAG") > _MAX_TAG_DIRECTIVES:
        raise UnreadableTextError(f"it has more than {_MAX_TAG_DIRECTIVES} %TAG directives", None)
    events = yaml.parse(text, Loader=CBaseLoader)
    event = _take(events)
    while not isinstance(event, DocumentStartEvent):
        if isinstance(event, StreamEndEvent):
            return
        event = _take(events)
    if event.version is not None and tuple(event.version) != (1, 1):
        raise UnreadableTextError("the %YAML directive names another version than 1.1", line_of(event))
    flow_level = 0
    while not isinstance(event := _take(events), DocumentEndEvent):
        if isinstance(event, CollectionStartEvent):
            flow_level += bool(event.flow_style)
        elif isinstance(event, CollectionEndEvent):
            flow_level -= flow_level > 0
        elif flow_level and isinstance(event, ScalarEvent) and not event.style and "?" in event.value:
            raise UnreadableTextError(
                "a value in brackets or braces holds a question mark and no quotes", line_of(event)
            )
        yield event


def line_of(event: Event) -> int:
    """Return the line on which an event starts, counted from 1."""
    return 1 if event.start_mark is None else event.start_mark.line + 1


def _take(events: Iterator[Event]) -> Event:
    refused: UnreadableTextError
    try:
        event = next(events)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ", ".join(part for part in (error.context, error.problem) if part)
        refused = UnreadableTextError(message or "it is not YAML", None if mark is None else mark.line + 1)
    except yaml.YAMLError:
        refused = UnreadableTextError("it holds a character that YAML does not allow", None)
    else:
        return event
    # Outside the handler, so that no error of PyYAML is chained: it may hold the text.
    raise refused
