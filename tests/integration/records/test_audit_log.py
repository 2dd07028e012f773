"""The audit log: no entry is doubled or lost, and none can be changed unnoticed."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.store import Outcome
from kube_rewrap.worker.records import audit
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.audit_chain import BEGINNING, Entry, Head, find_faults
from kube_rewrap.worker.records.keyspace import Keyspace
from tests.fakes.store import MemoryStore
from tests.servers.etcd import EtcdCluster

SPACE = Keyspace()


async def written(count: int, store: MemoryStore) -> tuple[list[Entry], Head]:
    log = AuditLog(store, SPACE, "test")
    for number in range(count):
        await log.append("campaign.planned", f"c{number}", because="a sentence", objects=number)
    return [entry async for entry in log.entries()], await log.head()


async def test_entries_follow_each_other() -> None:
    entries, head = await written(3, MemoryStore())
    assert [entry.number for entry in entries] == [1, 2, 3]
    assert [entry.previous for entry in entries] == [BEGINNING, entries[0].hash, entries[1].hash]
    assert head == Head(3, entries[2].hash, 1)
    assert find_faults(entries, head) == []


async def test_the_newest_entries_are_read_alone_the_newest_first(etcd: EtcdCluster) -> None:
    async with open_store(EtcdSettings(endpoints=tuple(etcd.endpoints)), "/kube-rewrap") as store:
        log = AuditLog(store, SPACE, "test")
        assert await log.newest(3) == ()
        for number in range(5):
            await log.append("campaign.planned", f"c{number}")
        assert [entry.number for entry in await log.newest(3)] == [5, 4, 3]
        assert [entry.number for entry in await log.newest(9)] == [5, 4, 3, 2, 1]


def test_an_empty_log_is_whole() -> None:
    assert find_faults([], Head()) == []


@pytest.mark.parametrize(
    "change",
    [
        {"at": "2000-01-01"},
        {"event": "other"},
        {"campaign": "other"},
        {"actor": "other"},
        {"detail": {"because": "another sentence"}},
        {"previous": "0" * 64},
    ],
    ids=lambda change: next(iter(change)),
)
async def test_an_entry_that_was_changed_is_found(change: dict[str, object]) -> None:
    entries, head = await written(3, MemoryStore())
    changed = replace(entries[1], **change)  # type: ignore[arg-type]
    assert "entry 2 was changed: its hash is not that of its fields" in find_faults(
        [entries[0], changed, entries[2]], head
    )
    resealed = changed.sealed()
    assert "entry 3 does not follow the entry before it" in find_faults([entries[0], resealed, entries[2]], head)


async def test_an_entry_that_is_missing_is_found() -> None:
    entries, head = await written(3, MemoryStore())
    assert find_faults([entries[0], entries[2]], head)[0] == "entry 2 is missing: entry 3 follows instead"
    assert find_faults(entries[:2], head) == ["the log ends at entry 2, and its head names 3"]
    assert find_faults(entries, replace(head, hash=BEGINNING)) == ["the head's hash is not that of entry 3"]


async def test_an_answer_that_was_lost_doubles_nothing() -> None:
    fates = iter([Outcome.UNKNOWN, None, Outcome.UNKNOWN])
    store = MemoryStore(lambda _kind, key: next(fates, None) if key == SPACE.audit_head else None)
    entries, head = await written(3, store)
    assert [entry.campaign for entry in entries] == ["c0", "c1", "c2"]
    assert find_faults(entries, head) == []


async def test_what_falls_out_is_deleted_and_the_rest_is_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "KEPT", 4)
    entries, head = await written(10, MemoryStore())
    assert [entry.number for entry in entries] == [7, 8, 9, 10]
    assert head.oldest == 7
    assert find_faults(entries, head) == []


async def test_several_writers_at_once_lose_nothing_on_etcd(etcd: EtcdCluster) -> None:
    async with open_store(EtcdSettings(endpoints=tuple(etcd.endpoints)), "/kube-rewrap") as store:
        logs = [AuditLog(store, SPACE, f"writer {number}") for number in range(4)]
        await asyncio.gather(*(log.append("e", f"c{number}") for number in range(5) for log in logs))
        entries = [entry async for entry in logs[0].entries()]
        head = await logs[0].head()
    assert len(entries) == 20
    assert find_faults(entries, head) == []
