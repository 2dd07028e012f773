"""A service whose KMS plugins die, hang, refuse, disagree, and name KEKs that they should not."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from kube_rewrap.worker.records.batch import Checkpoint
from tests.acceptance.command import REWRAP
from tests.integration.apiserver import Key, manifest, secrets, store
from tests.servers.etcd import EtcdCluster, EtcdOptions
from tests.servers.kms_values import KmsKey
from tests.servers.ports import free_ports
from tests.servers.redis import RedisServer
from tests.service.harness import Daemon, Service, service
from tests.service.http import readiness, shown_when_up
from tests.service.kms import (
    SECRETS,
    SETTINGS,
    PluginProcess,
    batch_records,
    campaign_records,
    count_of,
    fill_with_sources,
    plugin_process,
    put_in_place,
    read_all,
)

OBJECTS = 300
OLD = Key.new("aescbc", "old")
BESIDE = "unix:///proc/self/cwd/kms.sock"
"""An endpoint that leads each process to the plugin in its own directory, as one path does on each node."""


@pytest.fixture
def cluster(new_etcd: Callable[[EtcdOptions], EtcdCluster], redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    with service(new_etcd(EtcdOptions()), redis, tmp_path) as one:
        one.more_settings = f"{SETTINGS}v2_rate = 100.0\n[page]\nobjects = 50\n"
        yield one


@pytest.fixture
def plugin(cluster: Service) -> Iterator[PluginProcess]:
    with plugin_process(cluster.directory / "kms") as one:
        yield one


def start_beside(cluster: Service, plugin: PluginProcess, *words: str) -> Daemon:
    """A daemon whose working directory is its plugin's."""
    log = cluster.directory / f"{words[0]}-{len(cluster.daemons)}.log"
    with log.open("ab") as out:
        process = subprocess.Popen(
            [*REWRAP, *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=plugin.socket.parent,
            env={**os.environ, **cluster.environment},
            start_new_session=True,
        )
    daemon = Daemon(process, log)
    cluster.daemons.append(daemon)
    cluster.stack.callback(daemon.stop)
    return daemon


def assert_decided_up_to_the_cursors(cluster: Service, key: KmsKey) -> None:
    """No object before a batch's cursor is under another key: what was not decided is read again."""
    batches = [Checkpoint.from_json(record) for record in batch_records(cluster.etcd.admin())]
    found = cluster.etcd.admin().read(SECRETS)
    for batch in batches:
        inside = [one for one in found if batch.spec.range.start <= one.key.encode() < batch.cursor]
        assert all(key.is_current(one.value) for one in inside)


def at(line: dict[str, Any]) -> float:
    """When a line was logged, in seconds since 1970."""
    return datetime.fromisoformat(line["timestamp"]).timestamp()


def quarantined(cluster: Service) -> int:
    return len(cluster.etcd.admin().read("/kube-rewrap/v1/quarantine/"))


def paused_for(cluster: Service) -> object:
    return campaign_records(cluster.etcd.admin())[-1].get("paused_for")


@pytest.mark.timeout(240)
def test_case_14_a_plugin_killed_then_hung_then_back_under_a_new_socket(
    cluster: Service, plugin: PluginProcess
) -> None:
    gateway, kms = cluster.etcd.admin(), KmsKey("cloud", plugin.endpoint)
    expected = fill_with_sources(gateway, kms, OBJECTS)
    kms.turn("kek-2")
    plugin.does(key_id="kek-2")
    put_in_place(cluster, kms)
    scheduler = cluster.start("scheduler")
    cluster.start("worker")
    cluster.wait(lambda: count_of(gateway, kms) >= 50, "the first page")
    plugin.kill()
    assert count_of(gateway, kms) < OBJECTS, "it was too fast to be hit"
    cluster.wait(lambda: paused_for(cluster) == "kms", "a rest")
    assert_decided_up_to_the_cursors(cluster, kms)
    done = count_of(gateway, kms)

    plugin.does(hang=["*"])
    plugin.start()
    time.sleep(8)  # long enough for calls to hang and end
    assert (paused_for(cluster), quarantined(cluster)) == ("kms", 0)
    assert count_of(gateway, kms) == done
    assert_decided_up_to_the_cursors(cluster, kms)

    plugin.kill()
    plugin.does(hang=[])
    plugin.start()
    assert cluster.wait_finished(1, 120)["state"] == "complete"
    assert scheduler.said("campaign.continued")
    assert not scheduler.said("batch.parked")
    assert (quarantined(cluster), count_of(gateway, kms)) == (0, OBJECTS)
    assert read_all(gateway, kms) == expected


@pytest.mark.timeout(240)
def test_case_18_a_kek_that_changes_in_the_middle_of_a_campaign_supersedes_it(
    cluster: Service, plugin: PluginProcess
) -> None:
    gateway, kms, expected = cluster.etcd.admin(), KmsKey("cloud", plugin.endpoint), secrets(OBJECTS)
    store(gateway, expected, OLD)
    put_in_place(cluster, kms, OLD)
    cluster.variables["REWRAP_RATE"] = "20"
    scheduler = cluster.start("scheduler")
    cluster.start("worker")
    cluster.wait(lambda: count_of(gateway, kms) > 0, "the first swaps")
    plugin.does(key_id="kek-2")
    kms.turn("kek-2")
    cluster.wait(lambda: scheduler.said("campaign.superseded"), "the end of the first")
    assert cluster.wait_finished(1, 120)["state"] == "complete"
    assert [one["state"] for one in campaign_records(gateway)] == ["superseded", "complete"]
    assert count_of(gateway, kms) == OBJECTS
    assert read_all(gateway, kms) == expected


@pytest.mark.timeout(240)
def test_case_19_of_two_workers_beside_two_plugins_one_hands_back(cluster: Service) -> None:
    gateway, kms, expected = cluster.etcd.admin(), KmsKey("cloud", BESIDE), secrets(OBJECTS)
    store(gateway, expected, OLD)
    put_in_place(cluster, kms, OLD)
    cluster.variables["REWRAP_RATE"] = "50"
    with plugin_process(cluster.directory / "a") as ours, plugin_process(cluster.directory / "b") as other:
        other.does(key_id="kek-2", old_key_ids=["kek-1"])
        scheduler = start_beside(cluster, ours, "scheduler")
        stranger = start_beside(cluster, other, "worker")
        cluster.wait(lambda: stranger.said("batch.handed_back"), "a batch handed back")
        assert count_of(gateway, kms) == 0
        start_beside(cluster, ours, "worker")
        assert cluster.wait_finished(1, 120)["state"] == "complete"
    assert not stranger.said("batch.page")
    assert scheduler.said("worker.outdated")
    assert count_of(gateway, kms) == OBJECTS
    assert {one.version for one in gateway.read(SECRETS)} == {2}
    assert read_all(gateway, kms) == expected


@pytest.mark.timeout(240)
def test_case_20_a_write_under_the_old_kek_after_the_proof_is_drift_and_repaired(
    cluster: Service, plugin: PluginProcess
) -> None:
    gateway, kms, expected = cluster.etcd.admin(), KmsKey("cloud", plugin.endpoint), secrets(50)
    coasting = KmsKey("cloud", plugin.endpoint)
    store(gateway, expected, OLD)
    put_in_place(cluster, kms, OLD)
    cluster.start("scheduler")
    cluster.start("worker")
    assert cluster.wait_finished(1)["state"] == "complete"
    plugin.does(key_id="kek-2")
    kms.turn("kek-2")
    assert cluster.wait_finished(2, 90)["state"] == "complete"
    assert count_of(gateway, kms) == 50

    name = f"{SECRETS}default/late"
    expected[name] = manifest("Secret", "default", "late", "written by a replica that coasts")
    gateway.put(name, coasting.seal(name, expected[name]))
    repair = cluster.wait_finished(3, 90)
    assert repair["state"] == "complete"
    assert campaign_records(gateway)[-1]["options"]["repair"]
    assert (count_of(gateway, kms), count_of(gateway, coasting)) == (51, 0)
    assert read_all(gateway, kms) == expected


@pytest.mark.timeout(240)
def test_case_22_a_key_id_that_comes_back_is_held_by_the_service_and_refused_by_a_run(
    cluster: Service, plugin: PluginProcess
) -> None:
    gateway, kms, expected = cluster.etcd.admin(), KmsKey("cloud", plugin.endpoint), secrets(50)
    store(gateway, expected, OLD)
    put_in_place(cluster, kms, OLD)
    scheduler = cluster.start("scheduler")
    cluster.start("worker")
    assert cluster.wait_finished(1)["state"] == "complete"
    plugin.does(key_id="kek-2")
    kms.turn("kek-2")
    assert cluster.wait_finished(2, 90)["state"] == "complete"

    plugin.does(key_id="kek-1")
    sentence = "a key id must never come back"
    cluster.wait(lambda: any(sentence in line["because"] for line in scheduler.said("kek.held")), "the hold")
    assert cluster.run("campaign", "start").code == 0
    time.sleep(5)  # several rounds of a service that would begin
    assert len(cluster.finished()) == 2
    assert count_of(gateway, kms) == 50
    refused = cluster.run("run")
    assert refused.code == 4
    assert sentence in str(refused.error)
    assert count_of(gateway, kms) == 50

    plugin.does(key_id="kek-3")
    kms.turn("kek-3")
    assert cluster.wait_finished(3, 90)["state"] == "complete"
    cluster.wait(lambda: count_of(gateway, kms) == 50, "all under the third KEK")
    assert read_all(gateway, kms) == expected


@pytest.mark.timeout(240)
def test_a_worker_whose_plugin_refuses_says_why_and_does_not_try_without_a_pause(cluster: Service) -> None:
    gateway, kms, expected = cluster.etcd.admin(), KmsKey("cloud", BESIDE), secrets(OBJECTS)
    store(gateway, expected, OLD)
    put_in_place(cluster, kms, OLD)
    with plugin_process(cluster.directory / "a") as ours, plugin_process(cluster.directory / "b") as other:
        other.does(fail={"v2.Encrypt": "PERMISSION_DENIED"})
        scheduler = start_beside(cluster, ours, "scheduler")
        worker = start_beside(cluster, other, "worker", "--children", "1")
        cluster.wait(lambda: len(worker.said("batch.failed")) >= 6, "more attempts than park a batch")
        failed = worker.said("batch.failed")
        seconds = at(failed[-1]) - at(failed[0])
        assert seconds / (len(failed) - 1) > 1.5
        assert all("has no permission for the call" in line["because"] for line in failed)
        assert not scheduler.said("batch.parked")

        other.kill()
        cluster.wait(lambda: any("can't be reached" in one["because"] for one in worker.said("batch.failed")), "outage")
        worker.stop()
        worker = start_beside(cluster, other, "worker", "--children", "1")
        cluster.wait(lambda: worker.said("batch.handed_back"), "a batch handed back")
        assert "can't be reached" in worker.said("batch.handed_back")[0]["because"]
        assert count_of(gateway, kms) == 0

        other.does(fail={})
        other.start()
        assert cluster.wait_finished(1, 120)["state"] == "complete"
    assert read_all(gateway, kms) == expected


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_campaign_rests_while_the_plugins_of_all_workers_fail_and_goes_on_by_itself(cluster: Service) -> None:
    gateway, kms, expected = cluster.etcd.admin(), KmsKey("cloud", BESIDE), secrets(OBJECTS)
    store(gateway, expected, OLD)
    put_in_place(cluster, kms, OLD)
    with plugin_process(cluster.directory / "a") as ours, plugin_process(cluster.directory / "b") as other:
        other.does(fail={"v2.Encrypt": "PERMISSION_DENIED"})
        scheduler = start_beside(cluster, ours, "scheduler")
        start_beside(cluster, other, "worker", "--children", "1")
        cluster.wait(lambda: scheduler.said("campaign.paused"), "a rest", 120)
        [rest] = scheduler.said("campaign.paused")
        assert rest["cause"] == "kms"
        assert rest["because"].startswith("the plugin beside the scheduler serves, and those beside the workers fail: ")
        other.does(fail={})
        assert cluster.wait_finished(1, 150)["state"] == "complete"
        assert [one["cause"] for one in scheduler.said("campaign.paused")] == ["kms"]
    assert read_all(gateway, kms) == expected


def test_a_run_takes_a_new_kek_after_it_has_stood_and_never_a_former_one(
    cluster: Service, plugin: PluginProcess
) -> None:
    gateway, kms, expected = cluster.etcd.admin(), KmsKey("cloud", plugin.endpoint), secrets(20)
    store(gateway, expected, OLD)
    put_in_place(cluster, kms, OLD)
    assert cluster.run("run").code == 0
    plugin.does(key_id="kek-2")
    kms.turn("kek-2")
    early = cluster.run("run")
    assert (early.code, count_of(gateway, kms)) == (4, 0)
    assert "it takes effect after the plugin has named it" in str(early.error)
    time.sleep(1)
    assert (cluster.run("run").code, count_of(gateway, kms)) == (0, 20)
    plugin.does(key_id="kek-1")
    for words in (("run",), ("run", "--dry-run")):
        back = cluster.run(*words)
        assert (back.code, count_of(gateway, kms)) == (4, 20)
        assert "a key id must never come back" in back.stdout
    plugin.kill()
    away = cluster.run("run")
    assert away.code != 0
    assert "no process accepts connections at" in str(away.error)
    assert read_all(gateway, kms) == expected


@pytest.mark.timeout(240)
def test_a_scheduler_leads_on_while_its_plugin_is_away_and_checks_everything_afterwards(
    cluster: Service, plugin: PluginProcess
) -> None:
    gateway, kms, expected = cluster.etcd.admin(), KmsKey("cloud", plugin.endpoint), secrets(20)
    place = f"127.0.0.1:{free_ports(1)[0]}"
    store(gateway, expected, OLD)
    put_in_place(cluster, kms, OLD)
    plugin.kill()
    cluster.variables["REWRAP_METRICS_ADDR"] = place
    scheduler = cluster.start("scheduler")
    cluster.wait(lambda: scheduler.said("kek.held"), "the hold of a KEK that is not known")
    cluster.wait(lambda: "a KMS plugin names no key-encryption key yet" in shown_when_up(place), "the reason")
    plugin.start()
    del cluster.variables["REWRAP_METRICS_ADDR"]
    cluster.start("worker")
    assert cluster.wait_finished(1)["state"] == "complete"
    assert readiness(place) == 200
    scheduler.stop()

    plugin.kill()
    cluster.variables["REWRAP_METRICS_ADDR"] = place
    scheduler = cluster.start("scheduler")
    cluster.wait(lambda: scheduler.said("full_check.postponed"), "a check that fails")
    assert "can't be reached" in scheduler.said("full_check.postponed")[0]["because"]
    asked = cluster.run("campaign", "start", "--wait", "--timeout", "60")
    assert asked.document["state"] == "refused"
    assert "gives no key id" in asked.document["because"]
    assert readiness(place) == 200
    plugin.start()
    cluster.wait(lambda: scheduler.said("full_check.finished", stale=0, unreadable=0), "the check", 90)
    assert not scheduler.said("scheduler.restarted")
    assert count_of(gateway, kms) == 20


@pytest.mark.timeout(240)
def test_case_14_a_campaign_rests_for_the_plugin_of_a_provider_that_only_reads(
    cluster: Service, plugin: PluginProcess
) -> None:
    gateway, kms = cluster.etcd.admin(), KmsKey("cloud", plugin.endpoint)
    expected = fill_with_sources(gateway, kms, OBJECTS)
    put_in_place(cluster, OLD, kms)
    scheduler = cluster.start("scheduler")
    cluster.start("worker")
    cluster.wait(lambda: sum(one.value.startswith(OLD.prefix) for one in gateway.read(SECRETS)) >= 50, "the first page")
    plugin.kill()
    cluster.wait(lambda: paused_for(cluster) == "kms", "a rest")
    cluster.wait(lambda: scheduler.said("campaign.paused"), "the line about it, which follows the record")
    assert "can't be reached" in scheduler.said("campaign.paused")[0]["because"]
    plugin.start()
    assert cluster.wait_finished(1, 120)["state"] == "complete"
    assert not scheduler.said("batch.parked")
    assert quarantined(cluster) == 0
    assert read_all(gateway, OLD) == expected


def survive(cluster: Service, plugin: PluginProcess, kills: int, seed: int) -> None:
    """Kills scheduler, worker and plugin in the middle of a move, at random; nothing may be lost."""
    dice = random.Random(seed)
    gateway, kms = cluster.etcd.admin(), KmsKey("cloud", plugin.endpoint)
    expected = fill_with_sources(gateway, kms, OBJECTS)
    kms.turn("kek-2")
    plugin.does(key_id="kek-2")
    put_in_place(cluster, kms)
    cluster.variables["REWRAP_RATE"] = "60"
    daemons = {role: cluster.start(role) for role in ("scheduler", "worker")}
    for role in (["worker", "plugin", "scheduler"] * kills)[: 3 * kills]:
        time.sleep(dice.uniform(0.5, 4.0))
        if role == "plugin":
            plugin.kill()
            time.sleep(dice.uniform(0.0, 5.0))
            plugin.start()
        else:
            daemons[role].kill()
            daemons[role] = cluster.start(role)
        assert_decided_up_to_the_cursors(cluster, kms)
    cluster.wait(lambda: [one for one in cluster.finished() if one["state"] == "complete"], "the end", 180)
    assert (quarantined(cluster), count_of(gateway, kms)) == (0, OBJECTS)
    assert read_all(gateway, kms) == expected
    assert cluster.run("audit-log", "verify").code == 0


@pytest.mark.timeout(300)
def test_scheduler_worker_and_plugin_die_once_each_and_nothing_is_lost(cluster: Service, plugin: PluginProcess) -> None:
    survive(cluster, plugin, kills=1, seed=7)


@pytest.mark.chaos
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_scheduler_worker_and_plugin_die_again_and_again(cluster: Service, plugin: PluginProcess, seed: int) -> None:
    survive(cluster, plugin, kills=8, seed=seed)
