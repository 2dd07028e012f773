"""SIGKILL around every effect on etcd with a KMS primary: of the process, or of the plugin. Nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.acceptance.command import Command, Ended, command_for, start_program
from tests.acceptance.forked import ForkedProcess
from tests.faults.registry import HARNESS, OWNER, PAGE
from tests.faults.test_kill_points import PASSES, SEED
from tests.integration.apiserver import IDENTITY, Key, configure, manifest, secrets, store, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway
from tests.servers.kms_values import KmsKey, KmsV1Key

pytestmark = pytest.mark.timeout(300)

START_SECONDS = 60.0
# KMS keys have no ledger.
REACHED = [f"{effect}.{side}" for effect in PASSES if effect != "ledger" for side in ("before", "after")]
QUICK = {"group.after", "swap.after", "batches.before", "campaigns.after"}
POINTS = [point if point in QUICK else pytest.param(point, marks=pytest.mark.chaos) for point in REACHED]
MOVED = "/registry/secrets/default/s00005-moved"


@dataclass
class PluginProcess:
    """The plugin as a process that can be killed."""

    socket: Path
    process: subprocess.Popen[bytes] | ForkedProcess | None = None

    def start(self) -> int:
        """Starts it, under a new socket; returns its id."""
        self.kill()
        self.socket.unlink(missing_ok=True)
        log = self.socket.with_suffix(".log")
        line = [sys.executable, "-m", "tests.servers.kms_plugin", "--socket", str(self.socket)]
        self.process = start_program(line, os.environ, log, log)
        until = time.monotonic() + START_SECONDS
        while not self.socket.exists():
            assert time.monotonic() < until, log.read_text()
            time.sleep(0.01)
        return self.process.pid

    def kill(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait(30)
            self.process = None


@contextmanager
def plugin_at(socket: Path) -> Iterator[PluginProcess]:
    plugin = PluginProcess(socket)
    try:
        yield plugin
    finally:
        plugin.kill()


@dataclass(frozen=True)
class Scene:
    gateway: Gateway
    command: Command
    plugin: PluginProcess
    new: KmsKey | KmsV1Key
    plaintexts: dict[str, bytes]
    lease: int

    def end_lock(self) -> None:
        owner = self.gateway.get(OWNER)
        if owner is not None:
            self.gateway.call("/v3/lease/revoke", {"ID": str(owner.lease)})

    def finish(self) -> Ended:
        """Starts the plugin anew and runs to the end, which one moved value keeps from being a complete one."""
        self.plugin.start()
        ended = self.command.run("run", "-o", "json")
        assert ended.code == 3, f"{ended.code}: {ended.stdout}{ended.stderr}"
        assert [one["key"] for one in ended.document["quarantined"]] == [MOVED]
        return ended

    def assert_ended_well(self) -> None:
        """Each object is under KMS, rewritten once, with its plaintext and its lease; the moved one is as it was."""
        found = {one.key: one for one in self.gateway.read("/registry/")}
        assert found.pop(MOVED).version == 1
        assert {key: self.new.open(key, one.value) for key, one in found.items()} == self.plaintexts
        assert {one.version for one in found.values()} == {2}
        assert {key for key, one in found.items() if one.lease == self.lease} == {
            key for key in self.plaintexts if key.startswith("/registry/events/")
        }


@pytest.fixture(params=["v1", "v2"])
def scene(etcd: EtcdCluster, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Scene]:
    gateway, old = etcd.admin(), Key.new("aesgcm", "old")
    plaintexts = secrets(60)
    store(gateway, plaintexts, old)
    lease = gateway.grant_lease(3_600)
    for number in range(8):
        name = f"/registry/events/default/e{number}"
        plaintexts[name] = manifest("Event", "default", f"e{number}", str(number))
        gateway.put(name, old.seal(name, plaintexts[name]), lease)
    with plugin_at(tmp_path / "kms.sock") as plugin:
        endpoint = f"unix://{plugin.socket}"
        new: KmsKey | KmsV1Key = KmsV1Key("cloud", endpoint) if request.param == "v1" else KmsKey("cloud", endpoint)
        gateway.put(
            MOVED, new.seal("/registry/secrets/default/elsewhere", plaintexts["/registry/secrets/default/s00001"])
        )
        file = configure(tmp_path, new, old, IDENTITY, resources=["secrets", "events"])
        text = f"[page]\nobjects = {PAGE}\n[etcd]\ncall_timeout = 3.0\n[kms]\nv1_rate = 0\nv2_rate = 0\n"
        settings = write_private(tmp_path / "settings.toml", text)
        command = replace(
            command_for(tmp_path, etcd, file).with_flags("--settings", str(settings)),
            program=HARNESS,
            environment={"ENCRYPTIONS": str(tmp_path / "encryptions.log"), "REWRAP_RATE": "0"},
        )
        yield Scene(gateway, command, plugin, new, plaintexts, lease)


def order_of(point: str) -> str:
    effect = point.partition(".")[0]
    passes = 1 if effect == "quarantine" else PASSES[effect]  # one object is left alone here
    return f"{point}:{random.Random(f'{SEED} kms {point}').randint(1, passes)}"


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_of_the_process_loses_nothing(scene: Scene, point: str) -> None:
    scene.plugin.start()
    ended = scene.command.with_environment(KILL_AT=order_of(point)).run("run", "-o", "json")
    assert ended.code == -signal.SIGKILL, f"{point} was not reached: {ended.stdout}{ended.stderr}"
    scene.end_lock()
    scene.finish()
    scene.assert_ended_well()


@pytest.mark.parametrize("point", POINTS)
def test_a_kill_of_the_plugin_loses_nothing_and_quarantines_nothing(scene: Scene, point: str) -> None:
    victim = scene.plugin.start()
    ended = scene.command.with_environment(KILL_AT=order_of(point), VICTIM=str(victim)).run("run", "-o", "json")
    # With its seed made and its sources read, a process may come to the end without the plugin.
    assert ended.code in {3, 4, 5}, f"{ended.code}: {ended.stdout}{ended.stderr}"
    if ended.code == 3:
        assert [one["key"] for one in ended.document["quarantined"]] == [MOVED]
    scene.finish()
    scene.assert_ended_well()
