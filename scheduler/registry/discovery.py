"""Finds the governed key ranges of the registry, and how many objects each namespace holds.

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
from kube_rewrap.scheduler.registry.census import BATCH_OBJECTS, NamespaceCount, ResourceCensus
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.etcd.pages import read_keys
from kube_rewrap.worker.etcd.parts import Parts
from kube_rewrap.worker.etcd.ranges import KeyRange, key_text, prefix_end
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.inventory import ResourceRange

_PART = 2_000
"""Keys in a part where a survey reads only the first key of each storage path: etcd counts them in less than 1 ms."""
_LOOK = 16


async def survey(store: Store, configuration: EncryptionConfiguration, layout: Layout) -> Territory:
    """Find every governed range that holds a key, and those that the configuration names exactly even if empty."""
    found: dict[str, ResourceRange] = {}
    unknown: list[str] = []
    names = [GroupResource.parse(name) for name in configuration.resource_names()]
    for name in names:
        prefix = None if name.is_wildcard else layout.prefix_of(name)
        if prefix is not None:
            found[str(name)] = ResourceRange(str(name), KeyRange.of_prefix(prefix))
    if any(name.is_wildcard for name in names):
        async for unit in _units(store, layout):
            located = layout.resource_at(unit + b"name")
            if isinstance(located, Located):
                if configuration.providers_for(located.resource) is not None:
                    found.setdefault(
                        str(located.resource), ResourceRange(str(located.resource), KeyRange.of_prefix(unit))
                    )
            elif located is not None:
                unknown.append(key_text(unit))
    else:
        unknown = [
            key_text(unit)
            for unit in where_newer_ones_lie(names, layout)
            if (await store.keys(KeyRange.of_prefix(unit), 1))[0]
        ]
    idle = [(str(name), *why) for name in dict.fromkeys(names) if (why := layout.why_idle(name)) is not None]
    return Territory(tuple(found[name] for name in sorted(found)), tuple(unknown), tuple(idle))


def where_newer_ones_lie(names: Iterable[GroupResource], layout: Layout) -> Iterator[bytes]:
    """Yield the paths that a newer Kubernetes would use for unknown names, unless a known resource has them."""
    idle = (name for name in names if not name.is_wildcard and layout.prefix_of(name) is None)
    for unit in dict.fromkeys(layout.root + name.resource.encode() + b"/" for name in idle):
        if layout.top_level_unit(unit) == unit and isinstance(layout.resource_at(unit + b"name"), UnknownResource):
            yield unit


async def _units(store: Store, layout: Layout) -> AsyncIterator[bytes]:
    """Yield every storage path that holds a key."""
    parts = Parts(KeyRange.of_prefix(layout.root))
    while not parts.is_done:
        keys, left = await store.keys(parts.next(_PART), 1)
        parts.learn(keys, left, _PART)
        if keys:
            unit = layout.top_level_unit(keys[0])
            if unit is not None:
                yield unit
                parts.skip(prefix_end(unit), len(layout.root) + 1)


async def take_census(store: Store, wanted: ResourceRange, namespace: str | None = None) -> ResourceCensus:
    """Count the objects of one resource by namespace; with `namespace`, cover only that one."""
    root = wanted.range.start
    covered = wanted
    if namespace is not None:
        covered = ResourceRange(wanted.resource, KeyRange.of_prefix(root + namespace.encode() + b"/"))
    counts = [count async for count in _namespaces(store, root, covered.range)]
    return ResourceCensus(covered, tuple(counts))


async def _namespaces(store: Store, root: bytes, keys: KeyRange) -> AsyncIterator[NamespaceCount]:
    """Count the keys of each namespace, and note where a batch may begin in a large one."""
    first, objects, cuts = b"", 0, list[bytes]()
    async with aclosing(read_keys(store, keys)) as looks:
        async for look in looks:
            for key in look:
                start = _start(root, key)
                if objects and not _belong_together(root, first, start):
                    yield NamespaceCount(_namespace(root, first), first, objects, tuple(cuts))
                    objects, cuts = 0, []
                if not objects:
                    first = start
                elif objects % BATCH_OBJECTS == 0:
                    cuts.append(key)
                objects += 1
    if objects:
        yield NamespaceCount(_namespace(root, first), first, objects, tuple(cuts))


def _start(root: bytes, key: bytes) -> bytes:
    """Return where a key's namespace begins; the key itself if it has none."""
    name, slash, _ = key[len(root) :].partition(b"/")
    return root + name + slash


def _belong_together(root: bytes, first: bytes, second: bytes) -> bool:
    """Whether two spans are of one namespace, or both of cluster scope."""
    return first == second or not any(b"/" in start[len(root) :] for start in (first, second))


def _namespace(root: bytes, start: bytes) -> str:
    name, slash, _ = start[len(root) :].partition(b"/")
    return key_text(name) if slash else ""


async def cut(store: Store, one: ResourceRange, every: int) -> list[ResourceRange]:
    """Split a range into pieces of at most `every` objects each, as counted now; together they are the whole range.

    Two neighbours have more than `every` objects. Reads a few keys of each piece, and has etcd count the others.
    """
    parts, borders, held = Parts(one.range), [one.range.start], 0
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
