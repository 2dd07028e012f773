"""The service after a rotation that nothing shows: an operator names a revision, and a worker dies on the way."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.apiserver import Key, configuration, secrets, store
from tests.servers.etcd import EtcdCluster
from tests.servers.kms_plugin import version_at_aws
from tests.servers.kms_values import KmsStanza
from tests.servers.redis import RedisServer
from tests.service.harness import Service, send_by_stock_client, service
from tests.service.kms import SECRETS, SETTINGS, PluginProcess, plugin_process

pytestmark = pytest.mark.timeout(240)

OBJECTS = 240
OLD = Key.new("aescbc", "old")


@pytest.fixture
def cluster(etcd: EtcdCluster, redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    with service(etcd, redis, tmp_path) as one:
        one.more_settings = f"{SETTINGS}v1_rate = 0\n[page]\nobjects = 20\n"
        yield one


@pytest.fixture
def plugin(cluster: Service) -> Iterator[PluginProcess]:
    with plugin_process(cluster.directory / "kms") as one:
        one.does(kind="aws", wrapping="aesgcm")
        yield one


@pytest.mark.parametrize("version", ["v1", "v2"])
def test_all_that_is_older_is_wrapped_anew_once_though_a_worker_is_killed(
    cluster: Service, plugin: PluginProcess, version: str
) -> None:
    gateway, kms = cluster.etcd.admin(), KmsStanza("cloud", plugin.endpoint, version)

    def versions() -> list[int]:
        return [version_at_aws(kms.wrapped(one.value)) for one in gateway.read(SECRETS)]

    store(gateway, secrets(OBJECTS), OLD)
    cluster.file.write_text(configuration((["secrets"], (kms, OLD))))
    scheduler = cluster.start("scheduler", REWRAP_RESYNC="10")
    worker = cluster.start("worker")
    assert cluster.wait_finished(1)["state"] == "complete"
    assert versions() == [1] * OBJECTS

    plugin.does(kek_version=2)
    checks = len(scheduler.said("full_check.finished"))
    cluster.wait(lambda: len(scheduler.said("full_check.finished")) > checks, "a full check after the rotation")
    assert versions() == [1] * OBJECTS
    future = gateway.revision() + 10**9
    send_by_stock_client(cluster, "rewrap.campaign.start", {"id": "too-early", "since": future})
    cluster.wait(lambda: cluster.run("campaign", "show", "too-early").code == 0, "the message on record")
    cluster.run("campaign", "wait", "too-early")
    refused = json.loads(gateway.read("/kube-rewrap/v1/requests/too-early")[0].value)
    assert refused["state"] == "refused"
    assert f"--since {future} lies in the future" in refused["because"]

    since = gateway.revision()
    assert cluster.run("campaign", "start", "--since", str(since), "--rate", "40").code == 0
    cluster.wait(lambda: 2 in versions(), "objects under the new KEK")
    # A kube-apiserver writes meanwhile, still under a key that the former KEK wrapped.
    late = gateway.read(SECRETS)[-3:]
    for one in late:
        gateway.put(one.key, one.value)
    worker.kill()
    assert versions().count(1) > 3
    cluster.start("worker")
    ended = cluster.wait_finished(2, 120)
    assert ended["state"] == "complete", ended
    assert versions() == [2] * (OBJECTS - 3) + [1] * 3
    assert {one.version for one in gateway.read(SECRETS)} == {3}
    [newest, _] = cluster.campaigns()
    assert f"each of them last written after revision {since}" in newest["because"]
    shown = cluster.run("campaign", "show", newest["id"]).document
    assert shown["campaign"]["options"]["since"] == since

    # Neither the full check nor the observer of writes finds anything to do.
    checks = len(scheduler.said("full_check.finished"))
    cluster.wait(lambda: len(scheduler.said("full_check.finished")) > checks, "a full check after the campaign")
    assert scheduler.said("full_check.finished")[-1]["stale"] == 0
    assert len(cluster.campaigns()) == 2
    assert cluster.run("audit-log", "verify").code == 0
