"""What else lies in a registry than secrets: scopes, wildcards, custom and cluster-scoped objects, large ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.command import command_for
from tests.integration.apiserver import (
    IDENTITY,
    Key,
    configuration,
    configure,
    manifest,
    opened,
    secrets,
    store,
    write_private,
)
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway, KeyValue

OLD, NEW = Key.new("aescbc", "old"), Key.new("secretbox", "2026-11-23T06:00:00Z")
ENOUGH = ("run", "--rate", "0")

GOVERNED = {
    "/registry/secrets/default/a": ("Secret", "default"),
    "/registry/secrets/default-two/a": ("Secret", "default-two"),
    "/registry/secrets/kube-system/a": ("Secret", "kube-system"),
    "/registry/configmaps/default/a": ("ConfigMap", "default"),
    "/registry/deployments/default/a": ("Deployment", "default"),
    "/registry/services/specs/default/a": ("Service", "default"),
    "/registry/services/endpoints/default/a": ("Endpoints", "default"),
    "/registry/minions/node-1": ("Node", None),
    "/registry/namespaces/default": ("Namespace", None),
    "/registry/clusterroles/admin": ("ClusterRole", None),
    "/registry/apiextensions.k8s.io/customresourcedefinitions/widgets.example.com": ("CustomResourceDefinition", None),
    "/registry/example.com/widgets/default/a": ("Widget", "default"),
    "/registry/example.com/clusterwidgets/a": ("ClusterWidget", None),
}
NEVER = {
    "/registry/ranges/serviceips": b"k8s\x00never",
    "/registry/ranges/servicenodeports": b"k8s\x00never",
    "/registry/masterleases/10.0.0.1": b"k8s\x00never",
    "/registry/peerserverleases/a": b"k8s\x00never",
    "compact_rev_key": b"123",
    "/registryx/secrets/default/a": b"somebody else's",
    "/other/secrets/default/a": b"somebody else's",
}
PLAINTEXTS = {key: manifest(kind, namespace, "a", key) for key, (kind, namespace) in GOVERNED.items()}


def everything(gateway: Gateway) -> dict[str, KeyValue]:
    """All keys but our own records."""
    return {found.key: found for prefix in ("/registry", "/other", "c") for found in gateway.read(prefix)}


def under(gateway: Gateway, key: Key) -> set[str]:
    """The objects that the key reads, of those that were made."""
    return {
        one.key for one in gateway.read("/registry/") if key.open(one.key, one.value) == PLAINTEXTS.get(one.key, b"")
    }


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    gateway = etcd.admin()
    store(gateway, PLAINTEXTS, OLD)
    gateway.put_all(NEVER)
    return gateway


def test_a_wildcard_means_everything_but_what_is_never_encrypted(
    etcd: EtcdCluster, gateway: Gateway, tmp_path: Path
) -> None:
    before = everything(gateway)
    rewrap = command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD, resources=["*.*"]))
    assert rewrap.json(*ENOUGH)["rewritten"] == len(GOVERNED)
    after = everything(gateway)
    assert {key: NEW.open(key, after[key].value) for key in GOVERNED} == PLAINTEXTS
    assert {key: after[key] for key in NEVER} == {key: before[key] for key in NEVER}
    assert before.keys() == after.keys()


def test_a_wildcard_leaves_unknown_paths_alone_and_is_never_complete_with_them(
    etcd: EtcdCluster, gateway: Gateway, tmp_path: Path
) -> None:
    strange = "/registry/strangethings/default/a"
    gateway.put(strange, OLD.seal(strange, manifest("Strange", "default", "a", "x")))
    before = gateway.get(strange)
    rewrap = command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD, resources=["*.*"]))
    document = rewrap.json(*ENOUGH, code=3)
    assert (document["rewritten"], document["proof"]["unknown_paths"]) == (len(GOVERNED), ["/registry/strangethings/"])
    assert gateway.get(strange) == before
    named = rewrap.json(*ENOUGH, "--path", "strangethings.strange.io=strangethings")
    assert (named["rewritten"], named["proof"]["unknown_paths"]) == (1, [])


def test_the_wildcard_of_a_group_means_that_group(etcd: EtcdCluster, gateway: Gateway, tmp_path: Path) -> None:
    entries = (["*.example.com"], [NEW, OLD]), (["*.apps"], [NEW, OLD])
    rewrap = command_for(tmp_path, etcd, write_private(tmp_path / "enc.json", configuration(*entries)))
    assert rewrap.json(*ENOUGH)["rewritten"] == 3
    assert under(gateway, NEW) == {
        "/registry/deployments/default/a",
        "/registry/example.com/widgets/default/a",
        "/registry/example.com/clusterwidgets/a",
    }


@pytest.mark.parametrize(
    ("scope", "expected"),
    [
        (["--resource", "nodes"], {"/registry/minions/node-1"}),
        (["--resource", "widgets.example.com"], {"/registry/example.com/widgets/default/a"}),
        (
            ["--resource", "secrets", "--namespace", "default"],
            {"/registry/secrets/default/a"},
        ),
        (
            ["--namespace", "default"],
            {key for key, (_, namespace) in GOVERNED.items() if namespace == "default"},
        ),
        (
            ["--resource", "services", "--resource", "endpoints"],
            {"/registry/services/specs/default/a", "/registry/services/endpoints/default/a"},
        ),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_scope_touches_nothing_outside(
    etcd: EtcdCluster, gateway: Gateway, tmp_path: Path, scope: list[str], expected: set[str]
) -> None:
    rewrap = command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD, resources=["*.*"]))
    document = rewrap.json(*ENOUGH, *scope)
    assert (document["state"], document["rewritten"]) == ("complete", len(expected))
    assert document["proof"]["objects"] == len(expected)
    assert under(gateway, NEW) == expected
    assert under(gateway, OLD) == GOVERNED.keys() - expected
    # A part proves nothing about the rest.
    blockers = [key["blockers"] for key in document["proof"]["keys"]]
    assert all("only a part of the configured resources was scanned" in said for said in blockers)


def test_another_etcd_prefix(etcd: EtcdCluster, tmp_path: Path) -> None:
    gateway = etcd.admin()
    here = {name.replace("/registry/", "/kubernetes.io/"): plaintext for name, plaintext in secrets(20).items()}
    store(gateway, here, OLD)
    store(gateway, secrets(20), OLD)
    before = gateway.read("/registry/")
    rewrap = command_for(tmp_path, etcd, configure(tmp_path, Key("aesgcm", "new", NEW.material), OLD))
    document = rewrap.json(*ENOUGH, "--etcd-prefix", "/kubernetes.io")
    assert document["rewritten"] == 20
    assert opened(gateway.read("/kubernetes.io/"), Key("aesgcm", "new", NEW.material)) == here
    assert gateway.read("/registry/") == before


def test_another_state_prefix(etcd: EtcdCluster, tmp_path: Path) -> None:
    gateway = etcd.admin()
    store(gateway, secrets(20), OLD)
    rewrap = command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD))
    assert rewrap.json(*ENOUGH, "--state-prefix", "/ours/rewrap")["rewritten"] == 20
    assert gateway.read("/kube-rewrap") == []
    kinds = {found.key.split("/")[4] for found in gateway.read("/ours/rewrap/v1/")}
    assert kinds == {"audit", "audit-head", "campaigns", "batches", "ledger"}


def test_sixty_secrets_of_a_megabyte(etcd: EtcdCluster, tmp_path: Path) -> None:
    gateway = etcd.admin()
    plaintexts = secrets(60, payload="m" * 2**20)
    for name, plaintext in plaintexts.items():
        gateway.put(name, OLD.seal(name, plaintext))
    store(gateway, secrets(40, namespace="small"), OLD)
    rewrap = command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD))
    assert rewrap.json(*ENOUGH)["rewritten"] == 100
    # One by one: the gateway answers in JSON.
    for name, plaintext in plaintexts.items():
        found = gateway.get(name)
        assert found is not None
        assert NEW.open(name, found.value) == plaintext


def test_an_object_that_encryption_makes_too_large_is_left_alone(etcd_any: EtcdCluster, tmp_path: Path) -> None:
    gateway = etcd_any.admin()
    name = "/registry/secrets/default/large"
    # As plaintext it just fits into the 1.5 MiB that etcd takes; behind the new key's long prefix it does not.
    overhead = len(manifest("Secret", "default", "large", ""))
    gateway.put(name, manifest("Secret", "default", "large", "x" * (1_572_864 - 200 - overhead)))
    store(gateway, secrets(40), OLD)
    before = gateway.get(name)
    long_name = Key("secretbox", "n" * 200, NEW.material)
    rewrap = command_for(tmp_path, etcd_any, configure(tmp_path, long_name, OLD, IDENTITY))
    document = rewrap.json(*ENOUGH, code=3)
    assert [(one["key"], one["reason"]) for one in document["quarantined"]] == [(name, "too_large_after_encryption")]
    assert (document["state"], document["rewritten"], document["encryptions"]) == ("incomplete", 40, 41)
    assert (document["proof"]["stale"], document["proof"]["unreadable_total"]) == (1, 0)
    assert gateway.get(name) == before
    again = rewrap.json(*ENOUGH, code=3)
    assert (again["rewritten"], again["encryptions"]) == (0, 1)
    assert again["campaign"] != document["campaign"]
