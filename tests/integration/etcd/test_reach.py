"""Whether etcd answers is noticed while nothing is asked of it, and its coming back too."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, MutableMapping
from typing import Any

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd.reach import Reach, follow_etcd
from tests.servers.etcd import REWRAP, EtcdCluster, EtcdOptions

pytestmark = pytest.mark.timeout(170)


def wait(reach: Reach, *, away: bool) -> None:
    until = time.monotonic() + 50
    while bool(reach.trouble) is not away:
        assert time.monotonic() < until, reach.trouble
        time.sleep(0.05)


def wait_for_line(logs: list[MutableMapping[str, Any]], event: str) -> None:
    """The diagnosis before it takes some seconds."""
    until = time.monotonic() + 20
    while logs[-1]["event"] != event:
        assert time.monotonic() < until, logs
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
        wait_for_line(logs, "etcd.unavailable")
        os.kill(member.pid, signal.SIGCONT)
        wait(reach, away=False)
    assert [log["event"] for log in logs] == ["etcd.available", "etcd.unavailable", "etcd.available"]
    [url] = etcd.endpoints
    assert logs[1]["endpoints"] == [url]
    assert logs[1]["because"].startswith(f"no etcd endpoint of {url} answered: a process listens there, but does not")


def test_the_log_names_the_endpoint_and_the_cause_and_no_password(
    new_etcd: Callable[[EtcdOptions], EtcdCluster],
) -> None:
    etcd = new_etcd(EtcdOptions(auth=True))
    [url] = etcd.endpoints
    password = SecretBytes(REWRAP.password.encode())
    settings = EtcdSettings(endpoints=(url,), user=REWRAP.name, password=password)
    with capture_logs() as logs, follow_etcd(settings, "/kube-rewrap") as reach:
        wait(reach, away=False)
        etcd.members[0].stop()
        wait(reach, away=True)
        wait_for_line(logs, "etcd.unavailable")
    assert logs[-1]["because"] == (
        f"no etcd endpoint of {url} answered: no process listens on port {url.rpartition(':')[2]} of 127.0.0.1; does "
        "etcd run there? Check --endpoints"
    )
    assert REWRAP.password not in repr(logs)


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
