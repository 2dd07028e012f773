"""Finds the governed key ranges of the registry, and how many objects each namespace holds.

Reads keys only, by skip-scan: the next few keys, then a jump to the end of the resource or the namespace that they
belong to. It decrypts nothing, and its memory does not grow with the store beyond one entry a namespace.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from dataclasses import dataclass

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration
from kube_rewrap.config.encryption.resources import GroupResource, Layout, Located, UnknownResource
from kube_rewrap.scheduler.campaigns.batches import BATCH_OBJECTS, NamespaceCount, ResourceCensus
from kube_rewrap.worker.etcd.ranges import KeyRange, after, key_text, prefix_end
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.records.inventory import ResourceRange

_LOOK = 500


@dataclass(frozen=True, slots=True)
class Territory:
    """The registry as the configuration divides it.

    `governed`: the ranges to encrypt, sorted by resource. `unknown`: paths with objects that no table maps to a
    resource, so that the configuration may or may not govern them; they are reported, never touched. `idle`:
    configured names that govern nothing, why, and what to do about it.
    """

    governed: tuple[ResourceRange, ...]
    unknown: tuple[str, ...]
    idle: tuple[tuple[str, str, str], ...] = ()


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
            for unit in _where_newer_ones_lie(names, layout)
            if (await store.keys(KeyRange.of_prefix(unit), 1))[0]
        ]
    idle = [(str(name), *why) for name in dict.fromkeys(names) if (why := layout.why_idle(name)) is not None]
    return Territory(tuple(found[name] for name in sorted(found)), tuple(unknown), tuple(idle))


def _where_newer_ones_lie(names: Iterable[GroupResource], layout: Layout) -> Iterator[bytes]:
    """Yield the paths that a newer Kubernetes would use for unknown names, unless a known resource has them."""
    idle = (name for name in names if not name.is_wildcard and layout.prefix_of(name) is None)
    for unit in dict.fromkeys(layout.root + name.resource.encode() + b"/" for name in idle):
        if layout.top_level_unit(unit) == unit and isinstance(layout.resource_at(unit + b"name"), UnknownResource):
            yield unit


async def _units(store: Store, layout: Layout) -> AsyncIterator[bytes]:
    """Yield every storage path that holds a key."""
    rest = KeyRange.of_prefix(layout.root)
    while not rest.is_empty:
        keys, _ = await store.keys(rest, 1)
        if not keys:
            return
        unit = layout.top_level_unit(keys[0])
        if unit is not None:
            yield unit
        rest = rest.since(prefix_end(unit) if unit is not None else after(keys[0]))


async def take_census(store: Store, wanted: ResourceRange, namespace: str | None = None) -> ResourceCensus:
    """Count the objects of one resource by namespace; with `namespace`, cover only that one."""
    root = wanted.range.start
    covered = wanted
    if namespace is not None:
        covered = ResourceRange(wanted.resource, KeyRange.of_prefix(root + namespace.encode() + b"/"))
    counts = [count async for count in _namespaces(store, root, covered.range)]
    return ResourceCensus(covered, tuple(counts))


async def _namespaces(store: Store, root: bytes, keys: KeyRange) -> AsyncIterator[NamespaceCount]:
    """Count namespaces from one page of keys where they fit into it; ask etcd to count larger ones."""
    rest = keys
    while not rest.is_empty:
        look, more = await store.keys(rest, _LOOK)
        groups = _grouped(root, look)
        for start, end, count in groups[:-1] if more else groups:
            yield NamespaceCount(_namespace(root, start), start, count)
            rest = rest.since(end)
        if not more:
            return
        start, end, _ = groups[-1]
        whole = KeyRange(start, min(end, keys.end))
        objects = await store.count(whole)
        yield NamespaceCount(_namespace(root, start), start, objects, await _cuts(store, whole, objects))
        rest = rest.since(end)


def _grouped(root: bytes, keys: list[bytes]) -> list[tuple[bytes, bytes, int]]:
    """Group consecutive keys by namespace: its start, its end (exclusive), and how many keys were read."""
    groups: list[tuple[bytes, bytes, int]] = []
    for key in keys:
        start, end = _span(root, key)
        if groups and _belong_together(root, groups[-1][0], start):
            first, _, count = groups[-1]
            groups[-1] = first, end, count + 1
        else:
            groups.append((start, end, 1))
    return groups


def _span(root: bytes, key: bytes) -> tuple[bytes, bytes]:
    """Return start and end (exclusive) of a key's namespace, or of the key alone if it has none."""
    name, slash, _ = key[len(root) :].partition(b"/")
    if not slash:
        return key, after(key)
    prefix = root + name + b"/"
    return prefix, prefix_end(prefix)


def _belong_together(root: bytes, first: bytes, second: bytes) -> bool:
    """Whether two spans are of one namespace, or both of cluster scope."""
    return first == second or not any(b"/" in start[len(root) :] for start in (first, second))


def _namespace(root: bytes, start: bytes) -> str:
    name, slash, _ = start[len(root) :].partition(b"/")
    return key_text(name) if slash else ""


async def cut(store: Store, one: ResourceRange, every: int) -> list[ResourceRange]:
    """Split a range into pieces of `every` objects each, as counted now; together they are the whole range."""
    inner = await _cuts(store, one.range, await store.count(one.range), every)
    starts, ends = [one.range.start, *inner], [*inner, one.range.end]
    return [ResourceRange(one.resource, KeyRange(start, end)) for start, end in zip(starts, ends, strict=True)]


async def _cuts(store: Store, keys: KeyRange, objects: int, every: int = BATCH_OBJECTS) -> tuple[bytes, ...]:
    """Return the keys inside a range where a piece may begin, one after each `every` objects."""
    cuts: list[bytes] = []
    rest = keys
    while objects > every * (len(cuts) + 1):
        page, more = await store.keys(rest, every)
        if not more or not page:
            break
        cuts.append(after(page[-1]))
        rest = rest.since(cuts[-1])
    return tuple(cuts)
