"""Resource ↔ path in etcd, and the keys that must never be touched."""

from __future__ import annotations

import json
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


def test_a_new_resource_of_a_built_in_group_has_no_group_in_its_path() -> None:
    assert LAYOUT.prefix_of(GroupResource.parse("gadgets.batch")) == b"/registry/gadgets/"


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
            ("configmaps", "odd.io"),
        ),
    )
    assert layout.prefix_of(routes) == b"/openshift.io/routes/"
    assert layout.resource_at(b"/openshift.io/routes/ns/a") == Located(routes, "ns", "a")
    assert layout.resource_at(b"/openshift.io/deep/down/widgets/ns/a") == Located(widgets, "ns", "a")
    assert layout.top_level_unit(b"/openshift.io/deep/down/widgets/ns/a") == b"/openshift.io/deep/down/widgets/"
    assert layout.top_level_unit(b"/openshift.io/deep/other/a") == b"/openshift.io/deep/"
    assert layout.resource_at(b"/openshift.io/odd.io/ns/a") == Located(GroupResource("configmaps"), "ns", "a")


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
