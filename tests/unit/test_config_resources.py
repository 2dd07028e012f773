"""Resource ↔ path in etcd, and the keys that must never be touched."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from config.builtin import RESOURCES_BY_GROUP
from config.resources import ANY, GroupResource, Layout, Located, UnknownResource

OBJECTS = Path(__file__).parents[1] / "golden" / "kube-apiserver-1.36" / "objects.jsonl"
LAYOUT = Layout()


@pytest.mark.parametrize(
    ("name", "resource"),
    [
        ("secrets", GroupResource("secrets", "")),
        ("deployments.apps", GroupResource("deployments", "apps")),
        ("widgets.example.com", GroupResource("widgets", "example.com")),
        ("*.", GroupResource("*", "")),
        ("*.apps", GroupResource("*", "apps")),
        ("*.*", ANY),
        ("", GroupResource("", "")),
    ],
)
def test_names_are_parsed_at_the_first_dot_and_written_back(name: str, resource: GroupResource) -> None:
    assert GroupResource.parse(name) == resource
    assert str(resource) == name
    assert resource.is_wildcard is name.startswith("*")


def test_the_dot_of_the_empty_group_is_not_written_back() -> None:
    assert str(GroupResource.parse("secrets.")) == "secrets"


PATHS = [
    ("secrets", b"/registry/secrets/"),
    ("deployments.apps", b"/registry/deployments/"),
    ("events", b"/registry/events/"),
    ("roles.rbac.authorization.k8s.io", b"/registry/roles/"),
    ("leases.coordination.k8s.io", b"/registry/leases/"),
    ("replicationcontrollers", b"/registry/controllers/"),
    ("endpoints", b"/registry/services/endpoints/"),
    ("nodes", b"/registry/minions/"),
    ("services", b"/registry/services/specs/"),
    ("ingresses.networking.k8s.io", b"/registry/ingress/"),
    ("customresourcedefinitions.apiextensions.k8s.io", b"/registry/apiextensions.k8s.io/customresourcedefinitions/"),
    ("apiservices.apiregistration.k8s.io", b"/registry/apiregistration.k8s.io/apiservices/"),
    ("widgets.example.com", b"/registry/example.com/widgets/"),
    ("volumesnapshots.snapshot.storage.k8s.io", b"/registry/snapshot.storage.k8s.io/volumesnapshots/"),
    ("gateways.gateway.networking.k8s.io", b"/registry/gateway.networking.k8s.io/gateways/"),
    ("secrets.example.com", b"/registry/example.com/secrets/"),
]


@pytest.mark.parametrize(("name", "prefix"), PATHS)
def test_each_resource_has_its_path_and_back(name: str, prefix: bytes) -> None:
    resource = GroupResource.parse(name)
    assert LAYOUT.prefix_of(resource) == prefix
    assert LAYOUT.resource_at(prefix + b"default/a") == Located(resource, "default", "a")
    assert LAYOUT.resource_at(prefix + b"a") == Located(resource, None, "a")
    assert LAYOUT.top_level_unit(prefix + b"default/a") == prefix


# kube-apiserver accepts each of these names in its file, and stores what it seems to mean in plaintext.
GOVERNS_NOTHING = [
    ("deployments", "its objects belong to deployments.apps"),
    ("cronjobs.apps", "its objects belong to cronjobs.batch"),
    ("services.apps", "its objects belong to services"),
    ("leases", "its objects belong to leases.coordination.k8s.io"),
    ("endpointslices.networking.k8s.io", "its objects belong to endpointslices.discovery.k8s.io"),
    ("ingress", "its objects belong to ingresses.networking.k8s.io"),
    ("minions", "its objects belong to nodes"),
    ("controllers", "its objects belong to replicationcontrollers"),
    ("customresourcedefinitions", "its objects belong to customresourcedefinitions.apiextensions.k8s.io"),
    ("secrets.authentication.k8s.io", "its objects belong to secrets"),
    ("gadgets.batch", "this version knows no such resource of that group"),
    ("tokenreviews.authentication.k8s.io", "this version knows no such resource of that group"),
    ("bindings", "this version knows no such resource of that group"),
    ("ranges", "this version knows no such resource of that group"),
    ("masterleases", "this version knows no such resource of that group"),
    ("", "this version knows no such resource of that group"),
    ("secrets/default", "this version knows no such resource of that group"),
    ("pods/status", "this version knows no such resource of that group"),
    ("..", "neither built in nor can it be the name of a custom resource"),
    ("default.secrets", "neither built in nor can it be the name of a custom resource"),
    ("specs.services", "neither built in nor can it be the name of a custom resource"),
    ("endpoints.services", "its objects belong to endpoints"),
    ("serviceips.ranges", "neither built in nor can it be the name of a custom resource"),
    ("widgets/default.example.com", "neither built in nor can it be the name of a custom resource"),
    ("widgets.example.com/x", "neither built in nor can it be the name of a custom resource"),
    (".example.com", "neither built in nor can it be the name of a custom resource"),
    ("widgets..example.com", "neither built in nor can it be the name of a custom resource"),
    ("widgets.example.com.", "neither built in nor can it be the name of a custom resource"),
    ("widgets.example.com\n", "neither built in nor can it be the name of a custom resource"),
    ("*.authentication.k8s.io", "this version knows no such resource of that group"),
    ("*.app", "neither built in nor can it be the name of a custom resource"),
]


@pytest.mark.parametrize(("name", "because"), GOVERNS_NOTHING, ids=[repr(name) for name, _ in GOVERNS_NOTHING])
def test_a_name_of_nothing_has_no_path_and_says_why(name: str, because: str) -> None:
    resource = GroupResource.parse(name)
    assert resource.is_wildcard or LAYOUT.prefix_of(resource) is None
    assert because in LAYOUT.governs_nothing(resource)


@pytest.mark.parametrize("name", ["secrets", "deployments.apps", "widgets.example.com", "*.", "*.apps", "*.*", "*.x.y"])
def test_a_name_under_which_objects_may_be_governs(name: str) -> None:
    assert LAYOUT.governs_nothing(GroupResource.parse(name)) == ""


def test_a_resource_that_is_newer_than_the_tables_is_named_by_its_path() -> None:
    gadgets = GroupResource.parse("gadgets.batch")
    layout = Layout(extra=(("gadgets.batch", "gadgets"),))
    assert layout.prefix_of(gadgets) == b"/registry/gadgets/"
    assert layout.resource_at(b"/registry/gadgets/ns/a") == Located(gadgets, "ns", "a")
    assert layout.governs_nothing(gadgets) == ""


@pytest.mark.parametrize("name", ["*.", "*.apps", "*.*"])
def test_a_wildcard_has_no_path(name: str) -> None:
    with pytest.raises(ValueError, match="is a wildcard and has no path of its own"):
        LAYOUT.prefix_of(GroupResource.parse(name))


def test_no_two_built_in_resources_share_a_path() -> None:
    resources = [GroupResource(plural, group) for group, plurals in RESOURCES_BY_GROUP.items() for plural in plurals]
    assert len({LAYOUT.prefix_of(resource) for resource in resources}) == len(resources)


@pytest.mark.parametrize(
    ("key", "path"),
    [
        (b"/registry/frobnicators/a/b", "frobnicators"),
        (b"/registry/services/other/a", "services/other"),
        (b"/registry//a", ""),
        (b"/registry/\xff\xfe/a", "\\xff\\xfe"),
        (b"/registry/secrets/default/\xff", "secrets"),
        (b"/registry/example.com//a", "example.com/"),
        # A built-in group's resources have no group in their path, but for two: this is nobody's.
        (b"/registry/networking.k8s.io/foos/ns/a", "networking.k8s.io/foos"),
        (b"/registry/apps/deployments/ns/a", "apps"),
        (b"/registry/example.com/Widgets/ns/a", "example.com/Widgets"),
    ],
)
def test_a_path_in_no_table_is_unknown_and_not_claimed(key: bytes, path: str) -> None:
    assert LAYOUT.resource_at(key) == UnknownResource(path)


@pytest.mark.parametrize(
    "key",
    [
        b"compact_rev_key",
        b"/kube-rewrap/campaigns/1",
        b"/registryx/secrets/a/b",
        b"/registry",
        b"/registry/",
        b"/registry/secrets",
        b"/registry/secrets/",
        b"/registry/secrets/default/",
        b"/registry/secrets//a",
        b"/registry/example.com/widgets",
        b"/registry/ranges/serviceips",
        b"/registry/masterleases/10.0.0.1",
        b"/registry/peerserverleases/a",
        b"",
    ],
)
def test_what_is_no_object_is_none(key: bytes) -> None:
    assert LAYOUT.resource_at(key) is None


@pytest.mark.parametrize(
    ("key", "never"),
    [
        (b"/registry/ranges/serviceips", True),
        (b"/registry/ranges/servicenodeports", True),
        (b"/registry/masterleases/10.0.0.1", True),
        (b"/registry/peerserverleases/a", True),
        (b"/registry/ranges", True),
        (b"compact_rev_key", True),
        (b"/kubernetes.io/secrets/a/b", True),
        (b"/registryx/secrets/a/b", True),
        (b"/registry", True),
        (b"", True),
        (b"/registry/secrets/ranges/a", False),
        (b"/registry/rangesx/a", False),
        (b"/registry/leases/kube-system/a", False),
        (b"/registry/example.com/ranges/a", False),
    ],
)
def test_the_keys_that_are_never_encrypted(key: bytes, never: bool) -> None:
    assert LAYOUT.never_encrypted(key) is never


@pytest.mark.parametrize(
    ("key", "unit"),
    [
        (b"/registry/secrets/default/a", b"/registry/secrets/"),
        (b"/registry/secrets/", b"/registry/secrets/"),
        (b"/registry/namespaces/default", b"/registry/namespaces/"),
        (b"/registry/services/specs/default/a", b"/registry/services/specs/"),
        (b"/registry/services/other/default/a", b"/registry/services/other/"),
        (b"/registry/example.com/widgets/default/a", b"/registry/example.com/widgets/"),
        (b"/registry/ranges/serviceips", b"/registry/ranges/"),
        (b"/registry/unknown/a", b"/registry/unknown/"),
        (b"/registry/secrets", None),
        (b"/registry/example.com/widgets", None),
        (b"/registry/services/specs", None),
        (b"/registry/", None),
        (b"compact_rev_key", None),
    ],
)
def test_the_unit_that_a_scan_jumps_over(key: bytes, unit: bytes | None) -> None:
    assert LAYOUT.top_level_unit(key) == unit


@pytest.mark.parametrize(
    ("prefix", "root"),
    [
        ("/registry", b"/registry/"),
        ("/registry/", b"/registry/"),
        ("registry", b"/registry/"),
        ("/kubernetes.io", b"/kubernetes.io/"),
        ("/a/b", b"/a/b/"),
        ("/a/../b", b"/b/"),
        ("/", b"/"),
        ("", b"/"),
    ],
)
def test_the_prefix_is_normalised_as_kube_apiserver_does(prefix: str, root: bytes) -> None:
    layout = Layout(prefix)
    assert layout.root == root
    assert layout.prefix_of(GroupResource("secrets")) == root + b"secrets/"
    assert layout.resource_at(root + b"secrets/a/b") == Located(GroupResource("secrets"), "a", "b")
    assert layout.never_encrypted(root + b"ranges/a")


def test_an_extra_path_wins_over_the_tables() -> None:
    routes, widgets = GroupResource("routes", "route.openshift.io"), GroupResource("widgets", "example.com")
    layout = Layout(
        "/openshift.io",
        (
            ("routes.route.openshift.io", "routes"),
            ("widgets.example.com", "/deep/down/widgets/"),
            ("configmaps", "odd"),
        ),
    )
    assert layout.prefix_of(routes) == b"/openshift.io/routes/"
    assert layout.resource_at(b"/openshift.io/routes/ns/a") == Located(routes, "ns", "a")
    assert layout.resource_at(b"/openshift.io/deep/down/widgets/ns/a") == Located(widgets, "ns", "a")
    assert layout.top_level_unit(b"/openshift.io/deep/down/widgets/ns/a") == b"/openshift.io/deep/down/widgets/"
    assert layout.top_level_unit(b"/openshift.io/deep/other/a") == b"/openshift.io/deep/"
    assert layout.resource_at(b"/openshift.io/odd/ns/a") == Located(GroupResource("configmaps"), "ns", "a")
    # What had another path before is nobody's.
    assert layout.resource_at(b"/openshift.io/configmaps/ns/a") == UnknownResource("configmaps")
    assert layout.resource_at(b"/openshift.io/example.com/widgets/ns/a") == UnknownResource("example.com/widgets")


@pytest.mark.parametrize(
    ("extra", "fault"),
    [
        ([("deployments", "deployments")], "belongs to deployments.apps"),
        ([("things.example.com", "secrets")], "belongs to secrets"),
        ([("things.example.com", "/secrets/")], "belongs to secrets"),
        ([("things.example.com", "secrets/default")], "belongs to secrets, which is stored under secrets"),
        ([("things.example.com", "services")], "which is stored under services/"),
        ([("things.example.com", "a"), ("others.example.com", "a")], "belongs to things.example.com"),
        ([("things.example.com", "a"), ("others.example.com", "a/b")], "belongs to things.example.com"),
        ([("things.example.com", "a"), ("things.example.com", "b")], "has a path already, a"),
        ([("configmaps", "odd.io")], "belongs to the resources of that group"),
        ([("configmaps", "example.com/widgets")], "belongs to the resources of that group"),
        ([("widgets.example.com", "example.com/widgets/x")], "belongs to the resources of that group"),
        ([("things.example.com", "ranges")], "without any provider"),
        ([("things.example.com", "masterleases/x")], "without any provider"),
        ([("things.example.com", "a//b")], "a path is made of names"),
        ([("things.example.com", "../secrets")], "a path is made of names"),
        ([("things.example.com", ".")], "a path is made of names"),
        ([("things.example.com", "/")], "a path is made of names"),
        ([("*.example.com", "a")], "is no resource's"),
        ([("*.*", "a")], "is no resource's"),
        ([("Things.example.com", "a")], "is no resource's"),
        ([("pods/status", "a")], "is no resource's"),
    ],
)
def test_an_extra_path_never_takes_what_belongs_to_another(extra: list[tuple[str, str]], fault: str) -> None:
    with pytest.raises(ValueError, match=re.escape(fault)):
        Layout(extra=tuple(extra))


def test_a_custom_resource_may_be_given_the_path_that_it_has() -> None:
    assert Layout(extra=(("foos.networking.k8s.io", "networking.k8s.io/foos"),)).resource_at(
        b"/registry/networking.k8s.io/foos/ns/a"
    ) == Located(GroupResource("foos", "networking.k8s.io"), "ns", "a")


def test_layouts_with_the_same_settings_are_equal() -> None:
    assert Layout() == Layout()
    assert hash(Layout()) == hash(Layout())
    assert Layout() != Layout("/other")
    assert repr(Layout()) == "Layout(etcd_prefix='/registry', extra=())"


def test_agrees_with_the_recorded_cluster() -> None:
    rows = [json.loads(line) for line in OBJECTS.read_text().splitlines()]
    governed = 0
    for row in rows:
        key = row["key"].encode()
        if row["resource"] is None:
            continue
        located = LAYOUT.resource_at(key)
        assert isinstance(located, Located)
        assert str(located.resource) == row["resource"]
        assert not LAYOUT.never_encrypted(key)
        governed += 1
    assert governed > 0
    assert not [row["key"] for row in rows if isinstance(LAYOUT.resource_at(row["key"].encode()), UnknownResource)]
