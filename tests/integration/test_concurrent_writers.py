"""A stand-in for kube-apiservers keeps changing objects while a run is at work: not one of its writes is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import IDENTITY, Key, configure, opened, secrets, store
from tests.integration.blind_writer import Writer, assert_values
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway

OLD, NEW = Key.new("aescbc", "old"), Key.new("secretbox", "new")
OBJECTS = 300


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
        before = writer.writes
        ended = rewrap.run("run", "-o", "json", "--rate", "150")
        # Two seconds at least, in which it writes as fast as it can.
        assert writer.writes > before + 40
    assert ended.code in {0, 3}, ended.stderr
    assert ended.document["quarantined"] == []
    assert ended.document["conflicts"] > 0 or OLD not in keys
    assert_values(gateway, expected, (OLD, NEW, IDENTITY))
    last = rewrap.json("run", "--rate", "0")
    assert last["state"] == "complete"
    assert opened(gateway.read("/registry/"), NEW) == expected


def test_a_late_write_behind_the_cursor_is_found_by_the_proof_and_swept(rewrap: Command, gateway: Gateway) -> None:
    first = next(iter(secrets(1)))
    with rewrap.start("run", "-o", "json", "--rate", "50") as running:
        running.wait_for_event("batch.page", times=2)
        gateway.put(first, OLD.seal(first, secrets(1)[first]))
        ended = running.end()
    assert ended.code == 0, ended.stderr
    assert (ended.document["state"], ended.document["rewritten"]) == ("complete", OBJECTS + 1)
    assert "sweep" in {event.get("step") for event in ended.events}
    assert opened(gateway.read("/registry/"), NEW) == secrets(OBJECTS)
