"""Which resource an etcd key belongs to, and under which path a resource is stored.

Follows apiserver: pkg/server/storage/storage_factory.go (ResourcePrefix) for built-in resources and
apiextensions-apiserver: pkg/apiserver/apiserver.go for custom ones. Not handled here: which providers govern
a resource (`encryption`).

A path is governed by the one resource that kube-apiserver stores there, or by nobody. A name is a resource of the
built-in tables, of `Layout.extra`, or a custom resource; **any other name governs nothing**: kube-apiserver accepts
it in its file and stores the objects that it seems to mean in plaintext, where encrypting them breaks the cluster.

**Keys for which `Layout.never_encrypted` is true must not be rewritten.** kube-apiserver reads them without
any provider; encrypting them breaks the cluster.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

from config.builtin import (
    BUILT_IN_GROUPS,
    GROUPED_RESOURCES,
    NEVER_ENCRYPTED,
    RESOURCES_BY_GROUP,
    SPECIAL_PATHS,
)
from config.errors import Fault, SettingsError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

# What apiextensions-apiserver demands of a CustomResourceDefinition (pkg/apis/apiextensions/validation): the plural is
# a DNS-1035 label, the group a DNS-1123 subdomain with a dot in it.
_CUSTOM_PLURAL = re.compile(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?")
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_CUSTOM_GROUP = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})+")
_SEGMENT = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")


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

    Name its resource to `Layout.extra` to have it handled.
    """

    path: str
    """The path between prefix and object, undecodable bytes as backslash escapes."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where one kube-apiserver keeps its resources. Raises ValueError for an `extra` that no path can be given to."""

    etcd_prefix: str = "/registry"
    """As in kube-apiserver's --etcd-prefix; a missing first slash and a trailing one do not matter."""
    extra: tuple[tuple[str, str], ...] = ()
    """(resource name, path under the prefix) for what the built-in table does not know, such as
    `("routes.route.openshift.io", "routes")`. Wins over the table's path of that resource; never takes another's."""

    _root: bytes = field(init=False, repr=False, compare=False)
    _deepest: int = field(init=False, repr=False, compare=False)
    _paths: Mapping[GroupResource, str] = field(init=False, repr=False, compare=False)
    _resources: Mapping[str, GroupResource] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        # etcd3.newStore: path.Join("/", prefix), then a slash.
        root = posixpath.normpath("/" + self.etcd_prefix.strip("/")).rstrip("/") + "/"
        paths = _builtin_paths()
        paths |= _extra_paths(self.extra, paths)
        object.__setattr__(self, "_root", root.encode())
        object.__setattr__(self, "_paths", paths)
        object.__setattr__(self, "_deepest", max(path.count("/") for path in paths.values()) + 1)
        object.__setattr__(self, "_resources", {path: resource for resource, path in paths.items()})

    @property
    def root(self) -> bytes:
        """The prefix with its trailing slash, such as `b"/registry/"`."""
        return self._root

    def prefix_of(self, resource: GroupResource) -> bytes | None:
        """Return the path of one resource, with a trailing slash: `b"/registry/secrets/"`.

        None where nothing is stored under that name. Raises ValueError for a wildcard, which has no single path.
        """
        if resource.is_wildcard:
            raise ValueError(f"{resource} is a wildcard and has no path of its own")
        path = self._paths.get(resource) or _custom_path(resource)
        return None if path is None else self._root + path.encode() + b"/"

    def governs_nothing(self, resource: GroupResource) -> str:
        """Say why no object is stored under a name of the configuration, wildcards included; "" where some may be."""
        if self._may_hold_objects(resource):
            return ""
        meant = sorted(str(one) for one, path in self._paths.items() if resource.resource in {one.resource, path})
        if meant and not resource.is_wildcard:
            hint = f"its objects belong to {' or '.join(meant)}"
        elif resource.group in BUILT_IN_GROUPS:
            hint = "this version knows no such resource of that group; where yours has it, name its path with --path"
        else:
            hint = "it is neither built in nor can it be the name of a custom resource"
        return f"kube-apiserver stores nothing under this name: {hint}"

    def _may_hold_objects(self, resource: GroupResource) -> bool:
        if not resource.is_wildcard:
            return self.prefix_of(resource) is not None
        known = resource == ANY or any(one.group == resource.group for one in self._paths)
        return known or _is_custom_group(resource.group)

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

    def _resource(self, path: str) -> GroupResource | None:
        known = self._resources.get(path)
        if known is not None:
            return known
        group, _, plural = path.partition("/")
        custom = GroupResource(plural, group)
        return None if custom in self._paths or _custom_path(custom) is None else custom


def _custom_path(resource: GroupResource) -> str | None:
    """Return the path of a custom resource; None for a name that no CustomResourceDefinition can have."""
    if _CUSTOM_PLURAL.fullmatch(resource.resource) and _is_custom_group(resource.group):
        return f"{resource.group}/{resource.resource}"
    return None


def _is_custom_group(group: str) -> bool:
    return group not in BUILT_IN_GROUPS and _CUSTOM_GROUP.fullmatch(group) is not None


def _extra_paths(extra: tuple[tuple[str, str], ...], builtin: Mapping[GroupResource, str]) -> dict[GroupResource, str]:
    """Return the operator's paths by resource. Raises ValueError for one that is, holds, or lies in another's path."""
    found: dict[GroupResource, str] = {}
    for name, text in extra:
        resource, path = GroupResource.parse(name), text.strip("/")
        for fault in _faults(resource, path):
            raise ValueError(f"{name}={text}: {fault}")
        if resource in found:
            raise ValueError(f"{name}={text}: {name} has a path already, {found[resource]}")
        others = {other: known for other, known in {**builtin, **found}.items() if other != resource}
        taken = next((other for other, known in others.items() if _overlap(path, known)), None)
        if taken is not None:
            raise ValueError(f"{name}={text}: the path belongs to {taken}, which is stored under {others[taken]}")
        found[resource] = path
    return found


def _faults(resource: GroupResource, path: str) -> Iterator[str]:
    segments = path.split("/")
    if resource.is_wildcard or not _SEGMENT.fullmatch(resource.resource) or str(resource) != str(resource).lower():
        yield "the name before = is no resource's, such as routes.route.openshift.io"
    if not all(map(_SEGMENT.fullmatch, segments)):
        yield "a path is made of names with a slash between two of them, such as routes"
    if segments[0].encode() in NEVER_ENCRYPTED:
        yield "kube-apiserver reads what is stored there without any provider"
    group, _, plural = path.partition("/")
    if "." in group and (GroupResource(plural, group) != resource or "/" in plural):
        yield f"what is stored under {group}/ belongs to the resources of that group"


def _overlap(one: str, other: str) -> bool:
    first, second = one + "/", other + "/"
    return first.startswith(second) or second.startswith(first)


def read_layout(etcd_prefix: str, paths: Iterable[str]) -> Layout:
    """Return the layout with the paths of `--path`, each `RESOURCE=PATH`. Raises SettingsError."""
    extra = []
    for text in paths:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise _refused(f"{text!r} is not RESOURCE=PATH", "write routes.route.openshift.io=routes")
        extra.append((name, path))
    try:
        return Layout(etcd_prefix, tuple(extra))
    except ValueError as error:
        raise _refused(str(error), "name a resource, and the path that it has for itself") from None


def _refused(message: str, remedy: str) -> SettingsError:
    return SettingsError("settings", (Fault("keyspace.paths", message, remedy),))


def _builtin_paths() -> dict[GroupResource, str]:
    paths: dict[GroupResource, str] = {}
    for group, plurals in RESOURCES_BY_GROUP.items():
        for plural in plurals:
            grouped = f"{group}/{plural}" if (plural, group) in GROUPED_RESOURCES else plural
            paths[GroupResource(plural, group)] = SPECIAL_PATHS.get((plural, group), grouped)
    return paths
