"""The key ranges that a watch over everything governed covers, and the resource of each key. Pure.

A resource is watched whether or not it has objects now, for it may get some. A wildcard is watched as a whole, and its
keys are sorted by resource. Names with overlapping ranges share one watch.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kube_rewrap.config.encryption.builtin import RESOURCES_BY_GROUP
from kube_rewrap.config.encryption.configuration import EncryptionConfiguration
from kube_rewrap.config.encryption.resources import ANY, GroupResource, Layout, Located
from kube_rewrap.worker.etcd.ranges import KeyRange


@dataclass(frozen=True, slots=True)
class Span:
    """A range to watch, and the configured names that require it."""

    range: KeyRange
    names: tuple[str, ...]


class Spans:
    """See the module's docstring. `all` do not overlap."""

    def __init__(self, configuration: EncryptionConfiguration, layout: Layout) -> None:
        self._configuration = configuration
        self._layout = layout
        names = list(dict.fromkeys(map(GroupResource.parse, configuration.resource_names())))
        exact = {layout.prefix_of(name): str(name) for name in names if not name.is_wildcard}
        self._exact = {prefix: name for prefix, name in exact.items() if prefix is not None}
        self._known: dict[bytes, str | None] = {}
        self.all = _merged([(one, str(name)) for name in names for one in self._ranges(name)])

    def locate(self, key: bytes) -> tuple[str, bytes] | None:
        """Return the governed resource of an etcd key, and its storage path; None if there is none."""
        unit = self._layout.top_level_unit(key)
        if unit is None or self._layout.never_encrypted(key):
            return None
        if unit not in self._known:
            self._known[unit] = self._exact.get(unit) or self._governed(unit)
        resource = self._known[unit]
        return None if resource is None else (resource, unit)

    def _governed(self, unit: bytes) -> str | None:
        located = self._layout.resource_at(unit + b"name")
        if isinstance(located, Located) and self._configuration.providers_for(located.resource) is not None:
            return str(located.resource)
        return None

    def _ranges(self, name: GroupResource) -> Iterator[KeyRange]:
        prefixes: list[bytes | None]
        if self._layout.why_idle(name):
            prefixes = []
        elif name == ANY:
            prefixes = [self._layout.root]
        elif not name.is_wildcard:
            prefixes = [self._layout.prefix_of(name)]
        else:
            prefixes = [self._layout.prefix_of(one) for one in self._members(name.group)]
            if name.group not in RESOURCES_BY_GROUP:
                prefixes.append(self._layout.root + name.group.encode() + b"/")
        for prefix in prefixes:
            if prefix is not None and (prefix == self._layout.root or not self._layout.never_encrypted(prefix)):
                yield KeyRange.of_prefix(prefix)

    def _members(self, group: str) -> list[GroupResource]:
        extra = map(GroupResource.parse, (name for name, _ in self._layout.extra))
        known = (GroupResource(plural, group) for plural in RESOURCES_BY_GROUP.get(group, ()))
        return [*known, *(one for one in extra if one.group == group)]


def _merged(found: list[tuple[KeyRange, str]]) -> tuple[Span, ...]:
    """Return the ranges that no other one contains. Two prefix ranges are nested, or disjoint."""
    spans: list[Span] = []
    for one, name in sorted(found, key=lambda pair: pair[0].start):
        if spans and one.start in spans[-1].range:
            spans[-1] = Span(spans[-1].range, tuple(dict.fromkeys([*spans[-1].names, name])))
        else:
            spans.append(Span(one, (name,)))
    return tuple(spans)
