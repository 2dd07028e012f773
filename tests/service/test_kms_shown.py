"""What a service shows of KMS: calls, KEK and an outage of the plugin in metrics, the provider in listings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kube_rewrap.cli.demo.registry import RESOURCES, configuration_of
from kube_rewrap.worker.wrapped import fingerprint_of_key_id
from tests.servers.etcd import EtcdCluster
from tests.servers.kms_plugin import Behaviour, KmsPlugin, start_plugin
from tests.servers.ports import free_ports
from tests.servers.redis import RedisServer
from tests.service.harness import OLD, Service, service

pytestmark = pytest.mark.timeout(240)

OBJECTS = 60
KEY_ID = "arn:made-for-tests:canary-key-id"
FAILURE = "canary-failure-text"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    with start_plugin(str(tmp_path / "kms.sock"), Behaviour(key_id=KEY_ID, fail_text=FAILURE)) as process:
        yield process


@pytest.fixture
def cluster(etcd: EtcdCluster, redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    with service(etcd, redis, tmp_path) as one:
        yield one


class Shown:
    """What a daemon shows at its address."""

    def __init__(self) -> None:
        self.place = f"127.0.0.1:{free_ports(1)[0]}"

    def text(self) -> str:
        with urlopen(f"http://{self.place}/metrics", timeout=30) as answer:
            return str(answer.read().decode())

    def value(self, name: str, **labels: str) -> float | None:
        """The sum over all samples with these labels; None if there is none."""
        found = [
            sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        ]
        return sum(found) if found else None


def write_with_kms(cluster: Service, plugin: KmsPlugin) -> None:
    """Renames a configuration into place under which the plugin's provider writes, and the old key reads."""
    document = json.loads(configuration_of([OLD], RESOURCES))
    stanza = {"kms": {"apiVersion": "v2", "name": "cloud", "endpoint": plugin.endpoint, "timeout": "1s"}}
    document["resources"][0]["providers"].insert(0, stanza)
    fresh = cluster.file.with_suffix(".new")
    fresh.touch(mode=0o600)
    fresh.write_text(json.dumps(document))
    fresh.rename(cluster.file)


def assert_is_listed(cluster: Service) -> None:
    """`keys` lists the provider apart from write budgets; `check` and `audit` know it."""
    keys = cluster.run("keys").document
    [row] = keys["kms"]
    assert row["in_force_since"] is not None
    assert (row["provider"], row["version"], row["removable"]) == ("cloud", "v2", False)
    assert row["kek"] == fingerprint_of_key_id(KEY_ID)
    assert row["blockers"][0].startswith("it is the primary of ")
    assert [key["provider"] for key in keys["keys"]] == ["aescbc"]
    checks = {one["id"]: one["state"] for one in cluster.run("audit").document["checks"]}
    assert {name: checks[name] for name in ("aescbc", "kms-v1", "kms-endpoint", "kms-unused", "readable")} == (
        dict.fromkeys(("aescbc", "kms-v1", "kms-endpoint", "kms-unused", "readable"), "pass")
    )
    assert cluster.run("check", str(cluster.file)).document["warnings"] == []


def test_an_outage_its_end_and_the_calls_are_shown_and_no_key_id_is(cluster: Service, plugin: KmsPlugin) -> None:
    cluster.fill(OBJECTS)
    leader, worker = Shown(), Shown()
    write_with_kms(cluster, plugin)
    cluster.start("scheduler", "--metrics-addr", leader.place)
    cluster.wait(lambda: [one["state"] for one in cluster.campaigns()] == ["running"], "a campaign that runs")
    assert leader.value("kube_rewrap_kek_held", provider="cloud") == 0

    plugin.behaviour.fail = {"*": "UNAVAILABLE"}
    cluster.start("worker", "--metrics-addr", worker.place)
    cluster.wait(lambda: leader.value("kube_rewrap_kek_held", provider="cloud") == 1, "the provider is held")
    cluster.wait(lambda: leader.value("kube_rewrap_campaign_paused", cause="kms"), "the campaign rests for that")
    # What a worker hands back has its counts, too: it never knew under which KEK to write.
    failed = {"provider": "cloud", "version": "v2", "method": "status"}
    assert worker.value("kube_rewrap_kms_calls_total", outcome="unavailable", **failed)
    assert worker.value("kube_rewrap_kms_calls_total", outcome="ok", **failed) == 0
    assert worker.value("kube_rewrap_objects_total", outcome="quarantined") == 0

    plugin.behaviour.fail = {}
    assert cluster.wait_finished(1)["state"] == "complete"
    assert leader.value("kube_rewrap_kek_held", provider="cloud") == 0
    assert leader.value("kube_rewrap_kek_age_seconds", provider="cloud") is not None
    age = leader.value("kube_rewrap_kek_status_age_seconds", provider="cloud")
    assert age is not None
    assert age < 60
    cluster.wait(lambda: worker.value("kube_rewrap_kms_seeds_total", provider="cloud", version="v2"), "the seeds")
    for method in ("status", "encrypt", "decrypt"):
        calls = worker.value("kube_rewrap_kms_calls_total", provider="cloud", method=method, outcome="ok")
        assert calls
        assert calls == worker.value("kube_rewrap_kms_call_seconds_count", provider="cloud", method=method)
        assert worker.value("kube_rewrap_kms_circuit_open", provider="cloud", method=method) == 0
    assert worker.value("kube_rewrap_kms_refused_sources_total", provider="cloud") == 0
    assert worker.value("kube_rewrap_kms_status_age_seconds", provider="cloud") is not None
    assert_is_listed(cluster)

    for said in (leader.text(), worker.text(), *(daemon.text for daemon in cluster.daemons)):
        assert KEY_ID not in said
        assert FAILURE not in said
