"""`rewrap rotate` to a KMS provider, between two, and back: a real etcd, stand-ins for kube-apiservers, a plugin."""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.acceptance.control_plane import ROTATIONS, SECRETS, ControlPlane, all_keys_of, control_plane, hash_of, wait
from tests.acceptance.rotate.running import end_well, stop_at_spread
from tests.acceptance.rotate.texts import OLD, plain
from tests.integration.apiserver import IDENTITY, AnyKey, Key, configuration, manifest, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.kms_plugin import KmsPlugin, start_plugin
from tests.servers.kms_values import KmsKey, KmsV1Key

TO_KMS = ("rotate", "--provider", "kms", "--prune")
CONFIG_MAP = "/registry/configmaps/team/one"


@pytest.fixture
def plugin() -> Iterator[KmsPlugin]:
    """Its socket's path is short, as Linux wants it."""
    with tempfile.TemporaryDirectory() as directory, start_plugin(f"{directory}/kms.sock") as process:
        yield process


def stanza(directory: Path, plugin: KmsPlugin, name: str = "cloud", timeout: str = "3s") -> str:
    """The file with the provider to add, as an operator writes it."""
    file = directory / "stanza.yaml"
    provider = {"kms": {"apiVersion": "v2", "name": name, "endpoint": plugin.endpoint, "timeout": timeout}}
    file.write_text(yaml.safe_dump(provider))
    return str(file)


def file_of(*keys: AnyKey) -> str:
    return configuration((["secrets"], keys))


def assert_all_is_under_kek(plane: ControlPlane, key: KmsKey, plugin: KmsPlugin) -> None:
    """Every object opens by this provider, and names the KEK that the plugin names."""
    plane.assert_all_is_under(key)
    assert key.key_id == plugin.behaviour.key_id
    with plane.registry.lock:
        assert all(key.is_current(one.value) for one in plane.gateway.read(SECRETS))


def providers(plane: ControlPlane) -> list[dict[str, Any]]:
    """Those of each entry of the file, in one list."""
    return [block for entry in yaml.safe_load(plane.text)["resources"] for block in entry["providers"]]


@pytest.mark.parametrize("old", [OLD, IDENTITY], ids=["from aescbc", "the first encryption"])
def test_to_kms_v2_every_object_is_under_its_kek_and_the_old_provider_goes(
    etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin, old: Key
) -> None:
    with control_plane(etcd, tmp_path, plain(old)) as plane:
        said = end_well(plane.rewrap.start(*TO_KMS, "--kms-file", stanza(tmp_path, plugin)))
        [new] = all_keys_of(plane.text)
        assert isinstance(new, KmsKey)
        assert new.name == "cloud"
        assert_all_is_under_kek(plane, new, plugin)
        assert plain(old) in plane.archived
        assert plugin.behaviour.key_id not in said
        proof = plane.rewrap.json("verify")
        assert proof["complete"] is True
        assert [(key["provider"], key["key"], key["fingerprint"], key["objects"]) for key in proof["keys"]] == [
            ("kms", "cloud", new.fingerprint, 20)
        ]


def test_from_kms_v1_to_v2_under_a_new_name(etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin) -> None:
    old = KmsV1Key("legacy", plugin.endpoint)
    with control_plane(etcd, tmp_path, file_of(old)) as plane:
        end_well(plane.rewrap.start(*TO_KMS, "--kms-file", stanza(tmp_path, plugin)))
        [new] = all_keys_of(plane.text)
        assert isinstance(new, KmsKey)
        assert_all_is_under_kek(plane, new, plugin)


def test_the_kek_in_force_is_on_record_afterwards_and_the_next_one_can_be_waited_for(
    etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin
) -> None:
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        settings = write_private(tmp_path / "settings.toml", "[kms]\nsettle = 2.0\n")
        rewrap = plane.rewrap.with_environment(REWRAP_SETTINGS=str(settings))
        end_well(rewrap.start(*TO_KMS, "--kms-file", stanza(tmp_path, plugin)))
        [record] = plane.gateway.read("/kube-rewrap/v1/keks/")
        first = hash_of(plugin.behaviour.key_id)
        assert (json.loads(record.value)["provider"], json.loads(record.value)["target"]) == ("cloud", first)
        plugin.rotate("kek-2")
        refused = rewrap.run("run")
        assert refused.code == 4, refused.stdout + refused.stderr
        assert "names another KEK; it takes effect after the plugin has named it for 2 s" in refused.stdout
        second = hash_of("kek-2")
        wait(lambda: rewrap.run("run").code == 0, "a run under the KEK that has stood", 60)
        [record] = plane.gateway.read("/kube-rewrap/v1/keks/")
        assert (json.loads(record.value)["target"], json.loads(record.value)["former"]) == (second, [first])


def test_from_kms_v2_back_to_secretbox(etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin) -> None:
    with control_plane(etcd, tmp_path, file_of(KmsKey("cloud", plugin.endpoint))) as plane:
        end_well(plane.rewrap.start("rotate", "--provider", "secretbox", "--prune"))
        new = plane.new_key()
        assert new.provider == "secretbox"
        assert [list(block) for block in providers(plane)] == [["secretbox"]]
        plane.assert_all_is_under(new)


def test_each_of_two_entries_gets_a_provider_of_its_own(etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin) -> None:
    text = configuration((["secrets"], [OLD, IDENTITY]), (["configmaps"], [IDENTITY]))
    with control_plane(etcd, tmp_path, text) as plane:
        plaintext = manifest("ConfigMap", "team", "one", "first")
        plane.gateway.put(CONFIG_MAP, plaintext)
        end_well(plane.rewrap.start(*TO_KMS, "--kms-file", stanza(tmp_path, plugin)))
        assert [next(iter(block)) for block in providers(plane)] == ["kms", "kms"]
        first, second = [block["kms"]["name"] for block in providers(plane)]
        assert (first, second) == ("cloud", "cloud-2")
        assert_all_is_under_kek(plane, KmsKey(first, plugin.endpoint, plugin.behaviour.key_id), plugin)
        stored = plane.gateway.get(CONFIG_MAP)
        assert stored is not None
        assert KmsKey(second, plugin.endpoint).open(CONFIG_MAP, stored.value) == plaintext


@pytest.mark.parametrize(
    ("behaviour", "because"),
    [
        pytest.param(None, "can't be reached", id="down"),
        pytest.param({"healthz": "degraded"}, "says that it is not healthy", id="unhealthy"),
        pytest.param({"fail": {"v2.Decrypt": "PERMISSION_DENIED"}}, "has no permission", id="that only encrypts"),
        pytest.param({"v2_version": "v3"}, "has a version other than v2", id="of another version"),
    ],
)
def test_a_plugin_that_is_of_no_use_is_a_reason_against_and_nothing_is_written(
    etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin, behaviour: dict[str, Any] | None, because: str
) -> None:
    file = stanza(tmp_path, plugin, timeout="500ms")
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        if behaviour is None:
            plugin.stop()
        else:
            plugin.behaviour = replace(plugin.behaviour, **behaviour)
        ended = plane.rewrap.run(*TO_KMS, "--kms-file", file)
        assert ended.code == 4, ended.stdout + ended.stderr
        refusal = next(line for line in ended.stdout.splitlines() if line.startswith("Refused: "))
        assert "the KMS provider to add can't be used from here: " in refusal
        assert because in refusal
        assert (plane.text, plane.gateway.read("/kube-rewrap/")) == (plain(OLD), [])


def test_killed_at_an_edit_it_is_taken_up_again(etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin) -> None:
    words = (*TO_KMS, "--kms-file", stanza(tmp_path, plugin))
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        for number in (1, 2):
            with plane.rewrap.start(*(words if number == 1 else ("rotate", "resume", *words[-2:]))) as running:
                wait(lambda: len(plane.archived) >= number, "an edit")  # noqa: B023 - called before the next round
                running.send(signal.SIGKILL)
                running.end()
        end_well(plane.rewrap.start("rotate", "resume", *words[-2:]))
        [new] = all_keys_of(plane.text)
        assert isinstance(new, KmsKey)
        assert_all_is_under_kek(plane, new, plugin)


def test_a_plugin_that_dies_before_a_scan_lets_the_rotation_rest_and_go_on_by_itself(
    etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin
) -> None:
    with control_plane(etcd, tmp_path, plain(OLD), compacted_every=4.0) as plane:
        with plane.rewrap.start(*TO_KMS, "--kms-file", stanza(tmp_path, plugin)) as running:
            wait(lambda: [one["step"] for one in plane.rotations()] == ["compact"], "the step compact")
            plugin.stop()
            # As a kube-apiserver that was restarted writes: a scan has to ask the plugin for its seed.
            name, plaintext = f"{SECRETS}team-9/late", manifest("Secret", "team-9", "late", "late")
            plane.gateway.put(name, KmsKey("cloud", plugin.endpoint, plugin.behaviour.key_id).seal(name, plaintext))
            wait(lambda: "it rests (kms)" in plane.rotation()["waits"], "a rest")
            plane.registry.objects[name] = plaintext  # from now on the stand-ins write it, too
            assert "the plugin of KMS provider 'cloud' (v2) can't be reached" in plane.rotation()["waits"]
            assert not running.is_over
            plugin.start()
            ended = running.end()
        assert ended.code == 0, ended.stdout + ended.stderr
        [new] = all_keys_of(plane.text)
        assert isinstance(new, KmsKey)
        assert_all_is_under_kek(plane, new, plugin)


def test_another_stanza_than_the_one_that_was_planned_is_held(
    etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin
) -> None:
    file = stanza(tmp_path, plugin)
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        stop_at_spread(plane, *TO_KMS[1:], "--kms-file", file)
        # As after a crash before the first edit.
        plane.put(plain(OLD))
        before = {"step": "add", "file": hash_of(plain(OLD)), "edited": "", "passed": []}
        found = plane.rotation()
        plane.gateway.put(f"{ROTATIONS}{found['id']}", json.dumps({**found, **before}).encode())
        stanza(tmp_path, plugin, timeout="5s")
        ended = plane.rewrap.run("rotate", "resume", "--kms-file", file)
        assert ended.code == 4, ended.stdout + ended.stderr
        assert "is not the one that the rotation was planned with" in plane.rotation()["held"]
        assert plane.text == plain(OLD)
        stanza(tmp_path, plugin)
        end_well(plane.rewrap.start("rotate", "resume", "--kms-file", file))
        [new] = all_keys_of(plane.text)
        assert isinstance(new, KmsKey)
        assert_all_is_under_kek(plane, new, plugin)


def test_each_kek_under_which_objects_are_has_its_row(etcd: EtcdCluster, tmp_path: Path, plugin: KmsPlugin) -> None:
    text = file_of(KmsKey("cloud", plugin.endpoint), OLD, KmsV1Key("legacy", plugin.endpoint))
    with control_plane(etcd, tmp_path, text, objects=200) as plane:
        [first, _, _] = all_keys_of(plane.text)
        plugin.rotate("kek-2")
        [second, _, _] = all_keys_of(plane.text)
        assert isinstance(second, KmsKey)
        wait(lambda: any(second.is_current(one.value) for one in plane.gateway.read(SECRETS)), "a write under kek-2")
        for one in plane.apiservers:
            one.go_down()
        rows = plane.rewrap.json("keys")["kms"]
        assert [(row["provider"], row["version"], row["kek"], row["removable"]) for row in rows] == [
            ("cloud", "v2", second.fingerprint, False),
            ("cloud", "v2", first.fingerprint, False),
            ("legacy", "v1", None, False),
        ]
        now, former, legacy = (row["objects"] for row in rows)
        assert (now + former, legacy) == (200, 0)
        assert f"{former} objects are under it" in rows[1]["blockers"]
        assert not any("objects are under it" in blocker for blocker in rows[2]["blockers"])
