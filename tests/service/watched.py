"""A service that a real Prometheus watches, by deploy/alerts.yaml with shorter times, and faults to inflict on it."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.documents.deployment import DEPLOY
from tests.integration.apiserver import AnyKey, Key, configuration, manifest, write_private
from tests.servers.apiserver import Registry, StandIn, Temper, compacting, seed, standins
from tests.servers.dashboard import PANELS, series_of
from tests.servers.etcd import EtcdCluster
from tests.servers.ports import free_ports
from tests.servers.prometheus import Prometheus, start_prometheus
from tests.servers.redis import RedisServer
from tests.service.harness import Daemon, Service, service

SETTINGS = """
[service]
poll = 0.5
debounce = 0.1
slice = 1.0
progress = 1.0
[broker]
timeout = 2.0
[budget]
block = 20
[kms]
settle = 1.0
"""
_FASTER = 150
_LEAST_SECONDS = 3.0
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def rules_in_a_hurry() -> dict[str, Any]:
    """The rules, with each duration divided; by at most so much that a late scrape alone fires none."""
    text = (DEPLOY / "alerts.yaml").read_text(encoding="utf-8")

    def shorter(found: re.Match[str]) -> str:
        seconds = max(_LEAST_SECONDS, int(found["number"]) * _SECONDS[found["unit"]] / _FASTER)
        return f"{found['before']}{seconds * 1000:.0f}ms"

    rules: dict[str, Any] = yaml.safe_load(
        re.sub(r"(?P<before>for: |\[)(?P<number>\d+)(?P<unit>[smhd])\b", shorter, text)
    )
    return rules


@dataclass(frozen=True, slots=True)
class Load:
    """How much there is to do: objects, the ceiling in objects a second, an aesgcm key's writes, kube-apiservers."""

    objects: int
    rate: int
    limit: int
    apiservers: tuple[Temper, ...] = (Temper(poll=0.1, writes=0),)


class Watched:
    """The service, stand-ins for kube-apiservers, and what Prometheus says of them."""

    def __init__(self, cluster: Service, first: AnyKey, load: Load) -> None:
        self.began = time.time()
        self.cluster = cluster
        self.etcd = cluster.etcd
        self.registry = Registry()
        (cluster.directory / "enc").mkdir()
        self.file = cluster.directory / "enc" / "enc.json"
        self.keys: tuple[AnyKey, ...] = ()
        self.configure(first)
        seed(self.etcd.admin(), self.registry, first, load.objects)
        self.ports = [f"127.0.0.1:{port}" for port in free_ports(3)]
        settings = cluster.directory / "watched.toml"
        settings.write_text(SETTINGS)
        cluster.variables |= {
            "REWRAP_ENCRYPTION_CONFIG": str(self.file),
            "REWRAP_SETTINGS": str(settings),
            "REWRAP_GCM_LIMIT": str(load.limit),
            "REWRAP_RATE": str(load.rate),
        }
        self._load = load
        self._finished = 0
        self.prometheus: Prometheus
        self.apiserver: StandIn
        self.scheduler: Daemon
        self.workers: list[Daemon]

    @contextmanager
    def running(self) -> Iterator[None]:
        """Everything, until the block ends; it begins when a leader has proven that all is under the first key."""
        gateway, rules = self.etcd.admin(), rules_in_a_hurry()
        with ExitStack() as stack:
            stack.enter_context(compacting(gateway, 4.0))
            apiservers = stack.enter_context(standins(gateway, self.file, self.registry, self._load.apiservers))
            self.apiserver = apiservers[0]
            self.cluster.variables["REWRAP_APISERVER"] = ",".join(one.url for one in apiservers)
            self.prometheus = stack.enter_context(start_prometheus(self.cluster.directory, self.ports, rules))
            self.start_scheduler()
            self.workers = [self.start_worker(number) for number in (0, 1)]
            self.wait_campaign("complete")
            self.wait_quiet()
            yield

    def start_scheduler(self) -> None:
        self.scheduler = self.cluster.start("scheduler", REWRAP_METRICS_ADDR=self.ports[2])

    def start_worker(self, number: int) -> Daemon:
        return self.cluster.start("worker", "--children", "1", REWRAP_METRICS_ADDR=self.ports[number])

    def configure(self, key: AnyKey) -> None:
        """The key writes from now on; the ones before read."""
        self.put_in_place(key, *self.keys)

    def put_in_place(self, *keys: AnyKey) -> None:
        """A file with these keys, the first one writing."""
        self.keys = keys
        fresh = self.file.with_suffix(".new")
        write_private(fresh, configuration((["secrets"], self.keys)))
        fresh.rename(self.file)

    def write(self, key: Key, count: int) -> None:
        """Some client writes so many objects with a key."""
        plaintext = manifest("Secret", "team-0", "s0000", "again")
        for _ in range(count):
            self.etcd.admin().put(
                "/registry/secrets/team-0/s0000", key.seal("/registry/secrets/team-0/s0000", plaintext)
            )

    def wait_campaign(self, state: str) -> None:
        """Waits for the end of the next campaign."""
        self._finished += 1
        ended = self.cluster.wait_finished(self._finished)
        assert ended["state"] == state, ended

    def wait_firing(self, *alerts: str) -> None:
        """Waits until these alerts fire, and no other one."""
        wanted = {f"KubeRewrap{name}" for name in alerts}

        def fires() -> bool:
            self.last = self.prometheus.firing()
            return self.last == wanted

        try:
            self.cluster.wait(fires, f"{wanted}")
        except AssertionError as error:
            raise AssertionError(f"{wanted} should fire, and {self.last} do") from error

    def wait_quiet(self) -> None:
        """Waits until Prometheus has seen everything at work, and no alert fires or is about to."""
        seen = "count(kube_rewrap_worker_children) == 2 and on () max(kube_rewrap_is_leader) == 1"
        self.cluster.wait(lambda: self.prometheus.query(seen), "scheduler and workers in Prometheus")
        self.cluster.wait(lambda: not self.prometheus.query("ALERTS"), "no alert")

    @contextmanager
    def only(self, *alerts: str) -> Iterator[None]:
        """No other alerts than these fire in the block, not even for a moment; no alert fires at its end."""
        began = time.time()
        yield
        self.wait_quiet()
        # The evaluation that ended the last alert may have begun before this one.
        fired = self.prometheus.fired(began, time.time())
        assert fired == {f"KubeRewrap{name}" for name in alerts}, fired

    def panels_without_data(self) -> set[str]:
        """The panels of the dashboard of which a query has returned nothing since the beginning."""
        now = time.time()

        def is_empty(target: dict[str, Any]) -> bool:
            always = {"targets": [{**target, "instant": False}]}
            return not series_of(always, self.prometheus, self.began, now, 0.5)

        return {panel["title"] for panel in PANELS if any(is_empty(target) for target in panel["targets"])}

    def rotation(self) -> dict[str, Any]:
        """The only rotation's record, or one at no step."""
        found = [json.loads(one.value) for one in self.etcd.admin().read("/kube-rewrap/v1/rotations/")]
        return found[0] if found else {"step": "", "held": ""}


@contextmanager
def watched(etcd: EtcdCluster, redis: RedisServer, directory: Path, first: AnyKey, load: Load) -> Iterator[Watched]:
    """Everything at work on objects that are under the key `first`."""
    with service(etcd, redis, directory) as cluster:
        one = Watched(cluster, first, load)
        with one.running():
            yield one
