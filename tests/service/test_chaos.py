"""Everything is killed again and again in the middle of campaigns: nothing is lost, nothing undone, and all is counted.

To see a failure again: `CHAOS_SEED=… pytest -m chaos tests/service`, with the seed that it names. The dice throws the
same faults at about the same moments; what the processes make of it may differ.
"""

from __future__ import annotations

import base64
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.integration.apiserver import Key
from tests.servers.etcd import EtcdCluster, EtcdOptions, EtcdVersion
from tests.servers.redis import RedisOptions, RedisServer
from tests.service.chaos import ROLES, STATE, Chaos, Size
from tests.service.harness import Daemon, service
from tests.service.writer import EVENTS

NewEtcd = Callable[[EtcdOptions], EtcdCluster]
NewRedis = Callable[[RedisOptions], RedisServer]

SEED = int(os.environ.get("CHAOS_SEED", "20261123"))
SHORT = Size(objects=400, namespaces=100, rate=90, kills=1, midway=0.0, lets_end=0.0)
LONG = Size(objects=1_600, namespaces=120, rate=150, kills=20, midway=0.06, lets_end=0.12)
HOURS = float(os.environ.get("CHAOS_HOURS", "1"))
_RATE = 10
_ONE_CAMPAIGN = Size(
    objects=int(HOURS * 3600 * _RATE), namespaces=300, rate=_RATE, kills=0, midway=0.0, lets_end=0.0, between=20.0
)
# Behind the registry, where nobody looks: the end of the history that is read.
_END = "/registry0"


@pytest.mark.timeout(180)
def test_each_part_dies_once(new_etcd: NewEtcd, new_redis: NewRedis, tmp_path: Path) -> None:
    survive(new_etcd, new_redis, tmp_path, SHORT, seed=4)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
def test_each_part_dies_twenty_times(new_etcd: NewEtcd, new_redis: NewRedis, tmp_path: Path) -> None:
    survive(new_etcd, new_redis, tmp_path, LONG, SEED)


@pytest.mark.hours
@pytest.mark.timeout(HOURS * 3 * 3600 + 1800)
def test_one_campaign_of_hours(new_etcd: NewEtcd, new_redis: NewRedis, tmp_path: Path) -> None:
    """As long as `CHAOS_HOURS` at the least: its rate gives it that long, and each kill costs some of it."""
    with under_fire(new_etcd, new_redis, tmp_path, _ONE_CAMPAIGN, SEED) as chaos:
        chaos.run_one_campaign()
        assert all(chaos.kills[role] for role in ROLES)


def survive(new_etcd: NewEtcd, new_redis: NewRedis, directory: Path, size: Size, seed: int) -> None:
    with under_fire(new_etcd, new_redis, directory, size, seed) as chaos:
        chaos.run()
        assert chaos.kills == dict.fromkeys(ROLES, size.kills)


@contextmanager
def under_fire(new_etcd: NewEtcd, new_redis: NewRedis, directory: Path, size: Size, seed: int) -> Iterator[Chaos]:
    """A service to throw faults at; afterwards, all that must hold is asserted."""
    etcd = new_etcd(EtcdOptions(version=EtcdVersion.V3_4, fsync=True))
    with service(etcd, new_redis(RedisOptions()), directory) as cluster:
        chaos = Chaos(cluster, size, seed)
        with chaos.told():
            yield chaos
            history = replay(chaos)
            assert_all_is_as_it_was_written(chaos, history)
            assert_nothing_is_left_at_work(chaos)
            assert_campaigns_ended_once(chaos)
            assert_budgets_cover(chaos, history)
            assert_logs_are_clean(chaos)


# What is stored.


@dataclass(frozen=True, slots=True)
class Event:
    """One change to the registry; `value` is None for a deletion."""

    key: str
    value: bytes | None
    lease: int


@dataclass(frozen=True, slots=True)
class History:
    """What etcd's history adds up to: plaintexts, the keys' writes by fingerprint, and those that were not foreign."""

    plaintexts: dict[str, bytes]
    written: Counter[str]
    rewritten: Counter[str]


def replay(chaos: Chaos) -> History:
    """Follows every change that there was. Whoever is not the writer may change the key, and nothing else."""
    history = History({}, Counter(), Counter())
    leases: dict[str, int] = {}
    landed: set[bytes] = set()
    deleted = 0
    for event in events(chaos.cluster.etcd):
        if event.value is None:
            del history.plaintexts[event.key]
            deleted += 1
            continue
        opened = chaos.ring.open(event.key, event.value)
        assert opened is not None, f"no key ever read {event.key}"
        key, plaintext = opened
        history.written[key.fingerprint] += 1
        if plaintext == history.plaintexts.get(event.key):
            history.rewritten[key.fingerprint] += 1
            assert event.lease == leases[event.key], f"{event.key} lost its lease"
        else:
            is_new = plaintext in chaos.writer.landed and plaintext not in landed
            assert is_new, f"nobody wrote, or long ago, what {event.key} became"
            landed.add(plaintext)
        history.plaintexts[event.key] = plaintext
        leases[event.key] = event.lease
    assert landed == chaos.writer.landed
    assert deleted == chaos.writer.deleted
    assert all(bool(lease) == key.startswith(EVENTS) for key, lease in leases.items())
    return history


def events(etcd: EtcdCluster) -> Iterator[Event]:
    """The registry's whole history, from a watch that begins with the first revision: nothing compacts this etcd."""
    etcd.admin().put(_END, b"")
    wanted = {"key": _encode("/registry/"), "range_end": _encode(_END + "\0"), "start_revision": "1"}
    with closing(HTTPConnection(urlsplit(etcd.endpoints[0]).netloc, timeout=30)) as connection:
        connection.request("POST", "/v3/watch", json.dumps({"create_request": wanted}))
        for line in connection.getresponse():
            for found in json.loads(line)["result"].get("events", []):
                event = _parse(found)
                if event.key == _END:
                    return
                yield event
    raise AssertionError("the watch ended before the history did")


def _encode(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _parse(found: dict[str, Any]) -> Event:
    fields = found["kv"]
    key = base64.b64decode(fields["key"]).decode()
    value = None if found.get("type") == "DELETE" else base64.b64decode(fields.get("value", ""))
    return Event(key, value, int(fields.get("lease", 0)))


def assert_all_is_as_it_was_written(chaos: Chaos, history: History) -> None:
    assert history.plaintexts == chaos.writer.model
    found = chaos.cluster.etcd.admin().read("/registry/")
    assert {one.key: chaos.ring.primary.open(one.key, one.value) for one in found} == chaos.writer.model


# What is on record.


def assert_nothing_is_left_at_work(chaos: Chaos) -> None:
    gateway = chaos.cluster.etcd.admin()

    def left() -> list[str]:
        return [one.key for kind in ("claims/", "proofs/", "owner") for one in gateway.read(f"{STATE}{kind}")]

    # Who ends a campaign, or a batch, gives up its locks after the record that says so.
    chaos.cluster.wait(lambda: not left(), "no claim, no part of a proof and no lock is left")
    assert [daemon.running for daemons in chaos.slots.values() for daemon in daemons] == [True] * 4


def assert_campaigns_ended_once(chaos: Chaos) -> None:
    """A kill between a record and what is said of it may swallow the line; nothing makes it come twice."""
    said = Counter(line["campaign"] for line in chaos.cluster.finished())
    listed = chaos.cluster.run("audit-log", "list", "--limit", "0").document["entries"]
    entered = Counter(entry["campaign"] for entry in listed if entry["event"] == "campaign.finished")
    assert {campaign: times for campaign, times in (said + entered).items() if said[campaign] > 1} == {}
    assert {campaign: times for campaign, times in entered.items() if times > 1} == {}
    states = {one["id"]: one["state"] for one in chaos.records("campaigns/")}
    assert [
        line for line in chaos.cluster.finished() if line["state"] != states.get(line["campaign"], line["state"])
    ] == []
    verified = chaos.cluster.run("audit-log", "verify")
    assert verified.code == 0, verified.stdout + verified.stderr


def assert_budgets_cover(chaos: Chaos, history: History) -> None:
    """No write of a key is missing from its budget, by a count that the product has no part in."""
    encrypted = encryptions(chaos)

    def faults() -> dict[str, object]:
        rows = {row["fingerprint"]: row for row in chaos.cluster.run("keys").document["keys"]}
        return {key.name: row for key in chaos.ring.keys if (row := _fault(key, rows, history, encrypted))}

    # The watch writes down what it saw about once a second.
    chaos.cluster.wait(lambda: not faults(), f"budgets that cover {history.written}, {encrypted}", seconds=30)


def _fault(key: Key, rows: dict[str, Any], history: History, encrypted: Counter[str]) -> object:
    """The budget of a key, if it is too small."""
    if key.provider != "aesgcm":
        return None
    row, name = rows[key.fingerprint], key.fingerprint
    covers = (
        row["used"] >= history.written[name]
        and row["reserved"] >= max(history.rewritten[name], encrypted[name])
        # More would hide as many writes of others.
        and row["committed"] <= history.rewritten[name]
    )
    return None if covers else row


def encryptions(chaos: Chaos) -> Counter[str]:
    """How often the service said that it used each key, by fingerprint; at least so often, for kills swallow lines."""
    keys = {
        line["campaign"]: chaos.ring.generations[line["generation"]].fingerprint
        for line in lines(chaos)
        if "campaign" in line and "generation" in line
    }
    counted: Counter[str] = Counter()
    for line in lines(chaos):
        if line["event"] == "batch.page":
            counted[keys[line["campaign"]]] += line["encryptions"]
    return counted


def lines(chaos: Chaos) -> Iterator[dict[str, Any]]:
    for daemon in chaos.cluster.daemons:
        yield from daemon.events


# What left the processes.


def assert_logs_are_clean(chaos: Chaos) -> None:
    secrets = [key.material for key in chaos.ring.keys]
    marks = [
        form
        for secret in secrets
        for form in (secret, secret.hex().encode(), base64.b64encode(secret), repr(secret)[2:-1].encode())
    ]
    for daemon in chaos.cluster.daemons:
        assert [mark for mark in marks if mark in daemon.text.encode()] == []
        assert "Traceback" not in daemon.text
        assert foreign_lines(daemon) == []


def foreign_lines(daemon: Daemon) -> list[str]:
    """What is not ours in a log; a line that was cut short by the death of its process is."""
    told = [line for line in daemon.text.splitlines(keepends=True) if line.endswith("\n")]
    return [line for line in told if not line.startswith("{") and "calling self.run()" not in line]
