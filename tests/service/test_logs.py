"""The log of a service carries a campaign on its own, and is silent from `warning` on where all is well."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path

import pytest

from tests.servers.etcd import EtcdCluster
from tests.servers.redis import RedisServer
from tests.service.harness import NEW, OLD, Service, service

pytestmark = pytest.mark.timeout(180)

OBJECTS = 4_000


@pytest.fixture
def cluster(etcd: EtcdCluster, redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    with service(etcd, redis, tmp_path) as one:
        yield one


def test_a_key_change_is_told_from_its_start_to_its_end_without_a_warning(cluster: Service) -> None:
    cluster.fill(OBJECTS)
    cluster.variables["REWRAP_RATE"] = "400"
    scheduler = cluster.start("scheduler", "--log-level", "DEBUG", "--progress", "1")
    worker = cluster.start("worker")
    cluster.wait_finished(1)
    cluster.configure(NEW, OLD)
    ended = cluster.wait_finished(2)
    lines = [line for daemon in cluster.daemons for line in daemon.events]

    assert {tuple(line)[:5] for line in lines} == {("event", "level", "timestamp", "role", "process")}
    assert {line["role"] for line in scheduler.events} == {"scheduler"}
    assert {line["role"] for line in worker.events} == {"worker", "worker-child"}
    assert len({line["process"] for line in worker.events if line["role"] == "worker-child"}) == 2

    [began] = scheduler.said("process.started")
    assert (began["version"], began["file"]) == (version("kube-rewrap"), str(cluster.file))
    assert (began["settings"]["service.progress"], began["given_by"]["service.progress"]) == (1.0, "--progress")
    assert began["given_by"]["broker.timeout"] == str(cluster.directory / "settings.toml")
    assert began["broker"] == f"127.0.0.1:{cluster.redis.port}"
    [reached] = scheduler.said("etcd.available")
    assert [member.split()[0] for member in reached["members"]] == list(cluster.etcd.endpoints)

    [planned] = scheduler.said("campaign.planned", campaign=ended["campaign"])
    assert (planned["total"], planned["stale"]) == (OBJECTS, OBJECTS)
    told = scheduler.said("campaign.progress", campaign=ended["campaign"])
    assert len(told) > 3
    for before, after in pairwise(told):
        assert (after["done"], after["percent"]) >= (before["done"], before["percent"])
        assert after["batches_left"] <= before["batches_left"]
    assert told[0]["batches_left"] > told[-1]["batches_left"]
    assert {line["total"] for line in told} == {OBJECTS}
    middle = told[len(told) // 2]
    assert 0 < middle["rate"] < 600
    assert middle["eta_seconds"] >= (OBJECTS - middle["done"]) / 600
    assert ended["seconds"] >= OBJECTS / 400 - 1

    # What says so names only what is slow, not what is wrong.
    assert [line for line in lines if line["level"] not in {"debug", "info"}] == []


def test_console_lines_are_for_the_eyes(cluster: Service) -> None:
    worker = cluster.start("worker", "--log-format", "console", REWRAP_LOG_LEVEL="info")
    cluster.wait(lambda: "process.started" in worker.text, "its first line")
    [line] = [line for line in worker.text.splitlines() if "process.started" in line]
    assert not line.startswith("{")
    assert "role='worker'" in line
