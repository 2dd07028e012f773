"""What holds a campaign back: a full etcd, the maintenance windows, and the ceiling over all workers."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

import pytest

from tests.servers.etcd import EtcdCluster, EtcdOptions
from tests.servers.gateway import Gateway, GatewayError
from tests.servers.redis import RedisServer
from tests.service.harness import NEW, OLD, Daemon, Service, service

pytestmark = pytest.mark.timeout(180)

MIB = 2**20
OBJECTS = 900


@pytest.fixture
def cluster(etcd: EtcdCluster, redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    with service(etcd, redis, tmp_path) as one:
        yield one


def fill_up(gateway: Gateway, name: str, until: Callable[[], bool]) -> None:
    """Writes what is not Kubernetes' until etcd is as full as is wanted, or takes no more."""
    for number in range(800):
        if until():
            return
        try:
            # Small: etcd says its size as of its last commit, up to 100 ms ago, and must not be full by then.
            gateway.put(f"/ballast/{name}/{number}", os.urandom(64 * 1024))
        except GatewayError:
            return
    raise AssertionError("etcd was never full")


def database_size(gateway: Gateway) -> int:
    return int(gateway.call("/v3/maintenance/status", {})["dbSize"])


def make_room(etcd: EtcdCluster) -> None:
    """As an operator would."""
    gateway = etcd.admin()
    etcd.etcdctl("del", "--prefix", "/ballast/")
    gateway.compact(gateway.revision())
    etcd.etcdctl("defrag", "--command-timeout", "20s")
    etcd.etcdctl("alarm", "disarm")


@pytest.fixture
def small(
    new_etcd: Callable[[EtcdOptions], EtcdCluster], redis: RedisServer, tmp_path: Path
) -> Iterator[tuple[Service, Daemon]]:
    """A service in the middle of a campaign on an etcd with little room, and its scheduler."""
    etcd = new_etcd(EtcdOptions(quota_bytes=16 * MIB))
    with service(etcd, redis, tmp_path) as cluster:
        cluster.variables |= {"REWRAP_RATE": "60", "REWRAP_QUOTA_BYTES": str(16 * MIB)}
        cluster.fill(OBJECTS)
        # Most of the ballast comes before the campaign, which has 15 s: what is left to write takes few of them.
        fill_up(etcd.admin(), "before", lambda: database_size(etcd.admin()) > 10 * MIB)
        cluster.configure(NEW, OLD)
        scheduler = cluster.start("scheduler")
        cluster.start("worker")
        cluster.wait(lambda: cluster.opened_by(NEW) > 0, "the first swap")
        yield cluster, scheduler


def test_before_etcd_is_full_a_campaign_rests_and_goes_on_when_there_is_room(small: tuple[Service, Daemon]) -> None:
    cluster, scheduler = small
    gateway = cluster.etcd.admin()
    fill_up(gateway, "more", lambda: database_size(gateway) > 13.5 * MIB)
    cluster.wait(lambda: scheduler.said("campaign.paused", cause="space"), "it rests")
    assert 0 < cluster.opened_by(NEW) < OBJECTS
    make_room(cluster.etcd)
    cluster.wait(lambda: scheduler.said("campaign.continued"), "it goes on")
    assert_ended(cluster)


def test_under_an_alarm_nothing_is_lost_and_the_service_goes_on_by_itself(small: tuple[Service, Daemon]) -> None:
    """etcd then takes no record either: not even that the campaign rests."""
    cluster, _ = small
    fill_up(cluster.etcd.admin(), "more", lambda: False)
    cluster.wait(lambda: any("NOSPACE" in daemon.text for daemon in cluster.daemons), "it is noticed")
    assert "NOSPACE" in cluster.etcd.etcdctl("alarm", "list")
    make_room(cluster.etcd)
    assert_ended(cluster)


def assert_ended(cluster: Service) -> None:
    ended = cluster.wait_finished(1)
    assert (ended["state"], cluster.opened_by(NEW)) == ("complete", OBJECTS)
    assert cluster.run("audit-log", "verify").code == 0


def window(begin: timedelta, end: timedelta) -> str:
    """Hours that begin and end so far from now, in UTC: too far for a test to run into."""
    now = datetime.now(UTC)
    return f"{now + begin:%H:%M}-{now + end:%H:%M}"


def test_outside_the_maintenance_windows_a_campaign_is_planned_and_rests(cluster: Service) -> None:
    cluster.fill(300)
    cluster.configure(NEW, OLD)
    closed = cluster.start("scheduler", REWRAP_WINDOW=window(timedelta(hours=3), timedelta(hours=5)))
    cluster.start("worker")
    cluster.wait(lambda: closed.said("campaign.paused", cause="window"), "it rests")
    [row] = cluster.campaigns()
    assert row["state"] == "paused"
    assert row["because"].startswith("outside the maintenance windows (--window); the next opens at ")
    # An operator's request does not open the window.
    cluster.run("campaign", "resume", str(row["id"]))
    cluster.wait(lambda: len(closed.said("campaign.paused", cause="window")) >= 2, "it rests again")
    assert cluster.opened_by(NEW) == 0
    closed.stop()
    cluster.start("scheduler", REWRAP_WINDOW=window(-timedelta(hours=3), timedelta(hours=3)))
    ended = cluster.wait_finished(1)
    assert (ended["campaign"], ended["state"], cluster.opened_by(NEW)) == (row["id"], "complete", 300)


RATE = 120
_SPAN = 3.0
_TOLERANCE = 1.1


class Committed:
    """Reads etcd's count of swaps again and again; each reading lies between two moments."""

    def __init__(self, cluster: Service) -> None:
        self._cluster = cluster
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self.readings: list[tuple[float, float, int]] = []

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _read(self) -> None:
        while not self._stop.is_set():
            before = time.monotonic()
            count = self._cluster.opened_by(NEW)
            self.readings.append((before, time.monotonic(), count))
            self._stop.wait(0.1)

    def fastest(self) -> float:
        """The most objects a second over any span of at least so long. A late reading makes it no faster:

        what a later reading counted was committed after the first one began, and before the later one ended.
        """
        return max(
            (later[2] - first[2]) / (later[1] - first[0])
            for place, first in enumerate(self.readings)
            for later in self.readings[place + 1 :]
            if later[0] - first[1] >= _SPAN
        )


def test_four_worker_processes_together_stay_at_the_ceiling(cluster: Service) -> None:
    cluster.variables["REWRAP_RATE"] = str(RATE)
    cluster.fill(OBJECTS)
    cluster.configure(NEW, OLD)
    cluster.start("scheduler")
    for _ in range(4):
        cluster.start("worker", "--children", "1")
    with Committed(cluster) as committed:
        cluster.wait_finished(1)
    assert cluster.opened_by(NEW) == OBJECTS
    assert committed.fastest() <= RATE * _TOLERANCE
