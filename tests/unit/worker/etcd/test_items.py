"""What a read of a whole range of records costs etcd, by the keys in the ranges of its requests."""

from __future__ import annotations

import pytest

from kube_rewrap.worker.etcd.items import read_items
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Page
from kube_rewrap.worker.records.keyspace import Keyspace
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.timeout(60)

SPACE = Keyspace()


class Visited(MemoryStore):
    """Adds up the keys in the ranges of the requests for pages: etcd visits each of them, whatever the limit."""

    visits = 0

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        self.visits += await self.count(keys)
        return await super().page(keys, limit, revision=revision, since=since)


async def visits_of(count: int) -> float:
    """Return how often etcd visits each of as many entries of the audit log, which are read as of one revision."""
    store = Visited()
    for number in range(1, count + 1):
        store.put(SPACE.audit_entry(number), b"x")
    found = [item.key async for item in read_items(store, SPACE.audit, revision=await store.revision())]
    assert found == [SPACE.audit_entry(number) for number in range(1, count + 1)]
    return store.visits / count


async def test_etcd_visits_a_record_no_more_often_when_there_are_more_records() -> None:
    assert await visits_of(12_000) <= 1.2 * await visits_of(3_000)
