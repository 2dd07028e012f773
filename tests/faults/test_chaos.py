"""Rounds of crashes, lost replies and writers at random. Each round's number is its seed: to see one again, run it
alone, as `CHAOS_SEED=… pytest -m chaos -k 'round[7-1]'`; its failure says which `CHAOS_SEED` it had."""

from __future__ import annotations

import os
import random
import signal
import threading
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

import pytest

from tests.acceptance.command import Running, log_events
from tests.faults.harness import POINTS
from tests.faults.registry import OWNER, POISON, RESOURCES, WIDE, Registry, prepare
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

    def __init__(
        self, cluster: EtcdCluster, registry: Registry, proxy: Proxy, dice: random.Random, processes: int
    ) -> None:
        self.processes = processes
        self.cluster = cluster
        self.registry = registry
        self.proxy = proxy
        self.dice = dice
        self.kills = 0

    def one_fault(self) -> None:
        """A run with one fault in it, which may end the run or not."""
        faults = [self.kill_at_a_point, self.kill_at_a_moment, self.kill_etcd, self.lose_replies, self.stop]
        if self.processes > 1:
            faults += [self.kill_a_child_at_a_point, self.kill_a_child, self.freeze]
        self.dice.choice(faults)()
        self.registry.end_lock()

    def kill_at_a_point(self) -> None:
        point = f"{self.dice.choice(POINTS)}:{self.dice.randint(1, 12)}"
        with self.registry.killed_at(point).start(*self.words()) as running:
            self.note(running)

    def kill_a_child_at_a_point(self) -> None:
        point = f"{self.dice.choice(POINTS)}:{self.dice.randint(1, 12)}"
        self.registry.encryptions.with_suffix(".log.killed").unlink(missing_ok=True)
        with self.registry.command.with_environment(KILL_CHILD_AT=point).start(*self.words()) as running:
            self.note(running)

    def kill_a_child(self) -> None:
        with self.run() as running:
            self.at_a_moment(running)
            if children := self.children(running):
                os.kill(self.dice.choice(children), signal.SIGKILL)
            self.note(running)

    def freeze(self) -> None:
        """The run, or one of its children, stands still for some seconds, up to longer than its locks last."""
        with self.run() as running:
            self.at_a_moment(running)
            frozen = self.dice.choice([running.pid, *self.children(running)])
            with suppress(ProcessLookupError):
                os.kill(frozen, signal.SIGSTOP)
                threading.Event().wait(self.dice.choice([1, 5, 9, 12, 20]))
                os.kill(frozen, signal.SIGCONT)
            self.note(running, {4})  # the run's lock may be lost by then

    def children(self, running: Running) -> list[int]:
        """Those that live, as far as the log names them."""
        started = [event["child"] for event in log_events(running.stderr) if event["event"] == "child.started"]
        return [pid for pid in started if Path(f"/proc/{pid}").exists()]

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
        rate = self.dice.choice(["0", "100", "200"])
        return ("run", "-o", "json", "--rate", rate, "--processes", str(self.processes))

    def at_a_moment(self, running: Running) -> None:
        """Somewhere between its start and its end."""
        moment = threading.Event()
        moment.wait(self.dice.uniform(0.3, 1.5 if self.processes == 1 else 5.0))
        del running

    def note(self, running: Running, others: Collection[int] = ()) -> None:
        """Whatever the fault was, it ends in one of the ways that are promised."""
        ended = running.end(150)
        assert ended.code in {0, 3, 5, -signal.SIGKILL, -signal.SIGINT, -signal.SIGTERM, 130, *others}, (
            ended.stdout + ended.stderr
        )
        self.kills += ended.code == -signal.SIGKILL


@pytest.mark.parametrize(
    ("number", "processes"),
    [(number, 1) for number in range(ROUNDS)] + [(number, many) for many in (2, 4) for number in range(ROUNDS // 4)],
)
def test_round(new_etcd: NewEtcd, tmp_path: Path, number: int, processes: int) -> None:
    dice = random.Random(SEED * 1_000 + number)
    cluster = new_etcd(EtcdOptions(version=EtcdVersion.V3_4, fsync=True))
    with Proxy(cluster.endpoints[0]) as proxy:
        resources = RESOURCES if processes == 1 else WIDE
        registry = prepare(cluster, tmp_path, OBJECTS, resources=resources).through(proxy.endpoint)
        chaos = Chaos(cluster, registry, proxy, dice, processes)
        for _ in range(FAULTS_A_ROUND):
            chaos.one_fault()
        # No fault may have made an object lose its way, whatever else comes now.
        assert {one.version for one in registry.poison()} == {1}
        # Children that outlive a killed run by some seconds release their claims at their end.
        ended = registry.finish("--processes", str(processes), "--wait")
    assert cluster.admin().get(OWNER) is None
    registry.assert_ended_well()
    registry.assert_each_was_rewritten_once()
    assert {one["key"] for one in ended.document["quarantined"]} == set(POISON)


@pytest.mark.parametrize(("number", "processes"), [(number, (1, 2, 1, 4)[number % 4]) for number in range(ROUNDS // 4)])
def test_round_with_a_writer(new_etcd: NewEtcd, tmp_path: Path, number: int, processes: int) -> None:
    dice = random.Random(SEED * 2_000 + number)
    cluster = new_etcd(EtcdOptions(version=EtcdVersion.V3_4))
    registry = prepare(cluster, tmp_path, OBJECTS)
    written = secrets(OBJECTS)
    with (
        Proxy(cluster.endpoints[0]) as proxy,
        Writer(cluster.admin(), written, (registry.old, registry.new, IDENTITY), dice.randint(0, 10**9)),
    ):
        chaos = Chaos(cluster, registry.through(proxy.endpoint), proxy, dice, processes)
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
