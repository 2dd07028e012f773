"""An operator's statement about the file where a KMS v2 provider writes: what it decides, and that it covers no KEK."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import Key, configuration, secrets, store, write_private
from tests.servers.apiserver_metrics import MetricsServer, metrics_servers, sha256
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway
from tests.servers.kms_plugin import KmsPlugin, start_plugin
from tests.servers.kms_values import KmsStanza

pytestmark = pytest.mark.timeout(180)

OBJECTS = 5
OLD = Key.new("aescbc", "old")
NOT_KNOWN = "the kube-apiservers are not known to run this configuration"
STATE = ("converged", "--assume-converged", "restarted all of them")


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    with start_plugin(str(tmp_path / "kms.sock")) as process:
        yield process


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    return etcd.admin()


@pytest.fixture
def rewrap(etcd: EtcdCluster, gateway: Gateway, plugin: KmsPlugin, tmp_path: Path) -> Command:
    """A KMS provider that writes, before the key of all objects; without an address of a kube-apiserver."""
    store(gateway, secrets(OBJECTS), OLD)
    text = configuration((["secrets"], (KmsStanza("cloud", plugin.endpoint), OLD)))
    settings = write_private(tmp_path / "settings.toml", "[kms]\nsettle = 0.001\n")
    command = command_for(tmp_path, etcd, write_private(tmp_path / "enc.json", text))
    return command.with_flags("--settings", str(settings))


@pytest.fixture
def replica(gateway: Gateway) -> Iterator[MetricsServer]:
    """One that does not show its file, as without automatic reload."""
    with metrics_servers(1) as [server]:
        gateway.put(*server.lease())
        yield server


def blockers(keys: list[dict[str, Any]]) -> list[str]:
    return [blocker for key in keys for blocker in key["blockers"] if blocker.startswith(NOT_KNOWN)]


def test_without_addresses_the_statement_decides(rewrap: Command) -> None:
    assert blockers(rewrap.json("run")["proof"]["keys"])
    assert rewrap.json(*STATE)["converged"]
    assert not blockers(rewrap.json("verify")["keys"])


def test_a_replica_that_shows_its_kek_and_no_file(rewrap: Command, replica: MetricsServer, plugin: KmsPlugin) -> None:
    command, kek = rewrap.with_flags("--apiserver", replica.url), sha256(plugin.behaviour.key_id)
    replica.shown.keks = {("cloud", kek): 1.7e9}
    assert "reports no EncryptionConfiguration" in command.run("run", "-o", "json", "--rate", "0").error["message"]
    assert rewrap.json(*STATE)["converged"]

    replica.shown.keks = {("cloud", sha256("another")): 1.7e9}
    ended = command.run("run", "-o", "json")
    assert ended.code == 4
    assert "has another KEK of the KMS provider 'cloud'" in ended.error["message"]
    assert "No statement covers the KEK" in ended.error["message"]

    replica.shown.keks = {("cloud", kek): 1.7e9}
    document = command.json("run")
    assert (document["state"], document["rewritten"]) == ("complete", OBJECTS)
    assert not blockers(document["proof"]["keys"])
