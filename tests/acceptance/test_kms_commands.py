"""The commands beside a KMS plugin: what they show while it is down, before a KEK is on record, and of its calls."""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube_rewrap.config.encryption.generation import load_generation
from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.chains import describe
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.records.generation import History
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.keyspace import Keyspace
from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import IDENTITY, AnyKey, Key, configuration, opened, secrets, store, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway
from tests.servers.kms_plugin import KmsPlugin, start_plugin
from tests.servers.kms_values import KmsKey, KmsV1Key

OLD = Key.new("aescbc", "old")
NOT_OPENED = "what is under KMS was counted by the keys that the values name, and not opened: "
TURNED = (
    "the KMS provider 'cloud' of secrets turned from v1 into v2: all that is stored under kms:cloud (v1) can't be read"
)
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


def test_status_without_the_plugin_calls_a_value_stale_only_where_a_kek_is_on_record(
    mixed: Command, plugin: KmsPlugin, kms: KmsKey, gateway: Gateway
) -> None:
    plugin.stop()
    document = mixed.json("status")
    [secrets_] = document["resources"]
    for counts in (document, secrets_):
        assert (counts["stale"], counts["undetermined"], counts["unreadable"]) == (2, 3, 0)
    primary = {key["provider"]: key["primary"] for key in secrets_["keys"]}
    assert primary == {"kms": None, "aescbc": False}
    shown = mixed.run("status").stdout
    [row] = [line.split() for line in shown.splitlines() if kms.fingerprint in line]
    assert row[-2:] == ["3", "undetermined"]
    assert ": 2 stale, 0 unreadable\n3 under KMS are undetermined, that is stale or current: no plugin" in shown
    plugin.start()
    mixed.json("run")
    store(gateway, secrets(2, namespace="other"), OLD)
    plugin.stop()
    document = mixed.json("status")
    assert (document["stale"], document["undetermined"]) == (2, 0)
    assert "undetermined" not in mixed.run("status").stdout


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
    assert {name: state for name, state in found.items() if healthy[name] != state} == {
        "readable": "unknown",
        "kms-socket": "unknown",
    }
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


def test_a_plan_and_status_name_the_calls_to_kms_v1_and_their_time(
    etcd: EtcdCluster, gateway: Gateway, plugin: KmsPlugin, kms: KmsKey, tmp_path: Path
) -> None:
    legacy = KmsV1Key("legacy", plugin.endpoint)
    store(gateway, secrets(30), legacy)
    store(gateway, secrets(2, namespace="other"), kms)
    rewrap = command_of(tmp_path, etcd, kms, legacy)
    calls = {"provider": "legacy", "calls": 30, "calls_per_second": 10.0, "seconds": 3.0}
    said = "30 calls to the plugin of the KMS v1 provider 'legacy', at most 10 a second (v1_rate), so at least 3 s."
    assert rewrap.json("run", "--dry-run")["kms_calls"] == [calls]
    assert rewrap.json("status")["kms_calls"] == [calls]
    assert said in rewrap.run("run", "--dry-run").stdout.splitlines()
    assert f"To open what is under KMS takes {said}" in rewrap.run("status").stdout.splitlines()
    # Back to v1: an Encrypt and a Decrypt for each of the two, beside the 30 to read.
    (tmp_path / "back").mkdir()
    back = command_of(tmp_path / "back", etcd, legacy, kms)
    assert back.json("run", "--dry-run")["kms_calls"] == [{**calls, "calls": 34, "seconds": 3.4}]


def test_a_dry_run_makes_no_seed_and_writes_nothing(
    etcd: EtcdCluster, gateway: Gateway, plugin: KmsPlugin, kms: KmsKey, tmp_path: Path
) -> None:
    store(gateway, secrets(5), OLD)
    rewrap = command_of(tmp_path, etcd, kms, OLD)
    before = gateway.revision()
    first = rewrap.json("run", "--dry-run")
    # Nothing shows how large values become: the plugin wraps one key, which is thrown away.
    assert (plugin.calls["v2.Encrypt"], plugin.calls["v2.Decrypt"]) == (1, 0)
    assert (gateway.revision(), gateway.read("/kube-rewrap/")) == (before, [])
    done = rewrap.json("run")
    plugin.calls.clear()
    store(gateway, secrets(5, namespace="more"), OLD)
    second = rewrap.json("run", "--dry-run")
    assert (plugin.calls["v2.Encrypt"], plugin.calls["v2.Decrypt"]) == (0, 0)
    assert first["growth_bytes"] == second["growth_bytes"] > 0
    stored = sum(len(one.value) for one in gateway.read("/registry/secrets/default/"))
    plain = sum(map(len, secrets(5).values()))
    # One byte less in each: the trial's plaintext is longer, and so is the field of its length.
    assert (done["rewritten"], abs(stored - plain - first["growth_bytes"])) == (5, 0)


@pytest.mark.parametrize("words", [("run",), ("run", "--dry-run"), ("run", "--resource", "secrets")])
def test_kms_v1_turned_into_v2_under_one_name_is_refused_by_what_is_stored(
    etcd: EtcdCluster, plugin: KmsPlugin, kms: KmsKey, tmp_path: Path, words: tuple[str, ...]
) -> None:
    gateway = etcd.admin()
    store(gateway, secrets(2), KmsV1Key("cloud", plugin.endpoint))
    store(gateway, secrets(3, namespace="other"), OLD)
    rewrap = command_of(tmp_path, etcd, kms, OLD)
    before = gateway.read("/registry/")
    ended = rewrap.run(*words)
    assert ended.code == 4, ended.stdout + ended.stderr
    assert TURNED in ended.stdout
    assert gateway.read("/registry/") == before
    rotate = rewrap.run("rotate", "--provider", "secretbox", "--dry-run")
    assert (rotate.code, TURNED in rotate.stdout) == (4, True)


def test_a_run_refuses_and_warns_of_what_the_leader_refuses_and_warns_of(
    etcd: EtcdCluster, plugin: KmsPlugin, kms: KmsKey, tmp_path: Path
) -> None:
    gateway = etcd.admin()
    store(gateway, secrets(2), OLD)
    rewrap = command_of(tmp_path, etcd, kms, OLD)
    record_as_in_force(etcd, configuration((["secrets"], [KmsV1Key("cloud", plugin.endpoint), OLD])))
    refused = rewrap.json("run", "--dry-run", code=4)
    assert TURNED in refused["refusals"][0]
    # With a record, one value that anyone put into etcd stops nothing.
    gateway.put("/registry/secrets/default/planted", b"k8s:enc:kms:v1:cloud:planted")
    record_as_in_force(etcd, configuration((["secrets"], [KmsKey("renamed", plugin.endpoint), OLD])))
    renamed = rewrap.json("run", "--dry-run")
    assert (renamed["refusals"], len(renamed["warnings"])) == ([], 1)
    assert "since a provider of another name does not read them" in renamed["warnings"][0]
    record_as_in_force(etcd, configuration((["secrets"], [KmsKey("cloud", f"{plugin.endpoint}.other"), OLD])))
    [moved] = rewrap.json("run", "--dry-run")["warnings"]
    assert "has another address" in moved
    assert f"Warning: {moved}" in rewrap.run("run", "--dry-run").stdout.splitlines()


def record_as_in_force(etcd: EtcdCluster, text: str) -> None:
    """As a scheduler records the configuration that it accepted."""

    async def record() -> None:
        async with open_store(EtcdSettings(endpoints=tuple(etcd.endpoints)), "/kube-rewrap") as store:
            history = History(describe(load_generation(text.encode(), "test")))
            await Generations(store, Keyspace()).replace(history)

    asyncio.run(record())


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


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_case_2_through_an_abstract_socket_a_kube_apiserver_reads_what_was_written_and_back(
    etcd: EtcdCluster, tmp_path: Path, version: str
) -> None:
    gateway, plaintexts = etcd.admin(), secrets(5)
    store(gateway, plaintexts, OLD)
    with start_plugin(f"@kube-rewrap-{os.getpid()}-{version}") as plugin:
        kms = KmsV1Key("a:b", plugin.endpoint) if version == "v1" else KmsKey("cloud", plugin.endpoint)
        rewrap = command_of(tmp_path, etcd, kms, OLD)
        assert rewrap.json("run")["rewritten"] == 5
        found = gateway.read("/registry/secrets/")
        assert opened(found, kms) == plaintexts
        assert not isinstance(kms, KmsKey) or all(kms.is_current(one.value) for one in found)
        # What kube-apiserver then writes is current to rewrap, and readable.
        store(gateway, plaintexts, kms)
        assert rewrap.json("verify")["complete"] is True
        assert rewrap.json("run")["rewritten"] == 0


def test_a_campaign_under_way_names_the_ceiling_of_calls_to_kms_v1(
    etcd: EtcdCluster, gateway: Gateway, plugin: KmsPlugin, tmp_path: Path
) -> None:
    legacy = KmsV1Key("legacy", plugin.endpoint)
    store(gateway, secrets(300), legacy)
    text = configuration((["secrets"], [OLD, legacy]))
    record_as_in_force(etcd, text)
    show = Command(tmp_path, tuple(etcd.client_flags()))
    with command_of(tmp_path, etcd, OLD, legacy).start("run") as running:
        running.wait_for_event("campaign.planned")
        [row] = show.json("campaign", "list")["campaigns"]
        shown = show.json("campaign", "show", row["id"])
        assert shown["kms_calls"] == [{"provider": "legacy", "calls_per_second": 10.0}]
        ceiling = "at most 10 a second (v1_rate), to the plugin of the KMS v1 provider 'legacy': one for each object"
        assert ceiling in show.run("campaign", "show", row["id"]).stdout


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("run", "--resource", "pods"), "--resource: pods is not governed by the configuration"),
        (("run", "--dry-run", "--namespace", "Kube"), "--namespace: is not a namespace's name"),
        (("run", "--namespace", "absent"), "--namespace: absent: no object is there"),
        (("run", "--since", "0"), "--since: must be a revision of etcd, a whole number from 1 to"),
        (("inspect", "/registry/secrets/team/absent"), "/registry/secrets/team/absent: does not exist"),
        (("inspect", "/registry/pods/team/one"), "belongs to pods, no resource that the configuration governs"),
        (("keys", "--accept", "0123456789abcdef"), "--accept: no budget is on record for this fingerprint"),
        (("rotate", "--resource", "pods", "--dry-run"), "--resource: no entry of the file names pods"),
        (("rotate", "--dry-run"), "the chosen resources are written with kms"),
        (("rotate", "--provider", "aesgcm", "--kms-file", "a", "--dry-run"), "and this one is to aesgcm"),
        (("rotate", "--kms-file", "a", "--dry-run"), "--kms-file: is for a rotation to kms"),
    ],
)
def test_wrong_arguments_are_refused_before_a_plugin_is_asked(
    mixed: Command, plugin: KmsPlugin, words: tuple[str, ...], message: str
) -> None:
    ended = mixed.run(*words)
    assert (ended.code, message in ended.stderr) == (2, True), ended.stdout + ended.stderr
    assert not plugin.calls


@pytest.mark.parametrize("words", [("run", "--dry-run"), ("run",), ("verify",)])
def test_a_plugin_that_an_operator_has_to_repair_ends_every_command_with_4(
    mixed: Command, plugin: KmsPlugin, words: tuple[str, ...]
) -> None:
    plugin.behaviour = replace(plugin.behaviour, fail={"*": "PERMISSION_DENIED"})
    ended = mixed.run(*words)
    assert (ended.code, "has no permission for the call" in ended.stderr) == (4, True), ended.stdout + ended.stderr


def test_a_command_names_the_method_that_hangs_and_the_way_out(mixed: Command, plugin: KmsPlugin) -> None:
    plugin.behaviour = replace(plugin.behaviour, hang=("v2.Decrypt",))
    ended = mixed.run("verify")
    assert ended.code == 5
    assert re.search(r"did not answer (Decrypt within 3 s|in time \(Decrypt\))", ended.stderr)
    assert ended.stderr.splitlines()[-1] == 'What to do: docs/kms.md, "The plugin is down"'
