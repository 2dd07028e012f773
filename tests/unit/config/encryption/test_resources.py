"""Resource ↔ path in etcd, and the keys that must never be touched."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.builtin import RESOURCES_BY_GROUP
from kube_rewrap.config.encryption.resources import ANY, GroupResource, Layout, Located, UnknownResource
from kube_rewrap.config.errors import SettingsError

OBJECTS = Path(__file__).parents[3] / "golden" / "kube-apiserver-1.36" / "objects.jsonl"
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


NOBODYS = [
    ("deployments", "write deployments.apps; if a newer Kubernetes"),
    ("cronjobs.apps", "write cronjobs.batch; if"),
    ("services.apps", "write services; if"),
    ("leases", "write leases.coordination.k8s.io; if"),
    ("endpointslices.networking.k8s.io", "write endpointslices.discovery.k8s.io; if"),
    ("ingress", "write ingresses.networking.k8s.io; if"),
    ("minions", "write nodes; if"),
    ("controllers", "write replicationcontrollers; if"),
    ("daemonsets.extensions", "write daemonsets.apps; if"),
    ("events.events.k8s.io", "write events; if"),
    ("pods/status", "write pods"),
    ("deployments/scale.apps", "write deployments.apps"),
    ("gadgets.batch", "remove it, or if a newer Kubernetes stores it, give its path: --path gadgets.batch=PATH"),
    ("secret", "remove it, or if"),
    ("bindings", "remove it, or if"),
    ("tokenreviews.authentication.k8s.io", "remove it, or if"),
    ("services/specs", "write services"),
    ("ranges", "remove it, or if"),
    ("", "remove it, or if"),
    (".", "remove it, or if"),
    ("..", "remove it"),
    # Each of these had a path inside another resource's.
    ("default.secrets", "remove it"),
    ("specs.services", "remove it"),
    ("secrets.v1", "remove it"),
    ("x.deployments", "remove it"),
    ("default/a.example.com", "write default.example.com"),
    (".example.com", "remove it"),
    ("widgets.example.com.", "remove it"),
    ("widgets.example.com/status", "remove it"),
    ("widgets.../secrets", "remove it"),
    ("Widgets.example.com", "remove it"),
    ("wi*.example.com", "remove it"),
    ("wardle.example.com/flunders", "remove it"),
]


@pytest.mark.parametrize(("name", "remedy"), NOBODYS)
def test_a_name_that_kube_apiserver_stores_nothing_under_has_no_path(name: str, remedy: str) -> None:
    resource = GroupResource.parse(name)
    assert LAYOUT.prefix_of(resource) is None
    why = LAYOUT.why_idle(resource)
    assert why is not None
    assert why[1].startswith(remedy)
    assert not LAYOUT.owns(resource, b"/registry/secrets/a", b"/registry/secrets/b")


@pytest.mark.parametrize(
    "name", ["*.", "*.*", "*.apps", "*.example.com", "*.route.openshift.io", "endpoints.", "a.b.c"]
)
def test_a_name_that_governs_or_may_is_not_idle(name: str) -> None:
    assert LAYOUT.why_idle(GroupResource.parse(name)) is None


@pytest.mark.parametrize("name", ["*.authentication.k8s.io", "*.nosuch", "*.secrets", "*.a..b", "*.*.apps"])
def test_a_wildcard_that_spans_nothing_is_idle(name: str) -> None:
    assert LAYOUT.why_idle(GroupResource.parse(name)) is not None


def test_a_newer_resource_has_the_path_that_the_operator_gives() -> None:
    layout = Layout(extra=(("gadgets.batch", "gadgets"), ("x.nosuch", "x")))
    gadgets = GroupResource("gadgets", "batch")
    assert layout.prefix_of(gadgets) == b"/registry/gadgets/"
    assert layout.resource_at(b"/registry/gadgets/a/b") == Located(gadgets, "a", "b")
    assert layout.why_idle(gadgets) is None
    assert layout.why_idle(GroupResource("*", "nosuch")) is None


@pytest.mark.parametrize(
    ("start", "end", "owned"),
    [
        (b"/registry/secrets/", b"/registry/secrets0", True),
        (b"/registry/secrets/a/", b"/registry/secrets/a0", True),
        (b"/registry/secrets", b"/registry/secrets0", False),
        (b"/registry/secrets/", b"/registry/secrets1", False),
        (b"/registry/configmaps/", b"/registry/configmaps0", False),
        (b"/registry/secrets/b", b"/registry/secrets/a", False),
        (b"/registry/secrets/", b"", False),
        (b"", b"\0", False),
    ],
)
def test_a_resource_owns_what_lies_under_its_path(start: bytes, end: bytes, owned: bool) -> None:
    assert LAYOUT.owns(GroupResource("secrets"), start, end) is owned
    assert not LAYOUT.owns(GroupResource("*"), start, end)


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
        (b"/registry/apps/deployments/a/b", "apps"),
        (b"/registry/storage.k8s.io/gadgets/a/b", "storage.k8s.io/gadgets"),
        (b"/registry/example.com/Widgets/a/b", "example.com/Widgets"),
        (b"/registry/example.com/*/a/b", "example.com/*"),
        # Another API server's registry inside this one (its own prefix, then <group>/<plural>).
        (b"/registry/wardle.example.com/wardle.example.com/flunders/a/b", "wardle.example.com/wardle.example.com"),
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


OPENSHIFT = (
    ("accesstokens.oauth.openshift.io", "oauth/accesstokens"),
    ("authorizetokens.oauth.openshift.io", "oauth/authorizetokens"),
    ("sdnnetworks.network.openshift.io", "registry/sdnnetworks"),
    ("securitycontextconstraints.security.openshift.io", "securitycontextconstraints"),
    ("flunders.wardle.example.com", "wardle.example.com/wardle.example.com/flunders"),
    ("widgets.example.com", "example.com/widgets"),
    ("gadgets.storage.k8s.io", "storage.k8s.io/gadgets"),
)


def test_paths_that_belong_to_no_resource_can_be_given() -> None:
    layout = Layout(extra=OPENSHIFT)
    for name, path in OPENSHIFT:
        resource = GroupResource.parse(name)
        assert layout.resource_at(f"/registry/{path}/ns/a".encode()) == Located(resource, "ns", "a")


@pytest.mark.parametrize(
    "extra",
    [
        pytest.param([("widgets.example.com", "secrets")], id="a built-in path"),
        pytest.param([("deployments", "deployments")], id="a built-in path, under a slip"),
        pytest.param([("secrets", "configmaps"), ("configmaps", "secrets")], id="two that change places"),
        pytest.param([("widgets.example.com", "secrets/default")], id="inside a built-in path"),
        pytest.param([("widgets.example.com", "services")], id="above a built-in path"),
        pytest.param([("widgets.example.com", "apiextensions.k8s.io")], id="above a grouped built-in path"),
        pytest.param([("widgets.example.com", "ranges")], id="never encrypted"),
        pytest.param([("widgets.example.com", "masterleases/x")], id="inside what is never encrypted"),
        pytest.param([("widgets.example.com", "..")], id="dots"),
        pytest.param([("widgets.example.com", "a/../secrets")], id="dots inside"),
        pytest.param([("widgets.example.com", "a//b")], id="an empty segment"),
        pytest.param([("widgets.example.com", "/")], id="no segment"),
        pytest.param([("widgets.example.com", "\x00")], id="a control character"),
        pytest.param([("widgets.example.com", "a"), ("gadgets.example.com", "a")], id="two to one path"),
        pytest.param([("widgets.example.com", "a"), ("gadgets.example.com", "a/b")], id="one inside the other"),
        pytest.param([("widgets.example.com", "a"), ("widgets.example.com", "b")], id="one to two paths"),
        pytest.param([("widgets.example.com", "example.com/gadgets")], id="another custom resource's path"),
        pytest.param([("widgets.example.com", "example.com/gadgets/x")], id="inside another custom resource's path"),
        pytest.param([("widgets.example.com", "other.io")], id="above custom resources"),
        pytest.param([("*.apps", "a")], id="a wildcard"),
        pytest.param([("*.*", "a")], id="the whole wildcard"),
        pytest.param([("pods/status", "a")], id="a subresource"),
        pytest.param([("Widgets.example.com", "a")], id="upper case"),
        pytest.param([("", "a")], id="no name"),
    ],
)
def test_a_path_that_is_not_its_own_is_refused(extra: list[tuple[str, str]]) -> None:
    with pytest.raises(SettingsError) as caught:
        Layout(extra=tuple(extra))
    assert {fault.path for fault in caught.value.faults} == {"keyspace.paths"}


@pytest.mark.parametrize("text", ["routes", "=routes", "routes.route.openshift.io="])
def test_a_text_that_is_no_pair_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="is not RESOURCE=PATH"):
        Layout.from_texts("/registry", [text])


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
