"""The commands beside a KMS plugin: what they show while it is down, before a KEK is on record, and of its calls."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import IDENTITY, AnyKey, Key, configuration, secrets, store, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway
from tests.servers.kms_plugin import KmsPlugin, start_plugin
from tests.servers.kms_values import KmsKey, KmsV1Key

OLD = Key.new("aescbc", "old")
NOT_OPENED = "what is under KMS was counted by the keys that the values name, and not opened: "
DOWN = "the plugin of KMS provider 'cloud' (v2) can't be reached: "


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    with start_plugin(str(tmp_path / "kms.sock")) as process:
        yield process


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    return etcd.admin()


def command_of(directory: Path, etcd: EtcdCluster, *keys: AnyKey) -> Command:
    file = write_private(directory / "enc.json", configuration((["secrets"], keys)))
    return command_for(directory, etcd, file)


def states(audit: dict[str, Any]) -> dict[str, str]:
    return {check["id"]: check["state"] for check in audit["checks"]}


def reasons(audit: dict[str, Any]) -> dict[str, str]:
    return {check["id"]: check["reason"] for check in audit["checks"]}


@pytest.fixture
def kms(plugin: KmsPlugin) -> KmsKey:
    return KmsKey("cloud", plugin.endpoint)


@pytest.fixture
def mixed(etcd: EtcdCluster, gateway: Gateway, kms: KmsKey, tmp_path: Path) -> Command:
    """Three objects under the KEK, two under a local key."""
    store(gateway, secrets(3), kms)
    store(gateway, secrets(2, namespace="other"), OLD)
    return command_of(tmp_path, etcd, kms, OLD)


@pytest.mark.parametrize("recorded", [False, True], ids=["no KEK on record", "KEK on record"])
def test_keys_without_the_plugin_says_what_needs_none_and_what_is_missing(
    mixed: Command, plugin: KmsPlugin, kms: KmsKey, gateway: Gateway, *, recorded: bool
) -> None:
    if recorded:
        mixed.json("run")
        store(gateway, secrets(2, namespace="other"), OLD)
    plugin.stop()
    document = mixed.json("keys", code=5)
    assert document["missing"].startswith(NOT_OPENED)
    assert DOWN in document["missing"]
    [row] = document["kms"]
    assert (row["kek"], row["objects"], row["removable"]) == (kms.fingerprint, 3, False)
    assert (row["in_force_since"] is not None) is recorded
    assert document["missing"] in row["blockers"]
    [local] = document["keys"]
    assert (local["provider"], local["removable"]) == ("aescbc", False)
    assert document["missing"] in local["blockers"]
    text = mixed.run("keys")
    assert (text.code, text.stdout.count(document["missing"])) == (5, 2)
    assert mixed.json("keys", "--no-scan")["missing"] is None


@pytest.mark.parametrize("recorded", [False, True], ids=["no KEK on record", "KEK on record"])
def test_audit_without_the_plugin_makes_every_check_that_needs_none(
    mixed: Command, plugin: KmsPlugin, gateway: Gateway, *, recorded: bool
) -> None:
    if recorded:
        mixed.json("run")
        store(gateway, secrets(2, namespace="other"), OLD)
    healthy = states(mixed.json("audit", code=3))
    plugin.stop()
    document = mixed.json("audit", code=3)  # for this etcd answers a client without certificate
    assert document["missing"].startswith(NOT_OPENED)
    assert DOWN in document["missing"]
    found = states(document)
    assert {name: state for name, state in found.items() if healthy[name] != state} == {"readable": "unknown"}
    assert reasons(document)["readable"] == document["missing"]
    assert reasons(document)["current"] == "2 objects are under older keys: secrets 2"
    text = mixed.run("audit")
    assert f"Missing: {document['missing']}" in text.stdout.splitlines()


def test_audit_without_the_plugin_calls_nothing_current_and_fails_what_fails(
    etcd_tls: EtcdCluster, plugin: KmsPlugin, kms: KmsKey, tmp_path: Path
) -> None:
    gateway = etcd_tls.admin()
    store(gateway, secrets(3), kms)
    rewrap = command_of(tmp_path, etcd_tls, kms)
    assert states(rewrap.json("audit"))["readable"] == "pass"
    plugin.stop()
    document = rewrap.json("audit", code=5)
    assert {name: states(document)[name] for name in ("readable", "current", "plaintext", "converged")} == {
        "readable": "unknown",
        "current": "unknown",
        "plaintext": "pass",
        "converged": "unknown",
    }
    store(gateway, secrets(1, namespace="lost"), Key.new("aescbc", "lost"))
    assert states(rewrap.json("audit", code=3))["readable"] == "fail"


def test_with_the_plugin_nothing_is_missing(mixed: Command) -> None:
    assert mixed.json("keys")["missing"] is None
    assert mixed.json("audit", code=3)["missing"] is None


def test_keys_names_the_kek_before_one_is_on_record(mixed: Command, kms: KmsKey, gateway: Gateway) -> None:
    for words in (("keys",), ("keys", "--no-scan")):
        [row] = mixed.json(*words)["kms"]
        assert (row["kek"], row["in_force_since"]) == (kms.fingerprint, None)
    assert gateway.read("/kube-rewrap/v1/keks/") == []


def test_keys_names_each_kek_of_a_provider_that_only_reads(
    etcd: EtcdCluster, gateway: Gateway, plugin: KmsPlugin, kms: KmsKey, tmp_path: Path
) -> None:
    store(gateway, secrets(3), kms)
    first = kms.fingerprint
    kms.turn("kek-2")
    store(gateway, secrets(2, namespace="other"), kms)
    plugin.rotate("kek-2")
    rewrap = command_of(tmp_path, etcd, OLD, kms, KmsV1Key("legacy", plugin.endpoint), IDENTITY)
    rows = rewrap.json("keys")["kms"]
    assert {(row["provider"], row["kek"], row["objects"]) for row in rows} == {
        ("cloud", first, 3),
        ("cloud", kms.fingerprint, 2),
        ("legacy", None, 0),
    }
    assert [row["removable"] for row in rows] == [False] * 3
