"""deploy/alerts.yaml and dashboard.json on a real Prometheus that scrapes a real service through faults."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.apiserver import Key
from tests.servers.etcd import EtcdCluster, EtcdOptions
from tests.servers.kms_plugin import start_plugin
from tests.servers.kms_values import KmsKey
from tests.servers.prometheus import require_prometheus
from tests.servers.redis import RedisOptions, RedisServer
from tests.service.watched import Load, watched

# So slow that a campaign is scraped while it runs.
LOAD = Load(objects=100, rate=50, limit=400)

OF_ROTATIONS = {"Rotation", "Time at this step", "Rotation held"}
OF_KMS = {"KMS calls", "KMS latency", "KMS plugins", "KEK: age of Status", "KEK: age", "KMS keys"}
POISON = [f"/registry/secrets/team-1/poison-{number}" for number in range(3)]

NewEtcd = Callable[[EtcdOptions], EtcdCluster]
NewRedis = Callable[[RedisOptions], RedisServer]


@pytest.fixture(autouse=True)
def prometheus() -> None:
    require_prometheus()


@pytest.mark.timeout(150)
def test_a_campaign_fires_nothing_and_one_that_is_incomplete_and_a_dead_worker_their_alerts(
    new_etcd: NewEtcd, new_redis: NewRedis, tmp_path: Path
) -> None:
    etcd, redis = new_etcd(EtcdOptions()), new_redis(RedisOptions())
    with start_plugin(str(tmp_path / "kms.sock")) as plugin:
        first = KmsKey("cloud", plugin.endpoint, plugin.behaviour.key_id)
        with watched(etcd, redis, tmp_path, first, LOAD) as one:
            with one.only():
                one.configure(Key.new("aesgcm", "second"))
                one.wait_campaign("complete")
            with one.only("Down"):
                one.workers[1].kill()
                one.wait_firing("Down")
                one.workers[1] = one.start_worker(1)
            with one.only("CampaignIncomplete", "Unreadable"):
                one.etcd.admin().put_all(dict.fromkeys(POISON, b"k8s:enc:aescbc:v1:lost-key:nothing"))
                one.configure(Key.new("secretbox", "third"))
                one.wait_campaign("incomplete")
                one.wait_firing("CampaignIncomplete", "Unreadable")
                for name in POISON:
                    one.etcd.admin().delete(name)
                assert one.cluster.run("campaign", "start", "--wait").code == 0
            # The plugin's key id is asked for every half minute; a rate needs two scrapes with a call between them.
            one.cluster.wait(lambda: one.panels_without_data() <= OF_ROTATIONS, "data in every panel", 90)
            assert one.panels_without_data() == OF_ROTATIONS


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_redis_that_is_gone_a_held_rotation_a_worn_key_and_a_restored_etcd_fire_one_alert_each(
    new_etcd: NewEtcd, new_redis: NewRedis, tmp_path: Path
) -> None:
    etcd, redis, worn = new_etcd(EtcdOptions()), new_redis(RedisOptions()), Key.new("aesgcm", "worn")
    with watched(etcd, redis, tmp_path, Key.new("secretbox", "first"), LOAD) as one:
        with one.only("QueueUnavailable"):
            redis.stop()
            one.wait_firing("QueueUnavailable")
            redis.start()
        with one.only("RotationHeld"):
            one.apiserver.refuse_to_reload(refuses=True)
            one.cluster.start("rotate", "--yes")
            one.cluster.wait(lambda: one.rotation()["step"] == "spread", "the step spread")
            one.file.write_text(one.file.read_text() + "\n")  # by another hand
            one.wait_firing("RotationHeld")
            one.apiserver.refuse_to_reload(refuses=False)
            assert one.cluster.run("rotate", "abort").code == 0
        with one.only("KeyBudgetDue", "KeyBudgetExhausted"):
            one.configure(worn)
            one.wait_campaign("complete")
            one.etcd.save(tmp_path / "backup")
            one.write(worn, LOAD.limit - LOAD.objects - 40)
            one.wait_firing("KeyBudgetDue")
            one.write(worn, 60)
            one.wait_firing("KeyBudgetExhausted")
            one.configure(Key.new("aescbc", "other"))
            one.wait_campaign("complete")
        # While no scheduler runs, that is what fires.
        with one.only("Down", "NoLeader", "EtcdRestored"):
            one.scheduler.stop()
            one.wait_firing("Down", "NoLeader")
            one.etcd.restore(tmp_path / "backup")
            one.put_in_place(*one.keys[1:])
            one.start_scheduler()
            one.wait_firing("EtcdRestored")
            assert one.cluster.run("keys", "--accept", worn.fingerprint).code == 0
        assert one.panels_without_data() == {*OF_KMS, "Stale, unreadable"}
