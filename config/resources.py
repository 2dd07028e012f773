"""Which resource an etcd key belongs to, and under which path a resource is stored.

Follows apiserver: pkg/server/storage/storage_factory.go (ResourcePrefix) for built-in resources and
apiextensions-apiserver: pkg/apiserver/apiserver.go for custom ones. Not handled here: which providers govern
a resource (`encryption`).

**Keys for which `Layout.never_encrypted` is true must not be rewritten.** kube-apiserver reads them without
any provider; encrypting them breaks the cluster.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from config.builtin import GROUPED_RESOURCES, NEVER_ENCRYPTED, RESOURCES_BY_GROUP, SPECIAL_PATHS

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True, order=True)
class GroupResource:
    """A resource by plural and API group; `*` in either is a wildcard of the configuration file."""

    resource: str
    group: str = ""
    """Empty for the core group."""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read `plural` or `plural.group`, split at the first dot (apimachinery: schema.ParseGroupResource).

        `*.` is every resource of the core group. Takes any string; whether it names anything is not judged.
        """
        resource, _, group = name.partition(".")
        return cls(resource, group)

    @property
    def is_wildcard(self) -> bool:
        """Whether it names more than one resource."""
        return self.resource == "*"

    def __str__(self) -> str:
        if self.group:
            return f"{self.resource}.{self.group}"
        return "*." if self.resource == "*" else self.resource


ANY = GroupResource("*", "*")
"""`*.*`: every resource of every group."""


@dataclass(frozen=True, slots=True)
class Located:
    """What an etcd key holds."""

    resource: GroupResource
    namespace: str | None
    """None for an object without a namespace segment."""
    name: str


@dataclass(frozen=True, slots=True)
class UnknownResource:
    """A key under the prefix whose path is in no table: a wildcard must not claim it.

    Name its resource to `Layout.extra`, or by exact name in the configuration, to have it handled.
    """

    path: str
    """The path between prefix and object, undecodable bytes as backslash escapes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one kube-apiserver keeps its resources."""

    etcd_prefix: str = "/registry"
    """As in kube-apiserver's --etcd-prefix; a missing first slash and a trailing one do not matter."""
    extra: tuple[tuple[str, str], ...] = ()
    """(resource name, path under the prefix) for what the built-in table does not know, such as
    `("routes.route.openshift.io", "routes")`. Wins over the table."""

    _root: bytes = field(init=False, repr=False, compare=False)
    _deepest: int = field(init=False, repr=False, compare=False)
    _paths: Mapping[GroupResource, str] = field(init=False, repr=False, compare=False)
    _resources: Mapping[str, GroupResource] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # etcd3.newStore: path.Join("/", prefix), then a slash.
        root = posixpath.normpath("/" + self.etcd_prefix.strip("/")).rstrip("/") + "/"
        extra = {GroupResource.parse(name): path.strip("/") for name, path in self.extra}
        paths = _builtin_paths() | extra
        object.__setattr__(self, "_root", root.encode())
        object.__setattr__(self, "_paths", paths)
        object.__setattr__(self, "_deepest", max(path.count("/") for path in paths.values()) + 1)
        # Extras stand last and so win where two resources claim one path.
        object.__setattr__(self, "_resources", {path: resource for resource, path in paths.items()})

    @property
    def root(self) -> bytes:
        """The prefix with its trailing slash, such as `b"/registry/"`."""
        return self._root

    def prefix_of(self, resource: GroupResource) -> bytes:
        """Return the path of one resource, with a trailing slash: `b"/registry/secrets/"`.

        Raises ValueError for a wildcard, which has no single path.
        """
        if resource.is_wildcard:
            raise ValueError(f"{resource} is a wildcard and has no path of its own")
        return self._root + self._path(resource).encode() + b"/"

    def resource_at(self, key: bytes) -> Located | UnknownResource | None:
        """Return what a key holds; UnknownResource when its path is in no table.

        None for what is no object of a resource: keys outside the prefix, keys that are never encrypted, and
        keys that end at a resource's path or before.
        """
        unit = self.top_level_unit(key)
        if unit is None or self.never_encrypted(key):
            return None
        try:
            path = unit[len(self._root) : -1].decode()
            segments = key[len(unit) :].decode().split("/", 1)
        except UnicodeDecodeError:
            # Kubernetes names are ASCII: whatever this is, it is not one of its objects.
            return UnknownResource(unit[len(self._root) : -1].decode(errors="backslashreplace"))
        resource = self._resource(path)
        if resource is None:
            return UnknownResource(path)
        if not all(segments):
            return None
        return Located(resource, segments[0] if len(segments) > 1 else None, segments[-1])

    def never_encrypted(self, key: bytes) -> bool:
        """Whether a key must be left alone whatever the configuration says: outside the prefix, or read raw."""
        if not key.startswith(self._root):
            return True
        first = key[len(self._root) :].partition(b"/")[0]
        return first in NEVER_ENCRYPTED

    def top_level_unit(self, key: bytes) -> bytes | None:
        """Return the storage path, with its slash, that a key lies under: a scan may jump behind it as a whole.

        `/registry/secrets/`, `/registry/services/specs/`, `/registry/example.com/widgets/`, also
        `/registry/ranges/`. None outside the prefix and for a key that is not below such a path.
        """
        if not key.startswith(self._root):
            return None
        segments = key[len(self._root) :].split(b"/")
        length = self._unit_length(segments)
        if len(segments) <= length:
            return None
        return self._root + b"/".join(segments[:length]) + b"/"

    def _unit_length(self, segments: list[bytes]) -> int:
        """Count the segments of the storage path: the longest known one, else two for a group, else one."""
        for length in range(min(self._deepest, len(segments)), 0, -1):
            if b"/".join(segments[:length]).decode(errors="replace") in self._resources:
                return length
        return 2 if b"." in segments[0] or segments[0] == b"services" else 1

    def _path(self, resource: GroupResource) -> str:
        known = self._paths.get(resource)
        if known is not None:
            return known
        # A built-in group's resource that is newer than the table has no group in its path either.
        return resource.resource if resource.group in RESOURCES_BY_GROUP else f"{resource.group}/{resource.resource}"

    def _resource(self, path: str) -> GroupResource | None:
        known = self._resources.get(path)
        if known is not None:
            return known
        group, slash, plural = path.partition("/")
        return GroupResource(plural, group) if slash and "." in group and plural else None


def _builtin_paths() -> dict[GroupResource, str]:
    paths: dict[GroupResource, str] = {}
    for group, plurals in RESOURCES_BY_GROUP.items():
        for plural in plurals:
            grouped = f"{group}/{plural}" if (plural, group) in GROUPED_RESOURCES else plural
            paths[GroupResource(plural, group)] = SPECIAL_PATHS.get((plural, group), grouped)
    return paths
