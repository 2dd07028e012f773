"""`rewrap audit-log`: what a run leaves behind, and that tampering ends with 3."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace
from tests.acceptance.command import ROOT, Command, command_for
from tests.integration.apiserver import Key, configure, secrets, store
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway
from tests.servers.ports import free_ports

OLD, NEW = Key.new("aescbc", "old"), Key.new("aesgcm", "new")
HEAD = "/kube-rewrap/v1/audit-head"
ENTRY = "/kube-rewrap/v1/audit/{:012d}"


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    return etcd.admin()


@pytest.fixture
def audit(etcd: EtcdCluster, tmp_path: Path) -> Command:
    """Without any EncryptionConfiguration."""
    return Command(tmp_path, tuple(etcd.client_flags()))


@pytest.fixture
async def log(etcd: EtcdCluster) -> list[dict[str, object]]:
    """What the audit log holds: two entries each of two campaigns."""
    async with open_store(EtcdSettings(endpoints=tuple(etcd.endpoints)), "/kube-rewrap") as opened:
        writer = AuditLog(opened, Keyspace(), "rewrap run")
        words = ("campaign.planned", "c1"), ("campaign.finished", "c1"), ("campaign.planned", "c2"), ("note", "c2")
        return [(await writer.append(event, name, because="grün", objects=3)).to_json() for event, name in words]


def change(gateway: Gateway, number: int, fields: dict[str, object]) -> None:
    [item] = gateway.read(ENTRY.format(number))
    gateway.put(item.key, json.dumps({**json.loads(item.value), **fields}).encode())


def test_a_run_leaves_a_whole_log_and_its_log_lines_tell_the_same(
    etcd: EtcdCluster, gateway: Gateway, audit: Command, tmp_path: Path
) -> None:
    store(gateway, secrets(3), OLD)
    ended = command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD)).run("run", "-o", "json")
    entries = audit.json("audit-log", "list")["entries"]
    assert [(entry["event"], entry["campaign"]) for entry in entries] == [
        ("campaign.planned", ended.document["campaign"]),
        ("campaign.finished", ended.document["campaign"]),
    ]
    assert entries[1]["detail"]["state"] == "complete"
    assert re.fullmatch(r"rewrap run \S+:\d+", entries[0]["actor"])
    lines = [event for event in ended.events if event["event"] == "audit"]
    told = [{**line, "event": line["entry_event"]} for line in lines]
    assert [{name: line[name] for name in entry} for line, entry in zip(told, entries, strict=True)] == entries
    assert audit.run("audit-log", "verify").code == 0


def test_verify_says_what_there_is(audit: Command, log: list[dict[str, object]]) -> None:
    first, last = ({name: entry[name] for name in ("number", "at", "hash")} for entry in (log[0], log[3]))
    assert audit.json("audit-log", "verify") == {
        "whole": True,
        "anchored": True,
        "entries": 4,
        "first": first,
        "last": last,
        "head": {"number": 4, "hash": log[3]["hash"], "oldest": 1},
        "faults": [],
    }
    ended = audit.run("audit-log", "verify")
    assert (ended.code, ended.stdout.splitlines()[:3]) == (
        0,
        ["WHOLE: 4 entries, 1 to 4", f"first hash: {log[0]['hash']}", f"last hash:  {log[3]['hash']}"],
    )


def moment(entry: dict[str, object]) -> str:
    return str(entry["at"])[:19]


def test_the_list_can_be_narrowed(audit: Command, log: list[dict[str, object]]) -> None:
    assert audit.json("audit-log", "list") == {"entries": log, "damaged": []}
    assert audit.json("audit-log", "list", "--limit", "0")["entries"] == log
    assert audit.json("audit-log", "list", "--limit", "1")["entries"] == log[3:]
    assert audit.json("audit-log", "list", "--campaign", "c1", "--limit", "1")["entries"] == log[1:2]
    assert audit.json("audit-log", "list", "--campaign", "unknown")["entries"] == []
    lines = audit.run("audit-log", "list", "--campaign", "c1").stdout.splitlines()
    actor = str(log[0]["actor"]).split()
    assert [line.split() for line in lines] == [
        ["NUMBER", "AT", "EVENT", "CAMPAIGN", "BY", "DETAIL"],
        ["1", moment(log[0]), "campaign.planned", "c1", *actor, "because=grün,", "objects=3"],
        ["2", moment(log[1]), "campaign.finished", "c1", *actor, "because=grün,", "objects=3"],
    ]


@pytest.mark.parametrize(
    ("number", "fields", "faults"),
    [
        pytest.param(
            2, {"actor": "nobody"}, ["entry 2 was changed: its hash is not that of its fields"], id="an actor"
        ),
        pytest.param(
            2,
            {"hash": "0" * 64},
            ["entry 2 was changed: its hash is not that of its fields", "entry 3 does not follow the entry before it"],
            id="a hash",
        ),
        pytest.param(
            4,
            {"number": 3},
            [
                "the record /kube-rewrap/v1/audit/000000000004 is damaged: it holds entry 3",
                "the log ends at entry 3, and its head names 4",
            ],
            id="a number",
        ),
        pytest.param(
            1,
            {"detail": ["no mapping"]},
            [
                "the record /kube-rewrap/v1/audit/000000000001 is damaged: detail is no object with fields",
                "entry 1 is missing: entry 2 follows instead",
            ],
            id="no entry",
        ),
    ],
)
@pytest.mark.usefixtures("log")
def test_tampering_ends_with_3_and_names_every_fault(
    audit: Command, gateway: Gateway, number: int, fields: dict[str, object], faults: list[str]
) -> None:
    change(gateway, number, fields)
    document = audit.json("audit-log", "verify", code=3)
    assert (document["whole"], document["faults"]) == (False, faults)
    ended = audit.run("audit-log", "verify")
    assert ended.code == 3
    assert ended.stdout.splitlines()[1:] == [f"  {fault}" for fault in faults]


@pytest.mark.usefixtures("log")
def test_an_entry_that_was_taken_out_ends_with_3(audit: Command, gateway: Gateway) -> None:
    gateway.delete(ENTRY.format(2))
    faults = ["entry 2 is missing: entry 3 follows instead"]
    assert audit.json("audit-log", "verify", code=3)["faults"] == faults


def test_a_head_that_was_deleted_stops_what_would_overwrite_the_log(
    etcd: EtcdCluster, gateway: Gateway, audit: Command, log: list[dict[str, object]], tmp_path: Path
) -> None:
    store(gateway, secrets(3), OLD)
    gateway.delete(HEAD)
    faults = ["the head is missing, and there are entries up to 4"]
    assert audit.json("audit-log", "verify", code=3)["faults"] == faults
    ended = command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD)).run("run", "-o", "json")
    assert (ended.code, ended.error["type"]) == (1, "RecordError")
    assert "the audit log's head was deleted or set back" in ended.error["message"]
    assert audit.json("audit-log", "list")["entries"] == log


def test_a_log_whose_first_entries_fell_out_says_what_it_can_not_prove(
    gateway: Gateway, audit: Command, log: list[dict[str, object]]
) -> None:
    gateway.delete(ENTRY.format(1))
    gateway.put(HEAD, json.dumps({"v": 1, "number": 4, "hash": log[3]["hash"], "oldest": 2}).encode())
    document = audit.json("audit-log", "verify")
    assert (document["whole"], document["anchored"], document["first"]["number"]) == (True, False, 2)
    said = "Older entries were deleted: the hash in entry 2 of the entry before it can't be checked."
    assert said in audit.run("audit-log", "verify").stdout.splitlines()


def test_an_empty_log_is_whole(audit: Command) -> None:
    assert audit.run("audit-log", "verify").stdout == "The audit log has no entries yet.\n"
    document = audit.json("audit-log", "verify")
    assert (document["whole"], document["entries"], document["first"], document["last"]) == (True, 0, None, None)
    assert audit.json("audit-log", "list") == {"entries": [], "damaged": []}


@pytest.mark.skipif(shutil.which("jq") is None, reason="there is no jq")
def test_the_recipe_in_the_docs_gives_the_hash(gateway: Gateway, log: list[dict[str, object]]) -> None:
    [program] = re.findall(r"jq -jcaS '(.+)' \| sha256sum", (ROOT / "docs/audit-log.md").read_text())
    for entry in log:
        [item] = gateway.read(ENTRY.format(entry["number"]))
        canonical = subprocess.run(
            ["jq", "-jcaS", program],  # noqa: S607 - wherever it is
            input=item.value,
            capture_output=True,
            check=True,
            timeout=10,
        ).stdout
        digest = subprocess.run(["sha256sum"], input=canonical, capture_output=True, check=True, timeout=10)  # noqa: S607
        assert digest.stdout.split()[0].decode() == entry["hash"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["audit-log"], "VERB"),
        (["audit-log", "frob"], "is none of"),
        (["audit-log", "list", "--limit", "many"], "--limit"),
        (["audit-log", "list", "--limit", "-1"], "--limit: is below 0"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_ends_with_2(audit: Command, words: list[str], said: str) -> None:
    ended = Command(audit.directory).run(*words, "-o", "json")
    assert ended.code == 2
    assert said in ended.error["message"]


def test_an_etcd_that_is_not_there_ends_with_5(tmp_path: Path) -> None:
    [port] = free_ports(1)
    settings = tmp_path / "settings.toml"
    settings.write_text("[etcd]\nconnect_timeout = 0.5\n")
    flags = ("--endpoints", f"http://127.0.0.1:{port}", "--settings", str(settings))
    assert Command(tmp_path, flags).json("audit-log", "verify", code=5)["error"]["type"] == "UnavailableError"
