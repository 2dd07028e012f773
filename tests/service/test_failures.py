"""Whatever dies, is lost, or comes twice: the campaign ends, ends once, and nothing is lost."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest
import redis as redis_client

from tests.servers.etcd import EtcdCluster
from tests.servers.ports import free_ports
from tests.servers.redis import RedisOptions, RedisServer
from tests.service.harness import NEW, OLD, Service, service
from tests.service.midway import OBJECTS, assert_ended_well, begin

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def cluster(etcd: EtcdCluster, new_redis: Callable[[RedisOptions], RedisServer], tmp_path: Path) -> Iterator[Service]:
    with service(etcd, new_redis(RedisOptions()), tmp_path) as one:
        yield one


def counted(place: str, outcome: str) -> float:
    """How many messages came to this end, as a worker's parent shows it."""
    with urlopen(f"http://{place}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    [value] = [
        line.split()[-1] for line in lines if line.startswith(f'kube_rewrap_messages_total{{outcome="{outcome}"}}')
    ]
    return float(value)


def test_a_second_scheduler_goes_on_when_the_leader_is_killed(cluster: Service) -> None:
    begin(cluster)
    standby = cluster.start("scheduler")
    cluster.wait(lambda: standby.said("leader.waiting"), "it waits to lead")
    assert standby.said("leader.elected") == []
    cluster.daemons[0].kill()
    cluster.wait(lambda: standby.said("leader.elected"), "it leads")
    cluster.wait_finished(1)
    assert_ended_well(cluster)


def test_others_take_over_when_a_worker_is_killed(cluster: Service) -> None:
    begin(cluster)
    cluster.daemons[1].kill()
    cluster.wait_finished(1)
    assert_ended_well(cluster)


def test_a_wiped_redis_costs_nothing_but_time(cluster: Service) -> None:
    begin(cluster)
    with redis_client.Redis.from_url(cluster.redis.url) as client:
        client.flushall()
    cluster.wait_finished(1)
    assert_ended_well(cluster)


def test_redis_is_away_for_a_while_and_that_is_said_once(cluster: Service) -> None:
    begin(cluster)
    cluster.redis.stop()
    scheduler = cluster.daemons[0]
    cluster.wait(lambda: scheduler.said("queue.unavailable"), "the scheduler notices")
    cluster.redis.start()
    cluster.wait_finished(1)
    scheduler.assert_said_once_an_outage("queue.unavailable", "queue.available")
    for worker in cluster.daemons[1:]:
        worker.assert_said_once_an_outage("broker.unavailable", "broker.available")
    assert_ended_well(cluster)


def test_a_worker_with_an_old_file_hands_back_and_writes_nothing(cluster: Service) -> None:
    cluster.fill(OBJECTS)
    cluster.configure(NEW, OLD)
    old_file = cluster.directory / "old.json"
    cluster.configure(OLD, file=old_file)
    scheduler = cluster.start("scheduler")
    place = f"127.0.0.1:{free_ports(1)[0]}"
    outdated = cluster.start("worker", REWRAP_ENCRYPTION_CONFIG=str(old_file), REWRAP_METRICS_ADDR=place)
    cluster.wait(lambda: outdated.said("batch.handed_back"), "work was handed back")
    cluster.wait(lambda: counted(place, "handed_back") > 0, "it was counted")
    cluster.wait(lambda: scheduler.said("worker.outdated"), "the scheduler names it")
    assert cluster.opened_by(NEW) == 0
    cluster.start("worker")
    cluster.wait_finished(1)
    assert outdated.said("batch.page") == []
    assert_ended_well(cluster)


def test_an_object_that_nothing_opens_is_named_and_the_rest_is_done(cluster: Service) -> None:
    poison = "/registry/secrets/team-001/poison"
    cluster.fill(200, namespaces=4)
    cluster.etcd.admin().put(poison, b"k8s:enc:aescbc:v1:old-key:no ciphertext at all")
    cluster.configure(NEW, OLD)
    cluster.start("scheduler")
    cluster.start("worker")
    ended = cluster.wait_finished(1)
    assert (ended["state"], ended["rewritten"], ended["quarantined"]) == ("incomplete", 200, 1)
    shown = cluster.run("campaign", "show", str(ended["campaign"])).document
    assert [one["key"] for one in shown["quarantined"]] == [poison]
    assert cluster.run("campaign", "wait", str(ended["campaign"])).code == 3


def test_no_key_and_no_plaintext_leaves_the_processes(cluster: Service) -> None:
    cluster.anew = True
    begin(cluster)
    secrets = [key.secret.reveal() for provider in (OLD, NEW) for key in provider.keys]
    marks = [form for secret in secrets for form in (secret, secret.hex().encode(), repr(secret)[2:-1].encode())]
    stored: list[bytes] = []
    with redis_client.Redis.from_url(cluster.redis.url) as client:

        def collect() -> bool:
            stored.extend(client.dump(key) or b"" for key in client.scan_iter())
            return bool(cluster.finished())

        cluster.wait(collect, "the campaign ends")
        collect()
    records = b"".join(one.value + one.key.encode() for one in cluster.etcd.admin().read("/kube-rewrap/"))
    logs = "".join(daemon.text for daemon in cluster.daemons).encode()
    answers = json.dumps([cluster.campaigns(), cluster.run("audit-log", "list").document]).encode()
    assert len(stored) > 3
    for mark in marks:
        assert mark not in b"".join(stored)
        assert mark not in records + logs + answers
    # What every plaintext of the demonstration's built-in kinds begins with.
    assert b"k8s\x00" not in b"".join(stored) + records + logs + answers
