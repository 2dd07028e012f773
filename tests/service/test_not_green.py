"""Nothing is green that is not: one service through what used to clear its alarms, or was not said at all."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from tests.servers.etcd import EtcdCluster
from tests.servers.ports import free_ports
from tests.servers.redis import RedisOptions, RedisServer
from tests.service.harness import NEW, OLD, Service, service

pytestmark = pytest.mark.timeout(150)

UNKNOWN = "no_key_of_that_name"
OF_A_SCAN = ("kube_rewrap_stale_objects", "kube_rewrap_unreadable_objects", "kube_rewrap_last_scan_age_seconds")


class Shown:
    """What a scheduler shows at its address."""

    def __init__(self, place: str) -> None:
        self._place = place

    def samples(self) -> dict[str, float]:
        with urlopen(f"http://{self._place}/metrics", timeout=30) as answer:
            return {
                name: float(value)
                for name, value in re.findall(r"^(kube_rewrap_\S+) (\S+)$", answer.read().decode(), re.MULTILINE)
            }

    def everything(self) -> dict[str, float]:
        """What alerts about the whole rest on, but for ages."""
        kept = re.compile(r'kube_rewrap_(stale|unreadable)|kube_rewrap_campaign_\w+\{.*scope="everything"')
        return {name: value for name, value in self.samples().items() if kept.match(name)}

    def readiness(self) -> tuple[int, str]:
        try:
            with urlopen(f"http://{self._place}/readyz", timeout=30) as answer:
                return int(answer.status), answer.read().decode()
        except HTTPError as error:
            return error.code, error.read().decode()


def answer(one: Service, *words: str) -> tuple[str, str]:
    """Asks for a campaign, and waits until it is known what became of that."""
    shown = one.run("campaign", "start", *words, "--wait", "--timeout", "60").document
    return shown["state"], shown["because"]


def test_alarms_stay_until_everything_was_scanned_and_redis_is_missed_while_nothing_is_sent(
    etcd: EtcdCluster, new_redis: Callable[[RedisOptions], RedisServer], tmp_path: Path
) -> None:
    place = f"127.0.0.1:{free_ports(1)[0]}"
    shown = Shown(place)
    with service(etcd, new_redis(RedisOptions()), tmp_path) as one:
        one.variables |= {"REWRAP_METRICS_ADDR": place, "REWRAP_APISERVER": f"http://127.0.0.1:{free_ports(1)[0]}"}
        one.fill(60, namespaces=4)
        for name in ("a", "b"):
            etcd.admin().put(f"/registry/secrets/team-001/poison-{name}", b"k8s:enc:aescbc:v1:lost-key:nothing")
        assert one.run("converged", "--assume-converged", "a test without one").code == 0
        scheduler = one.start("scheduler")
        one.start("worker", REWRAP_METRICS_ADDR="127.0.0.1:0")
        assert one.wait_finished(1)["state"] == "incomplete"
        alarms = shown.everything()
        assert alarms["kube_rewrap_stale_objects"] == 0.0
        assert alarms[f'kube_rewrap_unreadable_objects{{reason="{UNKNOWN}",resource="secrets"}}'] == 2.0
        assert alarms['kube_rewrap_campaign_state{scope="everything",state="incomplete"}'] == 1.0
        said = {"resource": "secrets", "reason": UNKNOWN, "objects": 2}
        one.wait(lambda: scheduler.said("scan.unreadable", **said), "it says what can't be read")

        # A namespace that holds nothing, then one that is fine: neither says anything about the rest.
        state, because = answer(one, "--namespace", "nosuch")
        assert state == "refused"
        assert "nosuch: no object is there" in because
        assert answer(one, "--namespace", "nosuch", "--allow-empty")[0] == "complete"
        assert answer(one, "--namespace", "team-002")[0] == "complete"
        # Two campaigns of a part were complete; the figures of the last one follow its record.
        part = 'kube_rewrap_campaign_state{scope="part",state="complete"}'
        one.wait(lambda: len(one.finished()) == 3 and shown.samples()[part] == 1.0, "figures of the last campaign")
        assert shown.everything() == alarms

        # Nothing is sent any more.
        one.wait(lambda: shown.readiness() == (200, "ok\n"), "the scheduler is ready")
        one.redis.stop()
        one.wait(lambda: "Redis takes no messages" in shown.readiness()[1], "it is not ready without Redis")
        # The metric is set by the next probe of the queue.
        one.wait(lambda: shown.samples()["kube_rewrap_queue_available"] == 0.0, "the metric says so")
        assert scheduler.said("queue.unavailable")
        one.redis.start()
        one.wait(lambda: shown.readiness() == (200, "ok\n"), "it is ready again")
        one.wait(lambda: shown.samples()["kube_rewrap_queue_available"] == 1.0, "the metric says so")
        assert scheduler.said("queue.available")
        scheduler.assert_said_once_an_outage("queue.unavailable", "queue.available")

        # The next leader knows from the records what this one knew.
        scheduler.stop()
        second = one.start("scheduler")
        one.wait(lambda: second.said("scan.unreadable", **said), "it says at once what can't be read")
        one.wait(lambda: shown.everything() == alarms, "its metrics show what the former leader's showed")

        # Nobody knows whether this file may be used: nothing is scanned under it, so there are no figures.
        one.configure(NEW, OLD)
        one.wait(lambda: second.said("request.put_off"), "the change is put off")
        of_campaigns = "kube_rewrap_campaign_"
        one.wait(
            lambda: not [name for name in shown.samples() if name.startswith((*OF_A_SCAN, of_campaigns))],
            "no figure of the former file is shown",
        )
