"""A run that is stopped, killed or met by another one: nothing is lost, the next run goes on with its campaign."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import Key, configure, opened, secrets, store, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway

OLD, NEW = Key.new("aescbc", "old"), Key.new("aesgcm", "new")
OBJECTS = 300
OWNER = "/kube-rewrap/v1/owner"
CAMPAIGNS = "/kube-rewrap/v1/campaigns/"
# Slow enough to be met at work, in the second page of a few; most are stopped there, so this costs little time.
SLOW = ("run", "-o", "json", "--rate", "45")
FAST = ("run", "--rate", "0")


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    gateway = etcd.admin()
    store(gateway, secrets(OBJECTS), OLD)
    return gateway


@pytest.fixture
def rewrap(etcd: EtcdCluster, gateway: Gateway, tmp_path: Path) -> Command:
    return short_pages(command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD)))


def short_pages(command: Command) -> Command:
    return command.with_flags(
        "--settings", str(write_private(command.directory / "settings.toml", "[page]\nobjects = 30\n"))
    )


def campaigns(gateway: Gateway) -> dict[str, str]:
    """The state of each campaign on record."""
    return {record["id"]: record["state"] for record in (json.loads(found.value) for found in gateway.read(CAMPAIGNS))}


def rewritten(gateway: Gateway) -> int:
    return sum(plaintext is not None for plaintext in opened(gateway.read("/registry/"), NEW).values())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_stopped_run_is_resumed_by_the_next(rewrap: Command, gateway: Gateway, number: signal.Signals) -> None:
    with rewrap.start(*SLOW) as running:
        running.wait_for_event("batch.page")
        running.send(number)
        ended = running.end()
    assert (ended.code, ended.error["code"], ended.error["type"]) == (3, 3, "StoppedError")
    assert number.name in ended.error["message"]
    assert gateway.get(OWNER) is None
    assert 0 < rewritten(gateway) < OBJECTS
    [(campaign, state)] = campaigns(gateway).items()
    assert state == "running"

    assert rewrap.json("run", "--dry-run")["resumes"] == campaign
    document = rewrap.json(*FAST)
    # A stop finishes what it began, so the second run finds nothing that the first one did not count.
    assert (document["campaign"], document["state"], document["rewritten"]) == (campaign, "complete", OBJECTS)
    assert (document["current"], document["encryptions"]) == (0, OBJECTS)
    assert campaigns(gateway) == {campaign: "complete"}
    assert opened(gateway.read("/registry/"), NEW) == secrets(OBJECTS)
    assert {found.version for found in gateway.read("/registry/")} == {2}


def test_reserved_writes_beyond_the_objects_are_explained_below_the_table(rewrap: Command) -> None:
    with rewrap.start(*SLOW) as running:
        running.wait_for_event("batch.page")
        running.send(signal.SIGKILL)
        running.end()
    [new] = [key for key in rewrap.json("keys", "--no-scan")["keys"] if key["fingerprint"] == NEW.fingerprint]
    unused, reserved = new["reserved"] - new["committed"], new["reserved"]
    assert unused > 0
    sentence = f"new: for {unused} of its {reserved} reserved writes no written object is on record: "
    assert sentence in rewrap.run("keys", "--no-scan").stdout


def test_a_second_signal_ends_at_once(rewrap: Command, gateway: Gateway) -> None:
    # So slow that what is in flight waits for its turn for seconds.
    with rewrap.start(*SLOW[:-1], "5") as running:
        running.wait_for_event("campaign.step")
        running.send(signal.SIGINT)
        running.send(signal.SIGTERM)
        ended = running.end()
    assert (ended.code, ended.stdout) == (130, "")  # a run that finishes what is in flight ends with 3
    # It had no time to give its lock back: the lock ends with its lease.
    owner = gateway.get(OWNER)
    assert owner is not None
    assert rewrap.run("run", "-o", "json").error["type"] == "BusyError"
    gateway.call("/v3/lease/revoke", {"ID": str(owner.lease)})
    document = rewrap.json(*FAST)
    assert document["state"] == "complete"
    assert opened(gateway.read("/registry/"), NEW) == secrets(OBJECTS)


@pytest.mark.chaos
def test_the_lock_of_a_killed_run_ends_by_itself(rewrap: Command, gateway: Gateway) -> None:
    with rewrap.start(*SLOW) as running:
        running.wait_for_event("batch.page")
        running.send(signal.SIGKILL)
        assert running.end().code == -signal.SIGKILL
    assert rewrap.json(*FAST, "--wait")["state"] == "complete"
    assert opened(gateway.read("/registry/"), NEW) == secrets(OBJECTS)


def test_a_second_run_names_the_first_or_waits_for_it(rewrap: Command, gateway: Gateway) -> None:
    with rewrap.start(*SLOW[:-1], "150") as first:
        first.wait_for_event("batch.page")
        first.send(signal.SIGSTOP)  # for much less than its lock lasts
        refused = rewrap.run("run", "-o", "json")
        assert (refused.code, refused.error["type"]) == (4, "BusyError")
        assert f"pid {first.pid}," in refused.error["message"]
        with rewrap.start("run", "-o", "json", "--wait") as second:
            second.wait_for_event("lock.waiting")
            first.send(signal.SIGCONT)
            assert first.end().code == 0
            waited = second.end()
    assert waited.code == 0, waited.stderr
    assert (waited.document["state"], waited.document["encryptions"]) == ("complete", 0)
    assert opened(gateway.read("/registry/"), NEW) == secrets(OBJECTS)
    assert {found.version for found in gateway.read("/registry/")} == {2}


def test_a_run_that_waits_can_be_stopped(rewrap: Command, gateway: Gateway) -> None:
    gateway.put(OWNER, b'{"v": 1, "command": "rewrap run", "host": "elsewhere", "pid": 1, "since": "today"}')
    with rewrap.start("run", "-o", "json", "--wait") as running:
        running.wait_for_event("lock.waiting")
        running.send(signal.SIGINT)
        ended = running.end()
    assert (ended.code, ended.error["type"]) == (3, "StoppedError")
    assert rewritten(gateway) == 0


def test_a_run_that_loses_its_lock_stops_and_writes_no_record(rewrap: Command, gateway: Gateway) -> None:
    with rewrap.start(*SLOW) as running:
        running.wait_for_event("batch.page")
        gateway.delete(OWNER)
        before = gateway.read(CAMPAIGNS)
        ended = running.end()
    assert (ended.code, ended.error["code"]) == (4, 4)
    assert gateway.read(CAMPAIGNS) == before
    assert rewrap.json(*FAST)["state"] == "complete"
    assert opened(gateway.read("/registry/"), NEW) == secrets(OBJECTS)


def test_a_run_whose_campaign_a_scheduler_adopts_ends_as_refused(rewrap: Command, gateway: Gateway) -> None:
    """In the middle of its last batch, too: the proof is the scheduler's."""
    with rewrap.start(*SLOW) as running:
        running.wait_for_event("batch.page")
        [found] = gateway.read(CAMPAIGNS)
        adopted = {**json.loads(found.value), "generation": "sha256:" + "2" * 64}
        gateway.put(found.key, json.dumps(adopted).encode())
        ended = running.end()
    assert (ended.code, ended.error["code"], ended.error["type"]) == (4, 4, "FencedError")
    assert list(campaigns(gateway).values()) == ["proving"]
    assert gateway.get(OWNER) is None
    assert rewrap.json(*FAST)["state"] == "complete"


def test_another_configuration_supersedes_the_unfinished_campaign(
    rewrap: Command, etcd: EtcdCluster, gateway: Gateway, tmp_path: Path
) -> None:
    with rewrap.start(*SLOW) as running:
        running.wait_for_event("batch.page")
        running.send(signal.SIGINT)
        assert running.end().code == 3
    [first] = campaigns(gateway)
    newer = Key.new("secretbox", "newer")
    other = short_pages(command_for(tmp_path, etcd, configure(tmp_path, newer, NEW, OLD, name="newer.json")))
    document = other.json(*FAST)
    assert campaigns(gateway) == {first: "superseded", document["campaign"]: "complete"}
    assert document["rewritten"] == OBJECTS
    assert opened(gateway.read("/registry/"), newer) == secrets(OBJECTS)


def test_verify_says_that_a_campaign_is_unfinished(rewrap: Command) -> None:
    with rewrap.start(*SLOW) as running:
        running.wait_for_event("batch.page")
        running.send(signal.SIGINT)
        assert running.end().code == 3
    document = rewrap.json("verify", code=3)
    assert 0 < document["stale"] < OBJECTS
    assert all("a campaign is unfinished" in key["blockers"] for key in document["keys"])
    assert not any(key["removable"] for key in document["keys"])
