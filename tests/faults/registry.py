"""A registry that is run over and crashed on, and everything that must hold for it whatever happens."""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.acceptance.command import Command, Ended, command_for
from tests.integration.apiserver import IDENTITY, Key, configure, manifest, opened, secrets, store, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway

HARNESS = (sys.executable, "-m", "tests.faults.harness")
OWNER = "/kube-rewrap/v1/owner"
PAGE = 10
RESOURCES = ("secrets",)
WIDE = ("secrets", "configmaps", "pods")  # with events, a batch for each of four processes
POISON = ("/registry/events/default/poison", "/registry/secrets/default/s00005-poison")


@dataclass(frozen=True)
class Registry:
    """Secrets, and events on a lease, all under `old`; and an object of each that nobody can read."""

    cluster: EtcdCluster
    command: Command
    old: Key
    new: Key
    plaintexts: dict[str, bytes]
    lease: int
    encryptions: Path
    batches: int  # one for each resource

    @property
    def gateway(self) -> Gateway:
        return self.cluster.admin()

    def killed_at(self, point: str) -> Command:
        """The command that will end at a point."""
        return self.command.with_environment(KILL_AT=point)

    def crash(self, point: str, *words: str) -> None:
        """Runs until the point, and no further."""
        ended = self.killed_at(point).run("run", "-o", "json", *words)
        assert ended.code == -signal.SIGKILL, f"{point} was not reached: {ended.stdout}{ended.stderr}"
        self.end_lock()

    def end_lock(self) -> None:
        """What time does to the lock of a process that died."""
        owner = self.gateway.get(OWNER)
        if owner is not None:
            self.gateway.call("/v3/lease/revoke", {"ID": str(owner.lease)})

    def finish(self, *words: str) -> Ended:
        """Runs to the end, which the poison keeps from being a complete one."""
        ended = self.command.run("run", "-o", "json", *words)
        assert ended.code == 3, f"{ended.code}: {ended.stdout}{ended.stderr}"
        return ended

    def through(self, endpoint: str) -> Registry:
        """The same, reached through another endpoint."""
        flags = tuple(endpoint if flag in self.cluster.endpoints else flag for flag in self.command.flags)
        return replace(self, command=replace(self.command, flags=flags))

    def assert_ended_well(self, expected: dict[str, bytes] | None = None) -> None:
        """Everything under the primary, plaintexts as they were, leases kept, poison untouched, budgets cover all."""
        found = [one for one in self.gateway.read("/registry/") if one.key not in POISON]
        assert opened(found, self.new) == (self.plaintexts if expected is None else expected)
        leased = {one.key for one in found if one.lease == self.lease}
        assert leased == {one.key for one in found if one.key.startswith("/registry/events/")}
        assert {one.version for one in self.poison()} <= {1}
        self.assert_budgets_cover()

    def poison(self) -> Sequence[Any]:
        return [one for name in POISON if (one := self.gateway.get(name)) is not None]

    def assert_budgets_cover(self) -> None:
        """For every key, what was reserved is at least what was used, by a count that the product has no part in."""
        counted = self.encrypted()
        recorded = {record["fingerprint"]: record["reserved"] for record in self.records("ledger")}
        assert counted.keys() == {self.new.fingerprint}
        assert {key: used for key, used in counted.items() if recorded.get(key, 0) < used} == {}

    def encrypted(self) -> Counter[str]:
        """How often each key has encrypted, by fingerprint."""
        return Counter(self.encryptions.read_text().split())

    def records(self, kind: str) -> list[dict[str, Any]]:
        return [json.loads(found.value) for found in self.gateway.read(f"/kube-rewrap/v1/{kind}/")]

    def assert_each_was_rewritten_once(self) -> None:
        found = [one for one in self.gateway.read("/registry/") if one.key not in POISON]
        assert {one.version for one in found} == {2}
        assert len({one.mod_revision for one in found}) == len(found)
        assert self.encrypted()[self.new.fingerprint] >= len(found)

    def assert_redone(self, ended: Ended, crashes: int) -> None:
        """What was written again by looking at it again: at most a page of each batch and crash."""
        document = ended.document
        assert document["rewritten"] + document["current"] == len(self.plaintexts)
        assert document["current"] <= crashes * self.batches * PAGE
        assert {one["key"] for one in document["quarantined"]} == set(POISON)


def prepare(
    cluster: EtcdCluster,
    directory: Path,
    objects: int = 60,
    *,
    rate: str = "0",
    resources: Sequence[str] = RESOURCES,
) -> Registry:
    """The objects are spread over `resources`; the events come besides."""
    gateway = cluster.admin()
    old, new = Key.new("aescbc", "old"), Key.new("aesgcm", "new")
    plaintexts = {
        name.replace("/secrets/", f"/{resources[number % len(resources)]}/"): value
        for number, (name, value) in enumerate(secrets(objects).items())
    }
    store(gateway, plaintexts, old)
    lease = gateway.grant_lease(3_600)
    for number in range(8):
        name = f"/registry/events/default/e{number}"
        plaintexts[name] = manifest("Event", "default", f"e{number}", str(number))
        gateway.put(name, old.seal(name, plaintexts[name]), lease)
    for name in POISON:
        gateway.put(name, b"k8s:enc:aescbc:v1:lost:" + b"x" * 64)
    file = configure(directory, new, old, IDENTITY, resources=[*resources, "events"])
    settings = write_private(directory / "settings.toml", f"[page]\nobjects = {PAGE}\n[etcd]\ncall_timeout = 3.0\n")
    encryptions = directory / "encryptions.log"
    command = replace(
        command_for(directory, cluster, file).with_flags("--settings", str(settings)),
        program=HARNESS,
        environment={"ENCRYPTIONS": str(encryptions), "REWRAP_RATE": rate},
    )
    return Registry(cluster, command, old, new, plaintexts, lease, encryptions, len(resources) + 1)
