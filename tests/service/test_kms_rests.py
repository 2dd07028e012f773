"""Campaigns whose plugin answers Status and fails at the calls that count, or dies in the proof: they rest."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.apiserver import Key, secrets, store
from tests.servers.etcd import EtcdCluster, EtcdOptions
from tests.servers.kms_values import KmsKey, KmsV1Key
from tests.servers.redis import RedisServer
from tests.service.harness import Service, service
from tests.service.kms import SECRETS, PluginProcess, campaign_records, fill_with_sources, plugin_process, put_in_place

pytestmark = pytest.mark.timeout(180)

OBJECTS = 300
OLD = Key.new("aescbc", "old")


@pytest.fixture
def cluster(new_etcd: Callable[[EtcdOptions], EtcdCluster], redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    with service(new_etcd(EtcdOptions()), redis, tmp_path) as one:
        one.more_settings = "[kms]\nv1_rate = 30.0\ncache_entries = 50\n[page]\nobjects = 50\n"
        yield one


@pytest.fixture
def plugin(cluster: Service) -> Iterator[PluginProcess]:
    with plugin_process(cluster.directory / "kms") as one:
        yield one


def rests(cluster: Service) -> str:
    """Why the campaign is paused for a plugin, "" = it is not."""
    campaign = campaign_records(cluster.etcd.admin())[-1]
    return str(campaign["because"]) if campaign["paused_for"] == "kms" else ""


@pytest.mark.parametrize(
    ("fail", "because"),
    [
        pytest.param({"v2.Decrypt": "PERMISSION_DENIED"}, "has no permission for the call", id="may not decrypt"),
        pytest.param({"v2.Decrypt": "UNKNOWN", "v2.Encrypt": "UNKNOWN"}, "without a reason", id="fails without reason"),
    ],
)
def test_it_rests_while_status_is_healthy_and_calls_fail(
    cluster: Service, plugin: PluginProcess, fail: dict[str, str], because: str
) -> None:
    gateway, kms = cluster.etcd.admin(), KmsKey("cloud", plugin.endpoint)
    fill_with_sources(gateway, kms, OBJECTS)
    put_in_place(cluster, OLD, kms)
    scheduler = cluster.start("scheduler")
    cluster.start("worker", "--children", "1")
    cluster.wait(lambda: sum(one.value.startswith(OLD.prefix) for one in gateway.read(SECRETS)) >= 30, "the first page")
    plugin.does(fail=fail)
    cluster.wait(lambda: because in rests(cluster), "a rest for the plugin", 60)
    plugin.does(fail={})
    campaign = cluster.wait_finished(1)
    assert campaign["state"] == "complete"
    assert {one.value.startswith(OLD.prefix) for one in gateway.read(SECRETS)} == {True}
    assert [one["cause"] for one in scheduler.said("campaign.paused")] == ["kms"]


def test_a_proof_rests_while_the_plugin_is_away(cluster: Service, plugin: PluginProcess) -> None:
    gateway, kms = cluster.etcd.admin(), KmsV1Key("cloud", plugin.endpoint)
    store(gateway, secrets(OBJECTS), OLD)
    put_in_place(cluster, kms, OLD)
    scheduler = cluster.start("scheduler")
    worker = cluster.start("worker", "--children", "1")
    cluster.wait(lambda: scheduler.said("proof.planned"), "a proof", 120)
    plugin.kill()
    cluster.wait(lambda: "can't be reached" in rests(cluster), "a rest for the plugin", 60)
    assert {one["level"] for one in worker.said("batch.failed")} == {"warning"}
    plugin.start()
    campaign = cluster.wait_finished(1)
    assert campaign["state"] == "complete"
    assert [one["cause"] for one in scheduler.said("campaign.paused")] == ["kms"]
