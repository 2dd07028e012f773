"""The service moves a cluster to KMS v2, and follows the KEK that is rotated in the KMS."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.apiserver import Key, opened
from tests.servers.apiserver import Registry, Temper, compacting, seed, standins
from tests.servers.etcd import EtcdCluster, EtcdOptions
from tests.servers.kms_values import KmsKey
from tests.servers.redis import RedisServer
from tests.service.harness import Service, service
from tests.service.kms import SECRETS, SETTINGS, count_of, plugin_process, put_in_place
from tests.service.rotation import COMPACTION, OBJECTS


@pytest.fixture
def cluster(new_etcd: Callable[[EtcdOptions], EtcdCluster], redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    # Its own: the stand-ins read its history.
    with service(new_etcd(EtcdOptions()), redis, tmp_path) as one:
        one.more_settings = SETTINGS
        yield one


@pytest.mark.timeout(240)
def test_from_aescbc_to_kms_and_after_the_kek_when_it_is_rotated(cluster: Service) -> None:
    gateway, registry, old = cluster.etcd.admin(), Registry(), Key.new("aescbc", "old")
    seed(gateway, registry, old, OBJECTS)
    with plugin_process(cluster.directory / "kms") as plugin:
        kms = KmsKey("cloud", plugin.endpoint)
        file = put_in_place(cluster, old, kms)
        tempers = [Temper(poll=0.1, lag=0.2 * number, seed=number) for number in range(3)]
        with compacting(gateway, 3 * COMPACTION), standins(gateway, file, registry, tempers) as apiservers:
            cluster.variables["REWRAP_APISERVER"] = ",".join(one.url for one in apiservers)
            scheduler = cluster.start("scheduler")
            cluster.start("worker")
            assert cluster.wait_finished(1)["state"] == "complete"

            put_in_place(cluster, kms, old)
            assert cluster.wait_finished(2)["state"] == "complete"
            cluster.wait(lambda: count_of(gateway, kms) == OBJECTS, "all under KMS")

            plugin.does(key_id="kek-2")
            kms.turn("kek-2")
            moved = cluster.wait_finished(3, 90)
            assert moved["state"] == "complete", moved
            cluster.wait(lambda: count_of(gateway, kms) == OBJECTS, "all under the new KEK")
        [changed] = scheduler.said("kek.changed")
        assert changed["provider"] == "cloud"
        assert scheduler.said("kek.held")
    assert registry.unreadable == []
    assert opened(gateway.read(SECRETS), kms) == registry.objects
    assert cluster.run("audit-log", "verify").code == 0
