"""`rewrap backups`: what a backup holds is what `status` says of the live cluster, and keys open it or are named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import Key, configure, secrets, store, write_private
from tests.integration.golden_registry import configuration_with, keys, load
from tests.servers.etcd import EtcdCluster
from tests.servers.kms_plugin import KmsPlugin, start_plugin

OLD, NEW, OTHER = Key.new("aescbc", "old"), Key.new("aesgcm", "new"), Key.new("secretbox", "other")
COUNTS = ("objects", "stale", "unreadable", "unreadable_by", "resources", "unknown_paths")


def offline(directory: Path, configuration: Path | None = None) -> Command:
    """The command line without an etcd."""
    flags = () if configuration is None else ("--encryption-config", str(configuration))
    return Command(directory, flags)


def one(document: dict[str, Any]) -> dict[str, Any]:
    [backup] = document["backups"]
    found: dict[str, Any] = backup
    return found


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    with start_plugin(str(tmp_path / "kms.sock")) as started:
        yield started


def golden(etcd: EtcdCluster, directory: Path) -> Path:
    """The recorded registry in a backup; returns its configuration."""
    load(etcd.admin())
    etcd.save(directory / "backup")
    text = configuration_with(keys()[0], plugin=f"unix://{directory}/kms.sock")
    return write_private(directory / "enc.json", text)


def test_the_golden_keyspace_counts_as_status_counts_it(
    etcd_any: EtcdCluster, plugin: KmsPlugin, tmp_path: Path
) -> None:
    file = golden(etcd_any, tmp_path)
    status = command_for(tmp_path, etcd_any, file).json("status")
    found = one(offline(tmp_path, file).json("backups", "inspect", str(tmp_path / "backup")))
    assert {name: found[name] for name in (*COUNTS, "peeked", "revision")} == {
        name: status[name] for name in (*COUNTS, "peeked", "revision")
    }


def test_values_under_kms_are_proven_by_a_plugin_that_answers(
    etcd: EtcdCluster, plugin: KmsPlugin, tmp_path: Path
) -> None:
    file = golden(etcd, tmp_path)
    proof = command_for(tmp_path, etcd, file).json("verify", code=3)
    found = one(offline(tmp_path, file).json("backups", "prove", str(tmp_path / "backup")))
    assert (found["objects"], found["unreadable"], found["peeked"]) == (proof["objects"], 0, 0)
    assert (found["readable"], found["missing_keys"], found["not_proven"]) == (True, [], [])


def test_values_under_kms_are_not_proven_by_a_plugin_that_is_away(etcd: EtcdCluster, tmp_path: Path) -> None:
    file = golden(etcd, tmp_path)
    found = one(offline(tmp_path, file).json("backups", "prove", str(tmp_path / "backup"), code=3))
    assert (found["readable"], found["unreadable"], found["missing_keys"]) == (False, 0, [])
    assert found["peeked"] == sum(row["objects"] for row in found["not_proven"]) > 0
    assert {row["provider"] for row in found["not_proven"]} == {"kms"}
    assert found["plugins_away"]


@pytest.fixture
def backup(etcd: EtcdCluster, tmp_path: Path) -> Path:
    """Thirty secrets under OLD, twenty of them later under NEW, ten of another namespace under OTHER."""
    gateway = etcd.admin()
    store(gateway, secrets(30), OLD)
    store(gateway, secrets(20), NEW)
    store(gateway, secrets(10, namespace="other"), OTHER)
    etcd.save(tmp_path / "backup")
    return tmp_path / "backup"


def test_a_key_of_the_archive_makes_a_backup_readable(backup: Path, tmp_path: Path) -> None:
    present = configure(tmp_path, NEW)
    archive = tmp_path / "archive"
    archive.mkdir()
    configure(archive, OLD, name="enc.json.1")
    configure(archive, NEW, OTHER, name="enc.json.2")
    rewrap = offline(tmp_path, present)
    found = one(rewrap.json("backups", "prove", str(backup), "--keys", str(archive)))
    assert (found["readable"], found["objects"]) == (True, 40)
    assert [(row["key"], row["fingerprint"], row["objects"]) for row in found["needed_keys"]] == [
        ("old", OLD.fingerprint, 10),
        ("new", NEW.fingerprint, 20),
        ("other", OTHER.fingerprint, 10),
    ]
    # The shared etcd has history of other tests; that of these objects is twenty secrets under OLD.
    history = {row["key"]: row["objects"] for row in found["history"]["needed_keys"]}
    assert history["old"] == 20
    assert rewrap.run("backups", "prove", str(backup), "--keys", str(archive)).code == 0


def test_a_missing_key_is_named_with_its_objects(backup: Path, tmp_path: Path) -> None:
    rewrap = offline(tmp_path, configure(tmp_path, NEW, Key.new("secretbox", "other")))
    found = one(rewrap.json("backups", "prove", str(backup), code=3))
    assert (found["readable"], found["unreadable"]) == (False, 20)
    assert [(row["provider"], row["key"], row["fingerprint"], row["objects"]) for row in found["missing_keys"]] == [
        ("aescbc", "old", None, 10),
        ("secretbox", "other", None, 10),
    ]
    examples = found["missing_keys"][0]["examples"]
    assert sorted(examples) == [f"/registry/secrets/default/s{number:05}" for number in range(20, 30)]
    ended = rewrap.run("backups", "prove", str(backup))
    assert ended.code == 3
    assert "NOT READABLE" in ended.stdout


def test_an_encrypted_object_of_a_resource_without_an_entry_is_unreadable(backup: Path, tmp_path: Path) -> None:
    rewrap = offline(tmp_path, configure(tmp_path, NEW, resources=["configmaps"]))
    found = one(rewrap.json("backups", "prove", str(backup), code=3))
    assert (found["unreadable"], [row["resource"] for row in found["resources"]]) == (40, ["configmaps", "secrets"])


def test_files_are_read_side_by_side_and_a_damaged_one_costs_itself_alone(backup: Path, tmp_path: Path) -> None:
    data = bytearray(backup.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    files = [str(backup), str(tmp_path / "damaged"), str(backup)]
    rewrap = offline(tmp_path, configure(tmp_path, NEW, OLD, OTHER))
    first, second, third = rewrap.json("backups", "prove", *files, "--processes", "2", code=3)["backups"]
    assert first == third
    assert first["readable"]
    assert (second["file"], second["readable"]) == (files[1], False)
    assert "SHA-256" in second["error"]
    ended = rewrap.run("backups", "inspect", *files)
    assert (ended.code, ended.stdout.count("etcdctl snapshot save")) == (3, 2)
    assert ended.stderr.count("SHA-256") == 1


@pytest.mark.parametrize("words", [("missing",), ("backup", "--keys", "missing")])
def test_a_path_that_names_nothing_ends_with_2(backup: Path, tmp_path: Path, words: tuple[str, ...]) -> None:
    rewrap = offline(tmp_path, configure(tmp_path, NEW))
    paths = [word if word.startswith("--") else str(tmp_path / word) for word in words]
    ended = rewrap.run("backups", "prove", *paths, "-o", "json")
    assert ended.code == 2
    assert "missing" in json.loads(ended.stdout)["error"]["message"]
