"""etcd is restored from a backup: what is on no record any more is not taken for nothing."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import Command, command_for
from tests.acceptance.control_plane import control_plane, keys_of
from tests.integration.apiserver import Key, configuration, configure, opened, secrets, store, write_private
from tests.servers.etcd import EtcdCluster, EtcdOptions, EtcdVersion
from tests.servers.gateway import Gateway

OBJECTS = 120
OLD = Key.new("aescbc", "old")
FIRST = Key.new("aesgcm", "first")
YOUNGER = Key.new("aesgcm", "younger")
LATER = Key.new("aesgcm", "later")
SECRETS = "/registry/secrets/"

NewEtcd = Callable[[EtcdOptions], EtcdCluster]


@dataclass(frozen=True)
class Restored:
    """An etcd that was restored from a backup that is older than the key `YOUNGER`, which was at work until then."""

    gateway: Gateway
    plaintexts: dict[str, bytes]
    directory: Path
    rewrap: Command

    def configure(self, *keys: Key) -> None:
        configure(self.directory, *keys)

    def states(self) -> dict[str, str]:
        """What is said of the keys, by their names."""
        rows: list[dict[str, Any]] = self.rewrap.json("keys", "--no-scan")["keys"]
        return {row["names"][0]: row["state"] for row in rows}

    def assert_all_is_under(self, key: Key) -> None:
        assert opened(self.gateway.read(SECRETS), key) == self.plaintexts


def restored(etcd: EtcdCluster, directory: Path) -> Restored:
    plaintexts = secrets(OBJECTS)
    store(etcd.admin(), plaintexts, OLD)
    rewrap = command_for(directory, etcd, configure(directory, FIRST, OLD)).with_environment(REWRAP_RATE="0")
    rewrap.json("run")
    etcd.save(directory / "backup")
    configure(directory, YOUNGER, FIRST, OLD)
    rewrap.json("run")
    found = Restored(etcd.admin(), plaintexts, directory, rewrap)
    found.assert_all_is_under(YOUNGER)
    etcd.restore(directory / "backup")
    found.assert_all_is_under(FIRST)
    return found


@pytest.mark.parametrize("version", EtcdVersion, ids=lambda version: f"etcd-{version.value}")
def test_no_worn_key_encrypts_after_a_restore_until_an_operator_takes_its_count(
    new_etcd: NewEtcd, tmp_path: Path, version: EtcdVersion
) -> None:
    cluster = restored(new_etcd(EtcdOptions(version=version)), tmp_path)
    # The log is longer by now than the old one ever was.
    for number in range(1_000):
        cluster.gateway.put("/registry/events/default/e", b"%d" % number)
    assert cluster.states() == {"younger": "restored", "first": "restored", "old": "unlimited"}
    refused = cluster.rewrap.run("run", "-o", "json")
    assert (refused.code, refused.error["type"]) == (4, "BudgetExhaustedError")
    assert "is not known" in refused.error["message"]
    # Refused or not, it is on record from now on.
    assert [event["budgets"] for event in refused.events if event["event"] == "etcd.restored"] == [2]
    cluster.assert_all_is_under(FIRST)
    cluster.rewrap.json("keys", "--accept", YOUNGER.fingerprint)
    # It is taken at its word for this key, and for no other.
    assert cluster.states() == {"younger": "ok", "first": "restored", "old": "unlimited"}
    cluster.rewrap.json("run")
    cluster.assert_all_is_under(YOUNGER)

    # What comes after the restore was noticed is nobody's old key.
    cluster.configure(LATER, YOUNGER, FIRST, OLD)
    cluster.rewrap.json("run")
    assert cluster.states() == {"later": "ok", "younger": "ok", "first": "restored", "old": "unlimited"}


def test_three_members_that_were_restored_are_noticed_by_whichever_answers(
    etcd_three: EtcdCluster, tmp_path: Path
) -> None:
    cluster = restored(etcd_three, tmp_path)
    etcd_three.leader().kill()
    assert cluster.states() == {"younger": "restored", "first": "restored", "old": "unlimited"}


def test_members_that_come_and_go_are_no_restore(etcd_three: EtcdCluster, tmp_path: Path) -> None:
    plaintexts = secrets(OBJECTS)
    store(etcd_three.admin(), plaintexts, OLD)
    rewrap = command_for(tmp_path, etcd_three, configure(tmp_path, FIRST, OLD)).with_environment(REWRAP_RATE="0")
    rewrap.json("run")
    for member in etcd_three.members:
        member.kill()
        member.start()
        assert [row["state"] for row in rewrap.json("keys", "--no-scan")["keys"]] == ["ok", "unlimited"]


def test_a_rotation_from_a_backup_is_held_and_its_pruned_key_comes_back_from_the_archive(
    new_etcd: NewEtcd, tmp_path: Path
) -> None:
    etcd = new_etcd(EtcdOptions())
    backup, text = tmp_path / "backup", configuration((["secrets"], [OLD]))
    with control_plane(etcd, tmp_path, text) as plane:
        [*_, late] = plane.apiservers
        late.refuse_to_reload(refuses=True)
        with plane.rewrap.start("rotate", "--prune") as running:
            plane.wait_until_at("spread")
            running.send(signal.SIGINT)
            running.end()
        etcd.save(backup)
        late.refuse_to_reload(refuses=False)
        plane.rewrap.json("rotate", "resume")
        [new] = keys_of(plane.text)
    etcd.restore(backup)
    # The kube-apiservers are not started yet.
    gateway, rewrap = etcd.admin(), plane.listing()
    plaintexts = opened(gateway.read(SECRETS), OLD)

    # It would go on where it was: at a key that is first by now.
    rewrap.json("rotate", "resume", code=4)
    assert "edited outside this rotation" in plane.rotation()["held"]
    assert keys_of(plane.text) == [new]
    rewrap.json("rotate", "abort")
    assert plane.rotation()["step"] == "aborted"

    assert rewrap.json("status")["unreadable"] == len(plaintexts)
    [archived] = {key for kept in plane.archived for key in keys_of(kept)} - {new}
    assert archived == OLD
    write_private(plane.file, configuration((["secrets"], [new, archived])))
    rewrap.json("run")
    assert opened(gateway.read(SECRETS), new) == plaintexts
