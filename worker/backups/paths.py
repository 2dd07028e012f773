"""Which resource a key of a backup belongs to, and whether a configuration governs it.

Keys come in the order of their revisions, so that no range can be skipped: the answer is kept by the head of a key.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration
from kube_rewrap.config.encryption.resources import GroupResource, Layout, Located, UnknownResource
from kube_rewrap.worker.etcd.ranges import key_text

_KEPT = 8_192


@dataclass(frozen=True, slots=True)
class Place:
    """Where a key lies.

    `resource`: the resource that kube-apiserver stores there, "" if none. `is_governed`: whether one of the
    configurations names it. `unknown`: the path, if no table knows its resource and a configuration may govern it.
    """

    resource: str
    is_governed: bool = False
    unknown: str = ""


_NOWHERE = Place("")


class Paths:
    """The registry under one layout, as some configurations divide it.

    `newer`: storage paths of names that only a newer Kubernetes knows; objects there are of unknown resources.
    """

    def __init__(
        self, layout: Layout, configurations: Sequence[EncryptionConfiguration], newer: Collection[bytes] = ()
    ) -> None:
        self._layout = layout
        self._configurations = configurations
        self._newer = frozenset(newer)
        names = [GroupResource.parse(name) for one in configurations for name in one.resource_names()]
        self._has_wildcard = any(name.is_wildcard for name in names)
        self.named = tuple(
            dict.fromkeys(str(name) for name in names if not name.is_wildcard and layout.prefix_of(name) is not None)
        )
        """The resources that a configuration names exactly."""
        self._root = layout.root
        self._depth = max(2, *(path.strip("/").count("/") + 1 for _, path in (("", ""), *layout.extra)))
        self._at = lru_cache(maxsize=_KEPT)(self._place)

    def at(self, key: bytes) -> Place:
        """Return where a key lies."""
        root = self._root
        if not key.startswith(root):
            return _NOWHERE
        # A storage path has at most `_depth` segments; of what is below it matters only that it is there.
        segments = key[len(root) :].split(b"/", self._depth)
        if len(segments) > self._depth:
            segments[-1] = b""
        return self._at(*segments)

    def _place(self, *segments: bytes) -> Place:
        unit = self._layout.top_level_unit(self._root + b"/".join(segments))
        if unit is None:
            return _NOWHERE
        located = self._layout.resource_at(unit + b"name")
        if isinstance(located, UnknownResource):
            return Place("", unknown=key_text(unit)) if self._has_wildcard or unit in self._newer else _NOWHERE
        if not isinstance(located, Located):
            return _NOWHERE
        is_governed = any(one.providers_for(located.resource) is not None for one in self._configurations)
        return Place(str(located.resource), is_governed)
