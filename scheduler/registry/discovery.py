"""Finds the governed key ranges of the registry, and the namespaces by which to divide them.

Reads keys only, in parts (`worker.etcd.parts`), so that etcd's work grows with the number of keys, not with its square;
where the keys of a resource do not matter, it skips them. It decrypts nothing, and its memory does not grow with the
store beyond one entry a namespace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from itertools import pairwise

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration
from kube_rewrap.config.encryption.resources import GroupResource, Layout, Located, UnknownResource
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.etcd.pages import read_keys
from kube_rewrap.worker.etcd.parts import Borders, Parts
from kube_rewrap.worker.etcd.ranges import KeyRange, key_text, prefix_end
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.inventory import ResourceRange

_PART = 2_000
"""Keys in a part where a survey reads only the first key of each storage path: etcd counts them in less than 1 ms."""
_LOOK = 16
_NAMESPACES = b"namespaces/"
_AFTER_SLASH = b"0"
_LONGEST_NAME = 63
"""Characters of a namespace's name at most, as kube-apiserver checks."""
_MOST_NAMESPACES = 100_000
"""Ten times what Kubernetes supports. A client that writes to etcd can invent any number."""


async def survey(store: Store, configuration: EncryptionConfiguration, layout: Layout) -> Territory:
    """Find every governed range that holds a key, and those that the configuration names exactly even if empty."""
    found: dict[str, KeyRange] = {}
    unknown: list[str] = []
    names = [GroupResource.parse(name) for name in configuration.resource_names()]
    for name in names:
        prefix = None if name.is_wildcard else layout.prefix_of(name)
        if prefix is not None:
            found[str(name)] = KeyRange.of_prefix(prefix)
    if any(name.is_wildcard for name in names):
        async for unit in _units(store, layout):
            located = layout.resource_at(unit + b"name")
            if isinstance(located, Located):
                if configuration.providers_for(located.resource) is not None:
                    found.setdefault(str(located.resource), KeyRange.of_prefix(unit))
            elif located is not None:
                unknown.append(key_text(unit))
    else:
        unknown = [
            key_text(unit)
            for unit in where_newer_ones_lie(names, layout)
            if (await store.keys(KeyRange.of_prefix(unit), 1))[0]
        ]
    idle = [(str(name), *why) for name in dict.fromkeys(names) if (why := layout.why_idle(name)) is not None]
    ends = await _ends_of_namespaces(store, layout)
    governed = (ResourceRange(name, found[name], Borders(found[name].start, ends)) for name in sorted(found))
    return Territory(tuple(governed), tuple(unknown), tuple(idle))


async def _ends_of_namespaces(store: Store, layout: Layout) -> list[bytes]:
    """Return the end of each namespace's keys below the path of any resource, sorted.

    Empty where the namespaces have another prefix than the governed resources, as on OpenShift. Leaves out keys that
    name no namespace, and what is beyond a bound: without an end, a part is only larger.
    """
    root, ends = layout.root + _NAMESPACES, list[bytes]()
    async with aclosing(read_keys(store, KeyRange.of_prefix(root))) as looks:
        async for look in looks:
            names = (key[len(root) :] for key in look)
            ends += [name + _AFTER_SLASH for name in names if 0 < len(name) <= _LONGEST_NAME]
            if len(ends) >= _MOST_NAMESPACES:
                break
    return sorted(ends)


def where_newer_ones_lie(names: Iterable[GroupResource], layout: Layout) -> Iterator[bytes]:
    """Yield the paths that a newer Kubernetes would use for unknown names, unless a known resource has them."""
    idle = (name for name in names if not name.is_wildcard and layout.prefix_of(name) is None)
    for unit in dict.fromkeys(layout.root + name.resource.encode() + b"/" for name in idle):
        if layout.top_level_unit(unit) == unit and isinstance(layout.resource_at(unit + b"name"), UnknownResource):
            yield unit


async def _units(store: Store, layout: Layout) -> AsyncIterator[bytes]:
    """Yield every storage path that holds a key."""
    borders = Borders(layout.root, sorted(path + _AFTER_SLASH for path in layout.paths))
    parts = Parts(KeyRange.of_prefix(layout.root), borders)
    while not parts.is_done:
        keys, left = await store.keys(parts.next(_PART), 1)
        parts.learn(keys, left, _PART)
        if keys:
            unit = layout.top_level_unit(keys[0])
            if unit is not None:
                yield unit
                parts.skip(prefix_end(unit), len(layout.root) + 1)


async def cut(store: Store, one: ResourceRange, every: int) -> list[ResourceRange]:
    """Split a range into pieces of at most `every` objects each, as counted now; together they are the whole range.

    Two neighbours have more than `every` objects. Reads a few keys of each piece, and has etcd count the others.
    """
    parts, borders, held = Parts(one.range, one.borders), [one.range.start], 0
    while not parts.is_done:
        part = parts.next(every)
        found, left = await store.keys(part, min(every, _LOOK))
        count = len(found) + left
        if count <= every:
            parts.leave(count, every)
        else:
            parts.learn(found, left, every)
            count = len(found)
        if held + count > every:
            borders.append(part.start)
            held = 0
        held += count
    return [ResourceRange(one.resource, KeyRange(*ends)) for ends in pairwise([*borders, one.range.end])]
