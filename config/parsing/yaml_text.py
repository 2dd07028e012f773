"""The first document of a YAML stream as a tree, by goyaml.v2's rules.

It does not use PyYAML's composer and constructors: they keep the last of duplicate keys, resolve other words than
goyaml does, and their errors quote the document. Instead, this module

- resolves anchors, aliases and merge keys (`<<`); a merged field that clashes stays a duplicate, as in goyaml's strict
  mode;
- bounds the tree in depth and, with aliases counted at their full size, in nodes;
- types a scalar by `scalars.resolve`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from yaml.events import (
    AliasEvent,
    CollectionEndEvent,
    Event,
    MappingStartEvent,
    NodeEvent,
    ScalarEvent,
    SequenceStartEvent,
)

from kube_rewrap.config.parsing import scalars
from kube_rewrap.config.parsing.node import Field, Node, NodeKind
from kube_rewrap.config.parsing.yaml_events import UnreadableTextError, line_of, read_events

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_DEPTH = 100
"""An EncryptionConfiguration is 9 deep."""
MAX_NODES = 200_000
"""Ten thousand keys are 50,000 nodes; ten aliases of ten aliases of ten … pass this at once."""

_STRINGS_AS_KEYS = {NodeKind.STRING, NodeKind.INT, NodeKind.FLOAT, NodeKind.BOOL}
_NOT_FINITE = {"nan", "inf", "-inf"}


def parse_yaml(text: str) -> Node:
    """Return the tree of the first document, a NULL node for an empty stream. Raises UnreadableTextError."""
    composer = _Composer(read_events(text))
    return composer.root()


class _Composer:
    """Builds nodes from events. `_sizes` counts a node with all below it, aliases at their full size."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        # None while the anchored node is still being built: an alias to it would contain itself.
        self._anchors: dict[str, tuple[Node, int] | None] = {}
        self._nodes = 0

    def root(self) -> Node:
        event = next(self._events, None)
        return Node(NodeKind.NULL, None) if event is None else self._compose(event, 1)

    def _compose(self, event: Event, depth: int) -> Node:
        line = line_of(event)
        if depth > MAX_DEPTH:
            raise UnreadableTextError(f"it is nested deeper than {MAX_DEPTH} levels", line)
        if isinstance(event, AliasEvent):
            return self._alias(event, line)
        before = self._nodes
        self._count(1, line)
        anchor = event.anchor if isinstance(event, NodeEvent) else None
        if anchor is not None:
            self._anchors[anchor] = None
        node = self._content(event, line, depth)
        if anchor is not None:
            self._anchors[anchor] = node, self._nodes - before
        return node

    def _content(self, event: Event, line: int, depth: int) -> Node:
        if isinstance(event, MappingStartEvent):
            return Node(NodeKind.MAPPING, line, fields=tuple(self._fields(depth)))
        if isinstance(event, SequenceStartEvent):
            items = tuple(self._compose(item, depth + 1) for item in self._until_end())
            return Node(NodeKind.SEQUENCE, line, items=items)
        if isinstance(event, ScalarEvent):
            return _scalar(event, line)
        raise TypeError("the parser yielded an event that starts no node")

    def _until_end(self) -> Iterator[Event]:
        while not isinstance(event := next(self._events), CollectionEndEvent):
            yield event

    def _fields(self, depth: int) -> Iterator[Field]:
        for event in self._until_end():
            merges = _is_merge(event)
            key = self._compose(event, depth + 1)
            value = self._compose(next(self._events), depth + 1)
            if merges:
                yield from _merged(value, line_of(event))
            elif key.kind in _STRINGS_AS_KEYS:
                yield Field(key.text, line_of(event), value)
            else:
                raise UnreadableTextError(f"a field name is {key.kind.described}, not a string", line_of(event))

    def _alias(self, event: AliasEvent, line: int) -> Node:
        if event.anchor not in self._anchors:
            raise UnreadableTextError("an alias refers to an anchor that is not defined before it", line)
        target = self._anchors[event.anchor]
        if target is None:
            raise UnreadableTextError("an anchor contains itself", line)
        node, size = target
        self._count(size, line)
        return node

    def _count(self, nodes: int, line: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise UnreadableTextError(f"it has more than {MAX_NODES} values, aliases expanded", line)


def _scalar(event: ScalarEvent, line: int) -> Node:
    # The tag "!" means: resolve the scalar as if it had no tag and no quotes.
    tag = None if event.tag == "!" else event.tag
    node = scalars.resolve(event.value, tag, line, plain=bool(event.implicit[0]))
    if node is None:
        raise UnreadableTextError("a value does not fit its explicit tag", line)
    if node.kind is NodeKind.FLOAT and node.text in _NOT_FINITE:
        raise UnreadableTextError("a number is infinite or not a number, which JSON can't express", line)
    return node


def _is_merge(event: Event) -> bool:
    if not isinstance(event, ScalarEvent) or event.value != "<<":
        return False
    return bool(event.implicit[0]) or event.tag == scalars.MERGE


def _merged(value: Node, line: int) -> Iterator[Field]:
    """Yield the fields that a merge key brings in, later mappings of a list first, as goyaml applies them."""
    sources = reversed(value.items) if value.kind is NodeKind.SEQUENCE else (value,)
    for source in sources:
        if source.kind is not NodeKind.MAPPING:
            raise UnreadableTextError("a merge key (<<) takes a mapping or a list of mappings", line)
        yield from source.fields
