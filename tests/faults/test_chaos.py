"""Rounds of crashes, lost replies and writers at random. Each round's number is its seed: to see one again, run it
alone, as `CHAOS_SEED=… pytest -m chaos -k 'round[7]'`; its failure says which `CHAOS_SEED` it had."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.command import Running
from tests.faults.harness import POINTS
from tests.faults.registry import OWNER, POISON, Registry, prepare
from tests.integration.apiserver import IDENTITY, secrets
from tests.integration.blind_writer import Writer, assert_values
from tests.servers.etcd import EtcdCluster, EtcdOptions, EtcdVersion
from tests.servers.proxy import Proxy

NewEtcd = Callable[[EtcdOptions], EtcdCluster]

SEED = int(os.environ.get("CHAOS_SEED", "20261123"))
ROUNDS = 40
FAULTS_A_ROUND = 4
OBJECTS = 150

pytestmark = pytest.mark.chaos


class Chaos:
    """One registry, one dice, and the faults that it throws."""

    def __init__(self, cluster: EtcdCluster, registry: Registry, proxy: Proxy, dice: random.Random) -> None:
        self.cluster = cluster
        self.registry = registry
        self.proxy = proxy
        self.dice = dice
        self.kills = 0

    def one_fault(self) -> None:
        """A run with one fault in it, which may end the run or not."""
        fault = self.dice.choice(
            [self.kill_at_a_point, self.kill_at_a_moment, self.kill_etcd, self.lose_replies, self.stop]
        )
        fault()
        self.registry.end_lock()

    def kill_at_a_point(self) -> None:
        point = f"{self.dice.choice(POINTS)}:{self.dice.randint(1, 12)}"
        with self.registry.killed_at(point).start(*self.words()) as running:
            self.note(running)

    def kill_at_a_moment(self) -> None:
        with self.run() as running:
            self.at_a_moment(running)
            running.send(signal.SIGKILL)
            self.note(running)

    def stop(self) -> None:
        with self.run() as running:
            self.at_a_moment(running)
            running.send(self.dice.choice([signal.SIGINT, signal.SIGTERM]))
            self.note(running)

    def kill_etcd(self) -> None:
        member = self.cluster.members[0]
        with self.run() as running:
            self.at_a_moment(running)
            member.kill()
            member.start()
            self.note(running)

    def lose_replies(self) -> None:
        self.proxy.swallow_replies(to=self.dice.choice([b"k8s:enc:aesgcm:v1:new:", b'"cursor"', b'"reserved"']))
        with self.run() as running:
            self.at_a_moment(running)
            self.proxy.cut()
            self.note(running)
        self.proxy.pass_on()

    def run(self) -> Running:
        return self.registry.command.start(*self.words())

    def words(self) -> tuple[str, ...]:
        return ("run", "-o", "json", "--rate", self.dice.choice(["0", "100", "200"]))

    def at_a_moment(self, running: Running) -> None:
        """Somewhere between its start and its end."""
        moment = threading.Event()
        moment.wait(self.dice.uniform(0.3, 1.5))
        del running

    def note(self, running: Running) -> None:
        """Whatever the fault was, it ends in one of the ways that are promised."""
        ended = running.end(90)
        assert ended.code in {0, 3, 5, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM, 130}, (
            ended.stdout + ended.stderr
        )
        self.kills += ended.code == -signal.SIGKILL


@pytest.mark.parametrize("number", range(ROUNDS))
def test_round(new_etcd: NewEtcd, tmp_path: Path, number: int) -> None:
    dice = random.Random(SEED * 1_000 + number)
    cluster = new_etcd(EtcdOptions(version=EtcdVersion.V3_4, fsync=True))
    with Proxy(cluster.endpoints[0]) as proxy:
        registry = prepare(cluster, tmp_path, OBJECTS).through(proxy.endpoint)
        chaos = Chaos(cluster, registry, proxy, dice)
        for _ in range(FAULTS_A_ROUND):
            chaos.one_fault()
        # No fault may have made an object lose its way, whatever else comes now.
        assert {one.version for one in registry.poison()} == {1}
        ended = registry.finish()
    assert cluster.admin().get(OWNER) is None
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()
    assert {one["key"] for one in ended.document["quarantined"]} == set(POISON)


@pytest.mark.parametrize("number", range(ROUNDS // 4))
def test_round_with_a_writer(new_etcd: NewEtcd, tmp_path: Path, number: int) -> None:
    dice = random.Random(SEED * 2_000 + number)
    cluster = new_etcd(EtcdOptions(version=EtcdVersion.V3_4))
    registry = prepare(cluster, tmp_path, OBJECTS)
    written = secrets(OBJECTS)
    with (
        Proxy(cluster.endpoints[0]) as proxy,
        Writer(cluster.admin(), written, (registry.old, registry.new, IDENTITY), dice.randint(0, 10**9)),
    ):
        chaos = Chaos(cluster, registry.through(proxy.endpoint), proxy, dice)
        for _ in range(FAULTS_A_ROUND):
            dice.choice([chaos.kill_at_a_point, chaos.kill_at_a_moment, chaos.lose_replies, chaos.stop])()
            registry.end_lock()
    events = {key: plaintext for key, plaintext in registry.plaintexts.items() if key.startswith("/registry/events/")}
    expected = {**written, **events}
    for name in POISON:
        registry.gateway.delete(name)
    assert_values(registry.gateway, expected, (registry.old, registry.new, IDENTITY))
    ended = registry.command.run("run", "-o", "json")
    if ended.code == 3:
        # It resumed, and ended, a campaign whose sweeps the writer had used up. The next one begins with all of them.
        assert (ended.document["state"], ended.document["proof"]["unreadable"]) == ("incomplete", [])
        ended = registry.command.run("run", "-o", "json")
    assert ended.code == 0, ended.stdout + ended.stderr
    registry.assert_ended_well(expected)
