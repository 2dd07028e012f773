"""A stand-in for kube-apiservers keeps changing objects while a run is at work: not one of its writes is lost."""

from __future__ import annotations

import random
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import IDENTITY, Key, configure, manifest, opened, secrets, store
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway

OLD, NEW = Key.new("aescbc", "old"), Key.new("secretbox", "new")
OBJECTS = 300


@dataclass
class Writer:
    """Puts, deletes and creates anew, one key at a time; `expected` is what the last of its writes left.

    It is blind, as no real apiserver is: it overwrites whatever the run has just written. So a run that wrote
    anything but what it had read would show.
    """

    gateway: Gateway
    expected: dict[str, bytes]
    keys: tuple[Key, ...]
    seed: int
    writes: int = 0
    _ending: threading.Event = field(default_factory=threading.Event)
    _pool: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "writer"))
    _work_done: Future[None] = field(init=False)

    def _work(self) -> None:
        dice = random.Random(self.seed)
        names = sorted(self.expected)
        while not self._ending.is_set():
            self._write_once(dice, dice.choice(names))
            self.writes += 1

    def _write_once(self, dice: random.Random, name: str) -> None:
        if name in self.expected and dice.random() < 0.2:
            del self.expected[name]
            self.gateway.delete(name)
            return
        plaintext = manifest("Secret", "default", name.rpartition("/")[2], f"write {self.writes} of {self.seed}")
        self.expected[name] = plaintext
        self.gateway.put(name, dice.choice(self.keys).seal(name, plaintext))

    def wait_for(self, writes: int) -> None:
        """Returns when it has written so often more."""
        goal = self.writes + writes
        while self.writes < goal and not self._work_done.done():
            self._ending.wait(0.005)

    def __enter__(self) -> Self:
        self._work_done = self._pool.submit(self._work)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._ending.set()
        self._pool.shutdown()
        self._work_done.result()


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    gateway = etcd.admin()
    store(gateway, secrets(OBJECTS), OLD)
    return gateway


@pytest.fixture
def rewrap(etcd: EtcdCluster, gateway: Gateway, tmp_path: Path) -> Command:
    settings = tmp_path / "settings.toml"
    settings.write_text("[page]\nobjects = 60\n")
    command = command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD, IDENTITY))
    return command.with_flags("--settings", str(settings))


@pytest.mark.parametrize(
    "keys", [(OLD,), (NEW,), (OLD, NEW, IDENTITY)], ids=["old key", "new key", "all keys and none"]
)
def test_no_update_is_lost(rewrap: Command, gateway: Gateway, etcd: EtcdCluster, keys: tuple[Key, ...]) -> None:
    expected = secrets(OBJECTS)
    with Writer(etcd.admin(), expected, keys, seed=len(keys)) as writer:
        writer.wait_for(20)
        ended = rewrap.run("run", "-o", "json", "--rate", "300")
    assert writer.writes > 100
    assert ended.code in {0, 3}, ended.stderr
    assert ended.document["quarantined"] == []
    assert ended.document["conflicts"] > 0 or OLD not in keys
    assert_values(gateway, expected, (OLD, NEW, IDENTITY))
    last = rewrap.json("run", "--rate", "0")
    assert last["state"] == "complete"
    assert opened(gateway.read("/registry/"), NEW) == expected


def assert_values(gateway: Gateway, expected: dict[str, bytes], keys: tuple[Key, ...]) -> None:
    """Every object is what was written last, under whatever key."""
    found = {one.key: one.value for one in gateway.read("/registry/")}
    assert found.keys() == expected.keys()
    read = {name: {key.open(name, value) for key in keys} for name, value in found.items()}
    assert [name for name, plaintext in expected.items() if plaintext not in read[name]] == []


def test_a_late_write_behind_the_cursor_is_found_by_the_proof_and_swept(rewrap: Command, gateway: Gateway) -> None:
    first = next(iter(secrets(1)))
    with rewrap.start("run", "-o", "json", "--rate", "100") as running:
        running.wait_for_event("batch.page", times=2)
        gateway.put(first, OLD.seal(first, secrets(1)[first]))
        ended = running.end()
    assert ended.code == 0, ended.stderr
    assert (ended.document["state"], ended.document["rewritten"]) == ("complete", OBJECTS + 1)
    assert "sweep" in {event.get("step") for event in ended.events}
    assert opened(gateway.read("/registry/"), NEW) == secrets(OBJECTS)
