"""Whether etcd answers is noticed while nothing is asked of it, and its coming back too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd.reach import Reach, follow_etcd
from tests.servers.etcd import EtcdCluster, EtcdOptions

pytestmark = pytest.mark.timeout(170)


def wait(reach: Reach, *, away: bool) -> None:
    until = time.monotonic() + 50
    while bool(reach.trouble) is not away:
        assert time.monotonic() < until, reach.trouble
        time.sleep(0.05)


def test_an_etcd_that_freezes_and_comes_back_is_said_once_each(
    new_etcd: Callable[[EtcdOptions], EtcdCluster],
) -> None:
    etcd = new_etcd(EtcdOptions())
    [member] = etcd.members
    with capture_logs() as logs, follow_etcd(EtcdSettings(endpoints=tuple(etcd.endpoints)), "/kube-rewrap") as reach:
        assert reach.trouble == "etcd was not reached yet"
        wait(reach, away=False)
        member.freeze()
        wait(reach, away=True)
        assert reach.trouble == "etcd does not answer, so this process can't work; see the log: etcd.unavailable"
        os.kill(member.pid, signal.SIGCONT)
        wait(reach, away=False)
    assert [log["event"] for log in logs] == ["etcd.available", "etcd.unavailable", "etcd.available"]


def test_what_keeps_it_from_etcd_is_in_the_log(etcd_tls: EtcdCluster) -> None:
    [url] = etcd_tls.endpoints
    plain = EtcdSettings(endpoints=(url.replace("https:", "http:"),))
    with capture_logs() as logs, follow_etcd(plain, "/kube-rewrap") as reach:
        until = time.monotonic() + 50
        while not logs:
            assert time.monotonic() < until, reach.trouble
            time.sleep(0.05)
    assert [log["event"] for log in logs] == ["etcd.unavailable"]
    assert "the server speaks TLS, the endpoint says http://" in logs[0]["because"]
