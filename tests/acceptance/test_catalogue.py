"""The catalogue of backups, the end of a key's life, and the configuration that reads a backup of another day."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube_rewrap.scheduler.backups.catalogue import line_of, moment
from kube_rewrap.scheduler.backups.catalogue_file import append_lines, read_catalogue
from tests.acceptance.command import Command, command_for
from tests.acceptance.control_plane import SECRETS, ControlPlane, control_plane, wait
from tests.acceptance.rotate.running import end_well
from tests.acceptance.rotate.texts import plain
from tests.acceptance.test_backups import golden, offline
from tests.integration.apiserver import Key, configure, secrets, store
from tests.servers.etcd import EtcdCluster
from tests.servers.kms_plugin import start_plugin

OLD, NEW = Key.new("aescbc", "old"), Key.new("aesgcm", "new")


def row(document: list[dict[str, Any]], key: Key) -> dict[str, Any]:
    [found] = [one for one in document if one["fingerprint"] == key.fingerprint]
    return found


def verdict(plane: ControlPlane, catalogue: Path, key: Key) -> dict[str, Any]:
    """What `rewrap keys` says of a key's destruction."""
    found = plane.rewrap.json("keys", "--catalogue", str(catalogue), "--keys", str(plane.archive))
    return row(found["destruction"], key)


def test_the_end_of_a_keys_life(etcd: EtcdCluster, tmp_path: Path) -> None:
    catalogue, before, after = (tmp_path / name for name in ("backups.jsonl", "before.db", "after.db"))
    etcd.admin().compact(etcd.admin().revision())
    with control_plane(etcd, tmp_path, plain(OLD)) as plane:
        etcd.save(before)
        end_well(plane.rewrap.start("rotate", "--provider", "aesgcm", "--prune"))
        new, proving = plane.new_key(), offline(tmp_path, plane.file)
        plane.rewrap.json("run")

        def blockers() -> list[str]:
            found: list[str] = verdict(plane, catalogue, OLD)["blockers"]
            return found

        add = ("backups", "add", "--catalogue", str(catalogue), "--keys", str(plane.archive))
        proving.json(*add, str(before), "--expires", "2999-12-31", "--where", "the safe")
        wait(lambda: not any("compacted" in one for one in blockers()), "compaction")
        etcd.save(after)
        proving.json(*add, str(after), "--expires", "30d")
        old = verdict(plane, catalogue, OLD)
        assert (old["configured"], old["objects"], old["needed_by"], old["until"][:10]) == (False, 0, 1, "3000-01-01")
        [because] = old["blockers"]
        assert because.startswith("backups need it: ")
        assert len(old["files"]) == len(plane.archived) == 3
        assert "the present EncryptionConfiguration has it" in verdict(plane, catalogue, new)["blockers"]
        # It expires. As long as the file is still there, somebody may read it.
        assert proving.run(*add, str(before), "--expires", "2020-01-01").code == 2
        [added] = [one for one in read_catalogue(str(catalogue)).backups if one.file == str(before)]
        append_lines(str(catalogue), [line_of(replace(added, expires=moment(0.0)))])
        [because] = blockers()
        assert because.startswith("backups need it: ")
        # The key that was pruned reads it, as the one that comes last.
        out = str(tmp_path / "restored.json")
        words = ("--keys", str(plane.archive), "--write-to", out)
        [entry] = proving.json("backups", "configuration", str(before), *words)["resources"]
        assert [key[2] for key in entry["keys"]] == [new.fingerprint, OLD.fingerprint]
        assert offline(tmp_path, Path(out)).json("backups", "prove", str(before))["backups"][0]["readable"]
        before.unlink()
        # What no entry governs now may have been encrypted once, and another registry may lie beside this one.
        for place in ("/registry/configmaps/a/b", "/kubernetes.io/secrets/a/b"):
            etcd.admin().put(place, OLD.seal(place, b"k8s"))
            assert len(blockers()) == 1
            etcd.admin().delete(place)
        assert blockers() == []
        assert verdict(plane, catalogue, OLD)["destroyable"]
        text = plane.rewrap.run("keys", "--catalogue", str(catalogue), "--keys", str(plane.archive)).stdout
        assert f"old ({OLD.fingerprint}) may be destroyed; it is in {plane.archive}" in text
        assert "rewrap destroys no key" in text
        [line] = [line for line in text.splitlines() if line.startswith(OLD.fingerprint)]
        assert "not in file" in line
        # Without the cluster, nothing is destroyable.
        found = plane.rewrap.json("keys", "--no-scan", "--catalogue", str(catalogue), "--keys", str(plane.archive))
        assert not row(found["destruction"], OLD)["destroyable"]


@pytest.fixture
def backup(etcd: EtcdCluster, tmp_path: Path) -> Path:
    """Ten secrets under OLD, ten under NEW."""
    gateway = etcd.admin()
    store(gateway, secrets(20), OLD)
    store(gateway, secrets(10), NEW)
    gateway.compact(gateway.revision())
    etcd.save(tmp_path / "backup")
    return tmp_path / "backup"


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    (tmp_path / "archive").mkdir()
    configure(tmp_path / "archive", OLD, name="enc.json.1")
    return tmp_path / "archive"


def test_a_backup_is_added_listed_and_forgotten(backup: Path, archive: Path, tmp_path: Path) -> None:
    catalogue = tmp_path / "backups.jsonl"
    rewrap = offline(tmp_path, configure(tmp_path, NEW))
    flags = ("--catalogue", str(catalogue))
    found = rewrap.json("backups", "add", str(backup), "--keys", str(archive), *flags, "--where", "tape 7")
    [added] = found["added"]
    assert [key[2] for key in added["keys"]] == [OLD.fingerprint, NEW.fingerprint]
    assert (added["readable"], added["objects"], added["where"], added["expires"]) == (True, 20, "tape 7", None)
    assert stat.S_IMODE(catalogue.stat().st_mode) == 0o600
    assert SECRETS not in catalogue.read_text()
    with catalogue.open("a") as stream:
        stream.write('{"version": 1, "line": "back')
    listed = Command(tmp_path).json("backups", "list", *flags)
    assert [one["digest"] for one in listed["backups"]] == [added["digest"]]
    [damaged] = listed["damaged"]
    text = Command(tmp_path).run("backups", "list", *flags).stdout
    assert "damaged line 2" in text
    assert "tape 7" in text
    for digest in (damaged["digest"], added["digest"][:12]):
        Command(tmp_path).json("backups", "forget", digest, *flags)
    listed = Command(tmp_path).json("backups", "list", *flags)
    assert (listed["backups"], listed["damaged"], listed["forgotten"]) == ([], [], 2)
    assert Command(tmp_path).run("backups", "forget", added["digest"], *flags).code == 2


def test_another_registry_in_the_same_file_is_looked_at_apart(etcd: EtcdCluster, archive: Path, tmp_path: Path) -> None:
    gateway, file = etcd.admin(), tmp_path / "backup"
    store(gateway, secrets(3), NEW)
    place = "/kubernetes.io/secrets/default/x"
    gateway.put(place, OLD.seal(place, next(iter(secrets(1).values()))))
    etcd.save(file)
    rewrap = offline(tmp_path, configure(tmp_path, NEW))
    flags = ("--catalogue", str(tmp_path / "backups.jsonl"), "--keys", str(archive))

    def blockers() -> str:
        return " ".join(row(rewrap.json("backups", "keys", *flags)["keys"], OLD)["blockers"])

    [added] = rewrap.json("backups", "add", str(file), *flags)["added"]
    assert (added["readable"], added["prefix"], added["outside"]) == (True, "/registry/", ["/kubernetes.io/"])
    assert OLD.fingerprint not in json.dumps(added["keys"])
    assert "outside their etcd prefix were not looked at" in blockers()
    [added] = rewrap.json("backups", "add", str(file), *flags, "--etcd-prefix", "/kubernetes.io")["added"]
    assert (added["prefix"], added["outside"]) == ("/kubernetes.io/", ["/registry/"])
    assert "were not looked at" not in blockers()
    assert "backups need it" in blockers()


def test_a_backup_that_can_not_be_read_whole_is_added_and_ends_with_3(
    backup: Path, archive: Path, tmp_path: Path
) -> None:
    flags = ("--catalogue", str(tmp_path / "backups.jsonl"))
    rewrap = offline(tmp_path, configure(tmp_path, NEW))
    data = bytearray(backup.read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "damaged").write_bytes(data)
    found = rewrap.json("backups", "add", str(backup), str(tmp_path / "damaged"), *flags, code=3)
    assert [(one["readable"], one["unreadable"]) for one in found["added"]] == [(False, 10)]
    assert [one["file"] for one in found["refused"]] == [str(tmp_path / "damaged")]
    keys = rewrap.json("backups", "keys", *flags, "--keys", str(archive))["keys"]
    assert not any(one["destroyable"] for one in keys)
    assert any("not readable whole" in one for one in row(keys, OLD)["blockers"])
    assert any("a key that is not known" in one for one in row(keys, OLD)["blockers"])
    assert "a key that is not known" not in json.dumps(row(keys, NEW))


def test_the_configuration_for_a_backup_reads_it(backup: Path, archive: Path, tmp_path: Path) -> None:
    other = Key.new("secretbox", "other")
    present = configure(tmp_path, other, NEW)
    out = tmp_path / "restored.json"
    rewrap = offline(tmp_path, present)
    words = ("backups", "configuration", str(backup), "--keys", str(archive), "--write-to", str(out))
    found = rewrap.json(*words)
    assert found["written"] == str(out)
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    assert [[key[2] for key in one["keys"]] for one in found["resources"]] == [
        [other.fingerprint, NEW.fingerprint, OLD.fingerprint]
    ]
    alone = offline(tmp_path, out)
    assert alone.json("backups", "prove", str(backup))["backups"][0]["readable"]
    # It is not overwritten, but by a flag.
    assert rewrap.run(*words).code == 2
    out.chmod(0o644)
    assert rewrap.run(*words, "--overwrite").code == 0
    assert stat.S_IMODE(out.stat().st_mode) == 0o600
    # On stdout it is the same, and nothing else.
    assert rewrap.run(*words[:-2]).stdout == out.read_text()
    assert not [*tmp_path.glob(".restored*")]


def test_the_configuration_for_the_golden_keyspace_reads_it(etcd: EtcdCluster, tmp_path: Path) -> None:
    rewrap, out = offline(tmp_path, golden(etcd, tmp_path)), tmp_path / "restored.json"
    with start_plugin(str(tmp_path / "kms.sock")):
        rewrap.json("backups", "configuration", str(tmp_path / "backup"), "--write-to", str(out))
        [alone] = offline(tmp_path, out).json("backups", "prove", str(tmp_path / "backup"))["backups"]
    assert (alone["readable"], alone["objects"] > 50) == (True, True)


def test_no_configuration_is_written_that_does_not_read_the_backup(backup: Path, tmp_path: Path) -> None:
    out = tmp_path / "restored.json"
    ended = offline(tmp_path, configure(tmp_path, NEW)).run(
        "backups", "configuration", str(backup), "--write-to", str(out)
    )
    assert (ended.code, out.exists()) == (3, False)
    assert "NOT READABLE" in ended.stdout


@pytest.mark.parametrize("write", [lambda path: path.mkdir(), os.mkfifo])
def test_what_is_no_file_is_no_catalogue(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path / "catalogue")
    assert Command(tmp_path).run("backups", "list", "--catalogue", str(tmp_path / "catalogue")).code == 2


def test_a_catalogue_has_to_be_named_and_to_be_there(tmp_path: Path) -> None:
    assert Command(tmp_path).run("backups", "list").code == 2
    assert Command(tmp_path).run("backups", "list", "--catalogue", str(tmp_path / "none")).code == 2
    assert not (tmp_path / "none").exists()


def test_audit_knows_the_catalogue(backup: Path, archive: Path, etcd: EtcdCluster, tmp_path: Path) -> None:
    catalogue = tmp_path / "backups.jsonl"
    file = configure(tmp_path, NEW, OLD)
    offline(tmp_path, file).json("backups", "add", str(backup), "--catalogue", str(catalogue))
    rewrap = command_for(tmp_path, etcd, file)

    def ages(*words: str) -> list[str]:
        found = rewrap.run("audit", "-o", "json", *words).document
        return [one["state"] for one in found["checks"] if one["id"] == "backup-age"]

    assert ages() == []
    assert ages("--catalogue", str(catalogue)) == ["pass"]
    os.utime(backup, (0, 0))
    offline(tmp_path, file).json("backups", "add", str(backup), "--catalogue", str(catalogue))
    assert ages("--catalogue", str(catalogue)) == ["warn"]
