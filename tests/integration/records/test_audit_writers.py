"""Many writers of the audit log on a real etcd, each with a connection of its own."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.audit_chain import Entry, find_faults
from kube_rewrap.worker.records.keyspace import Keyspace
from tests.servers.etcd import EtcdCluster

WRITERS, EACH = 6, 10


async def test_writers_that_say_the_same_at_once_are_all_heard_and_whoever_reads_finds_it_whole(
    etcd_any: EtcdCluster,
) -> None:
    settings = EtcdSettings(endpoints=tuple(etcd_any.endpoints))
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_store(settings, "/kube-rewrap")) for _ in range(WRITERS)]
        logs = [AuditLog(store, Keyspace(), "the same") for store in stores]
        done = asyncio.Event()

        async def write(log: AuditLog) -> list[Entry]:
            return [await log.append("same", "c") for _ in range(EACH)]

        async def read() -> int:
            looks = 0
            while not done.is_set():
                found = await logs[0].snapshot()
                assert find_faults(found.entries, found.head) == []
                looks += 1
            return looks

        reading = asyncio.create_task(read())
        written = await asyncio.gather(*map(write, logs))
        done.set()
        assert await reading > 0
        found = await logs[0].snapshot()
    entries = sorted((entry for mine in written for entry in mine), key=lambda entry: entry.number)
    assert list(found.entries) == entries
    assert [entry.number for entry in entries] == list(range(1, WRITERS * EACH + 1))
    assert find_faults(found.entries, found.head) == []
