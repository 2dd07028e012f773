"""SIGKILL before and after every effect of a rotation: whoever resumes it comes to the same end, and no key is lost.

A file is one of four contents at any time, and every stand-in for a kube-apiserver can read everything, always.
"""

from __future__ import annotations

import base64
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.acceptance.command import Command
from tests.acceptance.control_plane import ControlPlane, control_plane, keys_of, wait
from tests.faults.rotation_harness import FILE_EFFECTS
from tests.integration.apiserver import IDENTITY, Key
from tests.servers.etcd import EtcdCluster, EtcdOptions
from tests.servers.gateway import GatewayError

HARNESS = (sys.executable, "-m", "tests.faults.rotation_harness")
SEED = int(os.environ.get("CHAOS_SEED", "20261123"))
OLD = Key.new("aescbc", "old")
LOCKS = ("/kube-rewrap/v1/leader", "/kube-rewrap/v1/owner")

# How often a rotation passes each effect at the least.
RECORDS = {"rotations": 13, "audit-head": 15, "ledger": 4, "campaigns": 2, "sweep": 1, "batches": 4}
LOCKED = {"leader": 1, "owner": 1, "grant": 2, "revoke": 2}
PASSES = {**dict.fromkeys(FILE_EFFECTS, 3), **RECORDS, **LOCKED, "group": 1}
SIDES = ("before", "after")
ALL = [f"{effect}.{side}:{n}" for effect, times in PASSES.items() for n in range(1, times + 1) for side in SIDES]

FILE = """\
# three of them share it
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - aescbc:
          keys:
{keys}
      - identity: {{}} # nothing needs it
"""


def text(*keys: Key) -> str:
    blocks = (
        f"            - name: {key.name}\n              secret: {base64.b64encode(key.material).decode()}"
        for key in keys
    )
    return FILE.format(keys="\n".join(blocks))


def chosen() -> list[str]:
    """One pass of each kind of effect that matters most."""
    dice = random.Random(SEED)
    campaign = [f"{record}.{side}" for record in ("campaigns", "batches") for side in SIDES]
    files = (["archive.before", "archive.after"], ["write.after"], ["replace.after"])
    points = [dice.choice(kind) for kind in (["rotations.before"], ["rotations.after"], *files, campaign)]
    return [f"{point}:{dice.randint(1, PASSES[point.partition('.')[0]])}" for point in points]


@dataclass(frozen=True)
class Rotated:
    """A control plane, and a rotation on it that is killed."""

    plane: ControlPlane
    rewrap: Command
    encryptions: Path

    def crash(self, point: str, *words: str) -> None:
        """Runs until the point, and no further."""
        ended = self.rewrap.with_environment(KILL_AT=point).run("rotate", *words)
        assert ended.code == -signal.SIGKILL, f"{point} was not reached: {ended.stdout}{ended.stderr}"

    def end_locks(self) -> None:
        """What time does to the locks of a process that died."""
        for lock in LOCKS:
            held = self.plane.gateway.get(lock)
            if held is not None:
                try:
                    self.plane.gateway.call("/v3/lease/revoke", {"ID": str(held.lease)})
                except GatewayError:
                    assert self.plane.gateway.get(lock) is None

    def is_done(self) -> bool:
        return [one["step"] for one in self.plane.rotations()] == ["done"]

    def finish(self, *flags: str) -> None:
        """Resumes it, or begins it where nothing is on record yet."""
        if self.is_done():
            return
        words = ("resume",) if self.plane.rotations() else ("start", "--prune")
        ended = self.rewrap.run("rotate", *words, *flags)
        assert ended.code == 0, f"{ended.code}: {ended.stdout}{ended.stderr}"

    def stages(self) -> list[str]:
        """All contents that the file may have, in their order."""
        new = [key for key in keys_of(self.plane.text) if key not in {OLD, IDENTITY}]
        if not new:
            return [text(OLD)]
        [key] = new
        return [text(OLD), text(OLD, key), text(key, OLD), text(key)]

    def assert_safe(self) -> None:
        """What must hold at every moment."""
        assert self.plane.text in self.stages()
        assert set(self.plane.archived) <= set(self.stages())
        with self.plane.registry.lock:
            assert self.plane.registry.unreadable == []
        self.plane.assert_no_key_is_lost()

    def assert_ended_well(self) -> None:
        """New key only, nothing under the old one, the way there in the archive."""
        assert self.is_done()
        self.assert_safe()
        *passed, last = self.stages()
        new = self.plane.new_key()
        assert self.plane.text == last == text(new)
        assert sorted(self.plane.archived) == sorted(passed)
        self.plane.assert_all_is_under(new)
        assert set(self.encryptions.read_text().split()) <= {new.fingerprint}
        assert not [one for one in self.plane.file.parent.iterdir() if one.name.startswith(".")], "nothing is left over"


@pytest.fixture
def etcd(new_etcd: Callable[[EtcdOptions], EtcdCluster]) -> EtcdCluster:
    """This test's own: the stand-ins read its history."""
    return new_etcd(EtcdOptions())


@pytest.fixture
def rotated(etcd: EtcdCluster, tmp_path: Path) -> Iterator[Rotated]:
    encryptions = tmp_path / "encryptions.log"
    with control_plane(etcd, tmp_path, text(OLD), objects=200) as plane:
        rewrap = replace(plane.rewrap, program=HARNESS).with_environment(ENCRYPTIONS=str(encryptions))
        yield Rotated(plane, rewrap, encryptions)


def crash_and_finish(rotated: Rotated, point: str) -> None:
    rotated.crash(point, "--prune")
    rotated.assert_safe()
    rotated.end_locks()
    rotated.finish()
    rotated.assert_ended_well()


@pytest.mark.parametrize("point", chosen())
def test_a_killed_rotation_is_resumed_to_the_same_end(rotated: Rotated, point: str) -> None:
    crash_and_finish(rotated, point)


@pytest.mark.chaos
@pytest.mark.parametrize("point", ALL)
def test_a_rotation_killed_at_any_effect_is_resumed_to_the_same_end(rotated: Rotated, point: str) -> None:
    crash_and_finish(rotated, point)


@pytest.mark.chaos
@pytest.mark.timeout(300)
def test_a_rotation_that_dies_after_every_few_records_comes_to_its_end(rotated: Rotated) -> None:
    """A resumed one first writes that it is resumed."""
    rotated.crash("rotations.after:2", "--prune")
    deaths = 1
    while not rotated.is_done():
        assert deaths < 15
        rotated.assert_safe()
        rotated.end_locks()
        ended = rotated.rewrap.with_environment(KILL_AT="rotations.after:3").run("rotate", "resume")
        assert ended.code in {0, -signal.SIGKILL}, f"{ended.code}: {ended.stdout}{ended.stderr}"
        deaths += 1
    rotated.assert_ended_well()


@pytest.mark.chaos
def test_whoever_resumes_at_once_waits_for_the_dead_ones_lock_and_then_drives(rotated: Rotated) -> None:
    """The lock of a process that was killed is there for some seconds more, and its holder is taken for a leader."""
    rotated.crash("rotations.after:4", "--prune")
    with rotated.rewrap.start("rotate", "resume") as running:
        wait(lambda: running.is_over, "end of the rotation that was resumed", 90)
        assert running.end().code == 0
    rotated.assert_ended_well()


WITHDRAWAL = {**dict.fromkeys(FILE_EFFECTS, 1), "rotations": 3, "audit-head": 3}


def withdraw_and_finish(rotated: Rotated, point: str) -> None:
    """Kills `rotate abort --remove-unused`, and resumes it."""
    rotated.plane.apiservers[0].refuse_to_reload(refuses=True)
    with rotated.rewrap.start("rotate") as running:
        rotated.plane.wait_until_at("spread")
        running.send(signal.SIGTERM)
        assert running.end().code == 3
    rotated.plane.apiservers[0].refuse_to_reload(refuses=False)
    contents = {text(OLD), rotated.plane.text}
    rotated.crash(point, "abort", "--remove-unused")
    assert rotated.plane.text in contents
    rotated.end_locks()
    words = ("resume",) if rotated.plane.rotation()["step"] != "spread" else ("abort", "--remove-unused")
    if rotated.plane.rotation()["step"] != "aborted":
        ended = rotated.rewrap.run("rotate", *words)
        assert ended.code == 0, f"{ended.code}: {ended.stdout}{ended.stderr}"
    found = rotated.plane.rotation()
    assert (found["step"], found["passed"][-1]["step"]) == ("aborted", "return")
    assert rotated.plane.text == text(OLD)
    assert set(rotated.plane.archived) == contents
    rotated.plane.assert_all_is_under(OLD)
    rotated.plane.assert_no_key_is_lost()
    assert rotated.encryptions.read_text() == ""


@pytest.mark.parametrize("point", ["replace.after:1"])
def test_a_killed_withdrawal_is_resumed_to_its_end(rotated: Rotated, point: str) -> None:
    withdraw_and_finish(rotated, point)


@pytest.mark.chaos
@pytest.mark.parametrize(
    "point",
    [f"{effect}.{side}:{n}" for effect, times in WITHDRAWAL.items() for n in range(1, times + 1) for side in SIDES],
)
def test_a_withdrawal_killed_at_any_effect_is_resumed_to_its_end(rotated: Rotated, point: str) -> None:
    withdraw_and_finish(rotated, point)


def test_by_hand_a_content_that_was_recorded_and_never_written_is_written_by_whoever_resumes(
    rotated: Rotated, tmp_path: Path
) -> None:
    given = tmp_path / "given.yaml"
    by_hand = ("--manual", "--write-to", str(given))
    rotated.crash("rotations.after:2", *by_hand)
    assert not given.exists()
    rotated.end_locks()
    with rotated.rewrap.start("rotate", "resume", *by_hand):
        rotated.plane.put(rotated.plane.wait_until_handed_out(given, "add"))
        wait(lambda: rotated.plane.rotation()["step"] != "add", "next step")
