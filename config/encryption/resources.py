"""Which resource an etcd key belongs to, and under which path kube-apiserver stores a resource.

Follows apiserver: pkg/server/storage/storage_factory.go (ResourcePrefix) for built-in resources and
apiextensions-apiserver: pkg/apiserver/apiserver.go for custom ones. Not handled here: which providers govern
a resource (`encryption`).

A path belongs to one resource or to none, and a resource has one path or none:

1. a resource in `Layout.extra` has the path given there, which must not be, contain, or be inside that of another one;
2. a resource of a built-in group has the path of the table (`builtin.py`), and one that is not in the table has none;
3. any other group is one of custom resources, with the path `<group>/<plural>`, if CustomResourceDefinitions allow the
   two names.

**Keys for which `Layout.never_encrypted` is true must not be rewritten.** kube-apiserver reads their values without any
provider; encrypting them breaks the cluster.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from kube_rewrap.config.encryption.builtin import (
    GROUPED_RESOURCES,
    NEVER_ENCRYPTED,
    RESOURCES_BY_GROUP,
    SPECIAL_PATHS,
)
from kube_rewrap.config.errors import Fault, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

_PLURAL = re.compile(r"[a-z]([-a-z0-9]{0,61}[a-z0-9])?")
_LABELS = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_SEGMENT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")

_LONGEST_GROUP = 253


@dataclass(frozen=True, slots=True, order=True)
class GroupResource:
    """A resource by plural and API group; `*` in either is a wildcard of the configuration file."""

    resource: str
    group: str = ""
    """Empty for the core group."""

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read `plural` or `plural.group`, split at the first dot (apimachinery: schema.ParseGroupResource).

        `*.` is every resource of the core group. Takes any string, also one that names no resource.
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
    """The object that is stored under an etcd key."""

    resource: GroupResource
    namespace: str | None
    """None for an object without a namespace segment."""
    name: str


@dataclass(frozen=True, slots=True)
class UnknownResource:
    """A key under the prefix that belongs to no known resource, so that it is never written.

    An operator maps it with `--path` (`Layout.extra`).
    """

    path: str
    """The path between prefix and object; bytes that are not UTF-8 as backslash escapes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths in etcd under which one kube-apiserver stores its resources."""

    etcd_prefix: str = "/registry"
    """kube-apiserver's --etcd-prefix, with or without a slash at either end."""
    extra: tuple[tuple[str, str], ...] = ()
    """(resource name, path under the prefix) of resources that the built-in table lacks, such as
    `("routes.route.openshift.io", "routes")`. For a resource of the table it replaces the table's path."""

    _root: bytes = field(init=False, repr=False, compare=False)
    _deepest: int = field(init=False, repr=False, compare=False)
    _paths: Mapping[GroupResource, str] = field(init=False, repr=False, compare=False)
    _resources: Mapping[str, GroupResource] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Raise SettingsError for an extra path that belongs to another resource, or is malformed."""
        # etcd3.newStore: path.Join("/", prefix), then a slash.
        root = posixpath.normpath("/" + self.etcd_prefix.strip("/")).rstrip("/") + "/"
        extra = {GroupResource.parse(name): path.strip("/") for name, path in self.extra}
        if faults := list(_extra_faults((GroupResource.parse(name), path.strip("/")) for name, path in self.extra)):
            raise SettingsError("settings", faults)
        paths = _builtin_paths() | extra
        object.__setattr__(self, "_root", root.encode())
        object.__setattr__(self, "_paths", paths)
        object.__setattr__(self, "_deepest", max(path.count("/") for path in paths.values()) + 1)
        object.__setattr__(self, "_resources", {path: resource for resource, path in paths.items()})

    @classmethod
    def from_texts(cls, etcd_prefix: str, paths: Iterable[str]) -> Self:
        """Read `RESOURCE=PATH` texts, as settings have them. Raises SettingsError for one that can't be used."""
        split = [text.partition("=") for text in paths]
        faults = [
            Fault(
                "keyspace.paths", f"{''.join(parts)!r} is not RESOURCE=PATH", "write routes.route.openshift.io=routes"
            )
            for parts in split
            if not all(parts)
        ]
        if faults:
            raise SettingsError("settings", faults)
        return cls(etcd_prefix, tuple((name, path) for name, _, path in split))

    @property
    def root(self) -> bytes:
        """The prefix with its trailing slash, such as `b"/registry/"`."""
        return self._root

    @property
    def paths(self) -> list[bytes]:
        """The known storage paths below the root, without slashes at their ends."""
        return [path.encode() for path in self._resources]

    def prefix_of(self, resource: GroupResource) -> bytes | None:
        """Return the path of one resource, with a trailing slash: `b"/registry/secrets/"`; None if it has none.

        Raises ValueError for a wildcard, which has no single path.
        """
        if resource.is_wildcard:
            raise ValueError(f"{resource} is a wildcard and has no path of its own")
        path = self._path(resource)
        return None if path is None else self._root + path.encode() + b"/"

    def why_idle(self, resource: GroupResource) -> tuple[str, str] | None:
        """Return why a name or wildcard governs no resource, and the remedy; None if it governs one, or may."""
        if resource.is_wildcard:
            return None if self._spans(resource.group) else (_no_group(resource.group), "remove it")
        if self._path(resource) is not None:
            return None
        plural, slash, _ = resource.resource.partition("/")
        if slash:
            return (
                "it is a subresource, which kube-apiserver stores with its resource",
                f"write {GroupResource(plural, resource.group)}",
            )
        if resource.group not in RESOURCES_BY_GROUP:
            return _no_group(resource.group) if _PLURAL.fullmatch(
                plural
            ) else "no resource has such a name", "remove it"
        where = f"the group {resource.group}" if resource.group else "the core group"
        meant = [str(one) for one in self._paths if plural in {one.resource, self._paths[one]}]
        newer = f"if a newer Kubernetes stores it, give its path: --path {resource}=PATH"
        return (
            f"kube-apiserver stores no {plural or 'resource without a name'} in {where}",
            f"write {' or '.join(meant)}; {newer}" if meant else f"remove it, or {newer}",
        )

    def why_all_idle(self, resources: Iterable[GroupResource]) -> str:
        """Return why none of these names governs anything, "" when one of them does, or may."""
        reasons = [(name, self.why_idle(name)) for name in dict.fromkeys(resources)]
        if any(why is None for _, why in reasons):
            return ""
        listed = "; ".join(f"{name} {why[0]}: {why[1]}" for name, why in reasons if why is not None)
        return f"no name in the configuration governs anything: {listed}"

    def owns(self, resource: GroupResource, start: bytes, end: bytes) -> bool:
        """Whether all keys from `start` (included) to `end` (excluded) are under the path of this one resource."""
        prefix = None if resource.is_wildcard else self.prefix_of(resource)
        # A path ends with a slash, and the byte after a slash is "0".
        return prefix is not None and prefix <= start <= end <= prefix[:-1] + b"0"

    def resource_at(self, key: bytes) -> Located | UnknownResource | None:
        """Return the object under a key, or UnknownResource when its path belongs to no known resource.

        None for a key that holds no object of a resource: one outside the prefix, one that is never encrypted, and
        one that ends at a resource's path or before.
        """
        unit = self.top_level_unit(key)
        if unit is None or self.never_encrypted(key):
            return None
        try:
            path = unit[len(self._root) : -1].decode()
            segments = key[len(unit) :].decode().split("/", 1)
        except UnicodeDecodeError:
            # Kubernetes names are ASCII, so that this is no Kubernetes object.
            return UnknownResource(unit[len(self._root) : -1].decode(errors="backslashreplace"))
        resource = self._resource(path)
        if resource is None:
            return UnknownResource(path)
        if not all(segments):
            return None
        return Located(resource, segments[0] if len(segments) > 1 else None, segments[-1])

    def never_encrypted(self, key: bytes) -> bool:
        """Whether a key must not be rewritten under any configuration.

        It is outside the prefix, or kube-apiserver reads its value without any provider.
        """
        if not key.startswith(self._root):
            return True
        first = key[len(self._root) :].partition(b"/")[0]
        return first in NEVER_ENCRYPTED

    def top_level_unit(self, key: bytes) -> bytes | None:
        """Return the storage path, with its slash, that a key is under; a scan may skip all keys of that path at once.

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
        """Return the number of segments of the storage path: of the longest known path, else 2 for a group, else 1."""
        for length in range(min(self._deepest, len(segments)), 0, -1):
            if b"/".join(segments[:length]).decode(errors="replace") in self._resources:
                return length
        return 2 if b"." in segments[0] or segments[0] == b"services" else 1

    def _spans(self, group: str) -> bool:
        """Whether any resource can be in this group."""
        known = group == "*" or any(one.group == group for one in self._paths)
        return known or (group not in RESOURCES_BY_GROUP and _is_custom_group(group))

    def _path(self, resource: GroupResource) -> str | None:
        return self._paths.get(resource) or _custom_path(resource)

    def _resource(self, path: str) -> GroupResource | None:
        known = self._resources.get(path)
        if known is not None:
            return known
        group, _, plural = path.partition("/")
        custom = GroupResource(plural, group)
        # Not if `extra` gave it another path.
        return custom if _custom_path(custom) == path == self._path(custom) else None


def _is_custom_group(group: str) -> bool:
    """Whether a CustomResourceDefinition may have this group: a domain with a dot that is no built-in group."""
    named = "." in group and len(group) <= _LONGEST_GROUP and _LABELS.fullmatch(group) is not None
    return named and group not in RESOURCES_BY_GROUP


def _custom_path(resource: GroupResource) -> str | None:
    is_custom = _PLURAL.fullmatch(resource.resource) is not None and _is_custom_group(resource.group)
    return f"{resource.group}/{resource.resource}" if is_custom else None


def _no_group(group: str) -> str:
    if group in RESOURCES_BY_GROUP:
        return "kube-apiserver stores nothing under this group"
    return "no group of stored resources has such a name"


def _extra_faults(extra: Iterable[tuple[GroupResource, str]]) -> Iterator[Fault]:
    taken = list(_builtin_paths().items())
    paths: dict[GroupResource, str] = {}
    for resource, path in extra:
        twice = "the resource has two paths" if paths.setdefault(resource, path) != path else None
        message = twice or _malformed(resource, path) or _collision(resource, path, taken)
        if message is not None:
            yield Fault(
                "keyspace.paths", f"{resource}={path}: {message}", "give the path where kube-apiserver stores it"
            )
        taken.append((resource, path))


def _malformed(resource: GroupResource, path: str) -> str | None:
    if not _PLURAL.fullmatch(resource.resource) or not _LABELS.fullmatch(resource.group or "core"):
        return "this is not the name of one resource"
    if not all(map(_SEGMENT.fullmatch, path.split("/"))):
        return "a path consists of names between single slashes"
    return None


def _collision(resource: GroupResource, path: str, taken: Iterable[tuple[GroupResource, str]]) -> str | None:
    first, *rest = path.split("/")
    if first.encode() in NEVER_ENCRYPTED:
        return "kube-apiserver never encrypts anything under this path"
    for other, its_path in taken:
        if resource != other and _overlap(path, its_path):
            return f"the path {its_path} belongs to {other}"
    custom = GroupResource(rest[0] if rest else "any", first)
    if _custom_path(custom) is not None and custom != resource:
        return f"custom resources of the group {first} have this path"
    return None


def _overlap(one: str, other: str) -> bool:
    return f"{one}/".startswith(f"{other}/") or f"{other}/".startswith(f"{one}/")


def _builtin_paths() -> dict[GroupResource, str]:
    paths: dict[GroupResource, str] = {}
    for group, plurals in RESOURCES_BY_GROUP.items():
        for plural in plurals:
            grouped = f"{group}/{plural}" if (plural, group) in GROUPED_RESOURCES else plural
            paths[GroupResource(plural, group)] = SPECIAL_PATHS.get((plural, group), grouped)
    return paths
