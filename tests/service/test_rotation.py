"""A cluster on aesgcm whose kube-apiservers write a lot: the service rotates before any key is worn out."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

from tests.integration.apiserver import IDENTITY, Key, configure, manifest, opened
from tests.servers.apiserver import Registry, Temper, compacting, seed, standins
from tests.servers.etcd import EtcdCluster, EtcdOptions
from tests.servers.gateway import Gateway
from tests.servers.kms_plugin import start_plugin
from tests.servers.kms_values import KmsKey
from tests.servers.redis import RedisServer
from tests.service.harness import Daemon, Service, service
from tests.service.rotation import COMPACTION, OBJECTS, SETTINGS, budgets, rotations_done, watch_it_rotate


@pytest.fixture
def cluster(new_etcd: Callable[[EtcdOptions], EtcdCluster], redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    # Its own: the stand-ins read its history.
    with service(new_etcd(EtcdOptions()), redis, tmp_path) as one:
        yield one


@pytest.mark.timeout(240)
def test_a_key_that_is_due_is_rotated_before_its_limit_without_another_hand(cluster: Service) -> None:
    # Three writers make at most 30 writes a second, so that 180 s can't reach the limit, however busy the machine is.
    # The chaos test has a limit that a slow rotation would pass.
    watch_it_rotate(cluster, limit=6_000, times=1, writes=1, seconds=180, due_at=0.03, compaction=COMPACTION)
    campaigns = [cluster.campaign(row["id"]) for row in cluster.campaigns()]
    assert {one["convergence"].partition(" run ")[0] for one in campaigns} == {"all kube-apiservers (3)"}
    assert next(one["proof_counts"]["objects"] for one in campaigns if one["state"] == "complete") == OBJECTS


@pytest.mark.timeout(240)
def test_in_a_restored_etcd_the_service_leaves_the_key_by_itself(cluster: Service) -> None:
    gateway, first = cluster.etcd.admin(), Key.new("aesgcm", "first")
    (cluster.directory / "enc").mkdir()
    file, backup = configure(cluster.directory / "enc", first, IDENTITY), cluster.directory / "backup"
    settings = cluster.directory / "rotating.toml"
    settings.write_text(SETTINGS)
    cluster.variables["REWRAP_ENCRYPTION_CONFIG"] = str(file)
    registry = Registry()
    seed(gateway, registry, first, OBJECTS)
    scheduler = cluster.start("scheduler")
    cluster.wait(lambda: first.fingerprint in budgets(gateway), "its budget")
    assert scheduler.stop() == 0
    cluster.etcd.save(backup)
    before = budgets(gateway)[first.fingerprint]

    cluster.etcd.restore(backup)
    tempers = [Temper(poll=0.1, seed=number) for number in range(2)]
    with compacting(gateway, COMPACTION), standins(gateway, file, registry, tempers) as apiservers:
        addresses = ",".join(one.url for one in apiservers)
        cluster.variables |= {"REWRAP_APISERVER": addresses, "REWRAP_SETTINGS": str(settings)}
        scheduler = cluster.start("scheduler")
        cluster.start("worker")
        cluster.wait(lambda: rotations_done(scheduler), "a rotation", 180)
        new = apiservers[0].keys[0]
    assert (len(scheduler.said("etcd.restored")), len(scheduler.said("key.exhausted"))) == (1, 1)
    after = budgets(gateway)
    # Nothing of ours was encrypted with it: kube-apiserver's writes are its own.
    assert (after[first.fingerprint]["reserved"], after[first.fingerprint]["restored"]) == (before["reserved"], True)
    assert not after[new.fingerprint]["restored"]
    assert registry.unreadable == []
    assert opened(gateway.read("/registry/secrets/"), new) == registry.objects


@pytest.mark.chaos
@pytest.mark.timeout(1_800)
def test_twenty_rotations_and_no_key_ever_passes_its_limit(cluster: Service) -> None:
    # A key is due before the rotation that brought it has ended, so that one follows the other and the time is that of
    # twenty rotations, not of the writes between them. In one of 15 s the three make at most 3,600 writes.
    watch_it_rotate(cluster, limit=5_000, times=20, writes=8, seconds=1_700, due_at=0.2)


@pytest.mark.chaos
@pytest.mark.timeout(600)
def test_a_key_that_is_used_fast_is_rotated_before_its_share_is_used(cluster: Service) -> None:
    """It takes minutes: a rate is measured for one before it counts."""
    scheduler = watch_it_rotate(cluster, limit=100_000, times=1, writes=8, seconds=550)
    due = scheduler.said("key.rotation_due")[0]
    assert due["used"] < 0.8 * due["limit"]
    assert "at the rate of the last hour the rest would have lasted" in due["because"]
    # The controller measures anew: it counts some writes more than the log line before it.
    assert "at the rate of the last hour the rest would have lasted" in scheduler.said("rotation.begun")[0]["because"]


@pytest.mark.timeout(240)
def test_by_hand_under_a_leader_every_edit_is_handed_out_the_removal_of_the_old_key_too(cluster: Service) -> None:
    gateway, registry, first = cluster.etcd.admin(), Registry(), Key.new("aesgcm", "first")
    (cluster.directory / "enc").mkdir()
    seed(gateway, registry, first, OBJECTS)
    file = configure(cluster.directory / "enc", first, IDENTITY)
    given = cluster.directory / "given.yaml"
    with compacting(gateway, COMPACTION), standins(gateway, file, registry, [Temper(poll=0.1)]) as apiservers:
        cluster.variables |= {"REWRAP_ENCRYPTION_CONFIG": str(file), "REWRAP_APISERVER": apiservers[0].url}
        cluster.start("scheduler")
        cluster.start("worker")
        cluster.wait_finished(1)
        rotating = cluster.start("rotate", "--prune", "--manual", "--yes", "--write-to", str(given))
        for step in ("add", "promote", "prune"):
            cluster.wait(lambda step=step: handed_out(gateway, given, step), f"the file for {step}")  # type: ignore[misc]
            given.replace(file)
        cluster.wait(lambda: not rotating.running, "the end of the rotation")
    assert rotating.stop() == 0, rotating.text
    assert rotating.said("rotation.followed")
    assert [key.name for key in apiservers[0].keys if key.provider != "identity"] != [first.name]
    assert registry.unreadable == []
    assert first.name not in file.read_text()


def handed_out(gateway: Gateway, given: Path, step: str) -> bool:
    """Whether the file is there that an operator has to put in place at a step."""
    records = (json.loads(one.value) for one in gateway.read("/kube-rewrap/v1/rotations/"))
    wanted = [record["edited"] for record in records if record["step"] == step and record["edited"]]
    return bool(wanted) and given.exists() and f"sha256:{sha256(given.read_bytes()).hexdigest()}" == wanted[0]


@pytest.mark.timeout(240)
def test_the_leader_rotates_to_a_kms_provider_that_the_operator_gives(cluster: Service) -> None:
    gateway, registry, first = cluster.etcd.admin(), Registry(), Key.new("aescbc", "first")
    (cluster.directory / "enc").mkdir()
    seed(gateway, registry, first, OBJECTS)
    file = configure(cluster.directory / "enc", first, IDENTITY)
    stanza = cluster.directory / "stanza.json"
    with (
        tempfile.TemporaryDirectory() as short,
        start_plugin(f"{short}/kms.sock") as plugin,
        compacting(gateway, COMPACTION),
        standins(gateway, file, registry, [Temper(poll=0.1)]) as apiservers,
    ):
        new = KmsKey("cloud", plugin.endpoint, plugin.behaviour.key_id)
        stanza.write_text(json.dumps(new.block()))
        cluster.variables |= {
            "REWRAP_ENCRYPTION_CONFIG": str(file),
            "REWRAP_APISERVER": apiservers[0].url,
            "REWRAP_KMS_FILE": str(stanza),
        }
        scheduler = cluster.start("scheduler")
        cluster.start("worker")
        cluster.wait_finished(1)
        rotating = cluster.start("rotate", "--provider", "kms", "--prune", "--yes")
        cluster.wait(lambda: not rotating.running, "the end of the rotation", 150)
    assert rotating.stop() == 0, rotating.text
    assert rotations_done(scheduler) == 1
    assert registry.unreadable == []
    assert opened(gateway.read("/registry/secrets/"), new) == registry.objects
    assert {new.is_current(one.value) for one in gateway.read("/registry/secrets/")} == {True}
    assert_changes_are_shown(scheduler)


@pytest.mark.timeout(240)
def test_the_leader_leads_on_when_the_plugin_dies_before_a_scan_of_a_rotation(cluster: Service) -> None:
    gateway, registry, first = cluster.etcd.admin(), Registry(), Key.new("aescbc", "first")
    (cluster.directory / "enc").mkdir()
    seed(gateway, registry, first, OBJECTS)
    file = configure(cluster.directory / "enc", first, IDENTITY)
    stanza = cluster.directory / "stanza.json"
    with (
        tempfile.TemporaryDirectory() as short,
        start_plugin(f"{short}/kms.sock") as plugin,
        standins(gateway, file, registry, [Temper(poll=0.1)]) as apiservers,
    ):
        new = KmsKey("cloud", plugin.endpoint, plugin.behaviour.key_id)
        stanza.write_text(json.dumps(new.block()))
        cluster.variables |= {
            "REWRAP_ENCRYPTION_CONFIG": str(file),
            "REWRAP_APISERVER": apiservers[0].url,
            "REWRAP_KMS_FILE": str(stanza),
        }
        scheduler = cluster.start("scheduler")
        cluster.start("worker")
        cluster.wait_finished(1)
        rotating = cluster.start("rotate", "--provider", "kms", "--prune", "--yes")
        # etcd compacts nothing until the plugin is dead: the scan that follows has to ask it for one seed.
        cluster.wait(lambda: rotation_of(gateway)["step"] == "compact", "the step compact", 150)
        plugin.stop()
        name, plaintext = "/registry/secrets/team-9/late", manifest("Secret", "team-9", "late", "late")
        gateway.put(name, new.seal(name, plaintext))
        with compacting(gateway, COMPACTION):
            cluster.wait(lambda: "it rests (kms)" in rotation_of(gateway)["waits"], "a rest for the plugin", 90)
            registry.objects[name] = plaintext  # from now on the stand-in writes it, too
            followed = len(scheduler.said("leader.following"))
            cluster.wait(lambda: scheduler.said("kek.held"), "that the plugin is away is noticed")
            plugin.start()
            cluster.wait(lambda: not rotating.running, "the end of the rotation", 150)
    assert rotating.stop() == 0, rotating.text
    assert rotations_done(scheduler) == 1
    assert scheduler.said("scheduler.restarted") == []
    assert scheduler.said("leader.interrupted") == []
    # The removal of the old key is one more generation; the outage was none.
    assert len(scheduler.said("leader.following")) == followed + 1
    assert registry.unreadable == []
    assert opened(gateway.read("/registry/secrets/"), new) == registry.objects


def rotation_of(gateway: Gateway) -> dict[str, Any]:
    """The only rotation's record, or one at no step."""
    found = [json.loads(one.value) for one in gateway.read("/kube-rewrap/v1/rotations/")]
    return found[0] if found else {"step": "", "waits": ""}


def assert_changes_are_shown(scheduler: Daemon) -> None:
    """Each change of the file by its kind: read, written, the old key removed."""
    kinds = {one["change"] for one in scheduler.said("configuration.changed")}
    assert kinds >= {"read_key_added", "primary_provider_changed", "read_key_removed"}
    assert not {"kms_version_changed", "kms_address_changed", "primary_kek_changed"} & kinds
