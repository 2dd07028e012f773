"""`rewrap run --processes N`: several processes share one run's work and limits, and stop with it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import Command, Running, command_for, log_events
from tests.integration.apiserver import Key, configure, opened, secrets, store, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway

OLD, NEW = Key.new("aescbc", "old"), Key.new("aesgcm", "new")
OBJECTS = 400
RUN = ("run", "-o", "json", "--processes", "2")
SLOW = (*RUN, "--rate", "90")
OWNER = "/kube-rewrap/v1/owner"
SETTINGS = "[page]\nobjects = 20\n[budget]\nblock = 20\n"


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    """Objects in two resources, so that there are batches for both processes."""
    gateway = etcd.admin()
    store(gateway, objects(), OLD)
    return gateway


@pytest.fixture
def rewrap(etcd: EtcdCluster, gateway: Gateway, tmp_path: Path) -> Command:
    file = configure(tmp_path, NEW, OLD, resources=["secrets", "configmaps"])
    settings = write_private(tmp_path / "settings.toml", SETTINGS)
    return command_for(tmp_path, etcd, file).with_flags("--settings", str(settings))


def objects() -> dict[str, bytes]:
    half = secrets(OBJECTS // 2)
    return half | {name.replace("/secrets/", "/configmaps/"): value for name, value in half.items()}


def children(events: list[dict[str, Any]]) -> list[int]:
    return [event["child"] for event in events if event["event"] == "child.started"]


def begun(running: Running) -> list[int]:
    """The children of a run, once both have worked."""
    running.wait_for_event("child.started", times=2)
    running.wait_for_event("batch.page", times=2)
    return children(log_events(running.stderr))


def wait_until_gone(*pids: int) -> None:
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def wait_until_over(*pids: int) -> None:
    """Until they are gone, or wait for their parent."""
    stats = [Path(f"/proc/{pid}/stat") for pid in pids]
    wait_until(lambda: all(not one.exists() or one.read_text().rpartition(")")[2].split()[0] == "Z" for one in stats))


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_two_processes_do_what_one_does(rewrap: Command, gateway: Gateway) -> None:
    ended = rewrap.run(*RUN, "--rate", "0")
    document = ended.document
    assert (ended.code, document["state"], document["rewritten"]) == (0, "complete", OBJECTS)
    assert (document["encryptions"], document["conflicts"]) == (OBJECTS, 0)
    assert len(set(children(ended.events))) == 2
    wait_until_gone(*children(ended.events))
    assert opened(gateway.read("/registry/"), NEW) == objects()
    assert {found.version for found in gateway.read("/registry/")} == {2}
    [budget] = [key for key in rewrap.json("keys", "--no-scan")["keys"] if key["fingerprint"] == NEW.fingerprint]
    assert (budget["reserved"], budget["committed"]) == (OBJECTS, OBJECTS)


def test_the_rate_is_one_for_all(rewrap: Command) -> None:
    document = rewrap.json("run", "--processes", "2", "--rate", "200")
    # Each process may begin with a twentieth of a second's worth.
    assert document["seconds"] > (OBJECTS - 200 / 20) / 200


def test_one_batch_has_the_whole_rate(etcd: EtcdCluster, tmp_path: Path) -> None:
    """Each child has a share of it; so there is no child without work."""
    store(etcd.admin(), secrets(OBJECTS), OLD)
    rewrap = command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD))
    ended = rewrap.run("run", "-o", "json", "--processes", "4", "--rate", "100")
    assert (ended.document["state"], len(children(ended.events))) == ("complete", 1)
    assert ended.document["seconds"] < 4 * OBJECTS / 100


def test_the_last_child_at_work_has_the_whole_rate(etcd: EtcdCluster, tmp_path: Path) -> None:
    """One of two batches is done at once: from then on, half of the rate would take twice as long."""
    many = secrets(OBJECTS)
    [few, *_] = [(name.replace("/secrets/", "/configmaps/"), value) for name, value in many.items()]
    store(etcd.admin(), many | dict([few]), OLD)
    rewrap = command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD, resources=["secrets", "configmaps"]))
    with rewrap.start(*RUN, "--rate", "80") as running:
        running.wait_for_event("child.started", times=2)
        since = time.monotonic()
        running.wait_for_event("batch.finished", times=2)
        seconds = time.monotonic() - since
        assert running.end().code == 0
    assert seconds < 1.5 * OBJECTS / 80


def test_a_killed_child_is_replaced(rewrap: Command, gateway: Gateway) -> None:
    with rewrap.start(*SLOW) as running:
        killed, _ = begun(running)
        os.kill(killed, signal.SIGKILL)
        ended = running.end()
    assert (ended.code, ended.document["state"]) == (0, "complete"), ended.stderr
    assert [event["because"] for event in ended.events if event["event"] == "child.ended"] == [
        "it ended with exit code -9"
    ]
    assert len(set(children(ended.events))) == 3
    assert opened(gateway.read("/registry/"), NEW) == objects()
    assert {found.version for found in gateway.read("/registry/")} == {2}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=lambda number: number.name)
def test_children_end_with_their_run_and_the_next_one_resumes(
    rewrap: Command, gateway: Gateway, number: signal.Signals
) -> None:
    with rewrap.start(*SLOW) as running:
        pids = begun(running)
        running.send(number)
        ended = running.end()
    assert ended.code == (3 if number is signal.SIGINT else -signal.SIGKILL)
    wait_until_gone(*pids)
    plaintexts = opened(gateway.read("/registry/"), NEW).values()
    assert 0 < sum(plaintext is not None for plaintext in plaintexts) < OBJECTS
    document = rewrap.json("run", "--rate", "0", "--wait")
    assert (document["state"], document["rewritten"]) == ("complete", OBJECTS)
    assert opened(gateway.read("/registry/"), NEW) == objects()


@pytest.mark.chaos
def test_children_stop_before_the_lock_of_a_stopped_run_ends(rewrap: Command, gateway: Gateway) -> None:
    """Of a run that goes on too late, too: its lock may be another's by then."""
    with rewrap.start(*RUN, "--rate", "20") as running:
        pids = begun(running)
        running.send(signal.SIGSTOP)
        wait_until_over(*pids)
        assert gateway.get(OWNER) is not None
        before = gateway.read("/registry/")
        wait_until(lambda: gateway.get(OWNER) is None)
        assert gateway.read("/registry/") == before
        running.send(signal.SIGCONT)
        ended = running.end()
    assert (ended.code, ended.error["type"]) == (4, "FencedError"), ended.stderr
    assert gateway.read("/registry/") == before
    assert rewrap.json("run", "--rate", "0")["state"] == "complete"
    assert {found.version for found in gateway.read("/registry/")} == {2}


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_run_whose_campaign_is_cancelled_ends_as_incomplete(
    rewrap: Command, etcd: EtcdCluster, gateway: Gateway, processes: str
) -> None:
    control = replace(rewrap, flags=tuple(etcd.client_flags()))
    with rewrap.start("run", "-o", "json", "--processes", processes, "--rate", "90") as running:
        running.wait_for_event("batch.page")
        [campaign] = [one["campaign"] for one in log_events(running.stderr) if one["event"] == "batch.page"][:1]
        assert control.run("campaign", "cancel", campaign).code == 0
        ended = running.end()
    assert (ended.code, ended.error["type"]) == (3, "StoppedError"), ended.stderr
    assert f"{campaign} is cancelled" in ended.error["message"]
    assert gateway.get(OWNER) is None


def test_an_error_of_a_child_ends_the_run(rewrap: Command, gateway: Gateway) -> None:
    with rewrap.start(*SLOW) as running:
        pids = begun(running)
        [record] = [found for found in gateway.read("/kube-rewrap/v1/ledger/") if NEW.fingerprint in found.key]
        gateway.put(record.key, b"{")
        ended = running.end()
    assert (ended.code, ended.error["type"]) == (1, "RecordError"), ended.stderr
    wait_until_gone(*pids)


@pytest.mark.parametrize("count", ["-1", "65"])
def test_a_number_out_of_range_is_refused(rewrap: Command, count: str) -> None:
    ended = rewrap.run("run", "-o", "json", "--processes", count)
    assert (ended.code, "--processes" in ended.error["message"]) == (2, True)


def test_a_child_that_stalls_past_its_lease_is_replaced(rewrap: Command, gateway: Gateway) -> None:
    """SIGSTOP and, after its claims are lost, SIGCONT: it writes nothing more, and the run goes on without it."""
    with rewrap.start(*SLOW) as running:
        stopped, _ = begun(running)
        os.kill(stopped, signal.SIGSTOP)
        time.sleep(12)
        os.kill(stopped, signal.SIGCONT)
        ended = running.end()
    assert (ended.code, ended.document["state"]) == (0, "complete"), ended.stderr
    assert len(set(children(ended.events))) == 3
    wait_until_gone(stopped)
    assert opened(gateway.read("/registry/"), NEW) == objects()
    assert {found.version for found in gateway.read("/registry/")} == {2}


def test_a_child_that_is_asked_to_stop_ends_the_run_in_order(rewrap: Command, gateway: Gateway) -> None:
    """As a service manager does, which signals every process of a unit."""
    with rewrap.start(*SLOW) as running:
        pids = begun(running)
        os.kill(pids[0], signal.SIGTERM)
        ended = running.end()
    assert (ended.code, ended.error["type"]) == (3, "StoppedError"), ended.stderr
    wait_until_gone(*pids)
    plaintexts = opened(gateway.read("/registry/"), NEW).values()
    [budget] = [key for key in rewrap.json("keys", "--no-scan")["keys"] if key["fingerprint"] == NEW.fingerprint]
    assert budget["committed"] == sum(plaintext is not None for plaintext in plaintexts)


def test_a_child_that_finds_another_file_does_no_work(rewrap: Command, tmp_path: Path) -> None:
    with rewrap.start(*SLOW) as running:
        killed, _ = begun(running)
        configure(tmp_path, Key.new("aesgcm", "newer"), NEW, OLD, resources=["secrets", "configmaps"])
        os.kill(killed, signal.SIGKILL)
        ended = running.end()
    assert (ended.code, ended.error["type"]) == (4, "FencedError"), ended.stderr
    assert "the file changed since the run began" in ended.error["message"]
