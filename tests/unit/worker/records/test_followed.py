"""What a look at followed records reads, and what it misses until all are read again."""

from __future__ import annotations

import pytest

from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Delete, Page
from kube_rewrap.worker.records.batch import BatchSpec, Checkpoint
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.followed import Followed
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.table import Stored
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.timeout(20)

SPACE = Keyspace()


class Sending(MemoryStore):
    """Counts the items in its answers."""

    sent = 0

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        page = await super().page(keys, limit, revision=revision, since=since)
        self.sent += len(page.items)
        return page


def checkpoint(number: int) -> Checkpoint:
    return Checkpoint(
        spec=BatchSpec(campaign="c", number=number, resource="secrets", range=KeyRange(b"a", b"b"), generation="g")
    )


async def filled(count: int) -> tuple[Sending, Checkpoints]:
    store = Sending()
    checkpoints = Checkpoints(store, SPACE)
    await checkpoints.create(map(checkpoint, range(count)))
    return store, checkpoints


async def test_a_look_reads_what_was_written_since_the_last_one_and_returns_all() -> None:
    store, checkpoints = await filled(1_000)
    followed = Followed(checkpoints.changed)
    assert len(await followed.look("c")) == store.sent == 1_000
    for number in (7, 700):
        await checkpoints.save(followed[number].holding(checkpoint(number).advanced(b"k", BatchReport(objects=number))))
    seen = await followed.look("c")
    assert [one.spec.number for one in seen] == list(range(1_000))
    assert BatchReport.total(one.report for one in seen).objects == 707
    assert store.sent == 1_002
    assert await followed.look("c") == seen
    assert store.sent == 1_002


async def test_a_deleted_record_is_seen_until_all_are_read_again() -> None:
    store, checkpoints = await filled(3)
    followed = Followed(checkpoints.changed)
    await followed.look("c")
    await store.commit([], [Delete.of_key(SPACE.batch("c", 1))])
    assert [one.spec.number for one in await followed.look("c")] == [0, 1, 2]
    followed.forget()
    assert [one.spec.number for one in await followed.look("c")] == [0, 2]


async def test_a_record_is_adopted_with_the_one_that_was_seen_before() -> None:
    _, checkpoints = await filled(1)
    before: list[Stored[Checkpoint] | None] = []

    def adopt(read: Stored[Checkpoint], seen: Stored[Checkpoint] | None) -> Stored[Checkpoint]:
        before.append(seen)
        return read

    followed = Followed(checkpoints.changed, adopt)
    await followed.look("c")
    first = followed[0]
    await checkpoints.save(first)
    await followed.look("c")
    assert before == [None, first]


def test_the_total_of_reports_is_their_sum() -> None:
    reports = [BatchReport(objects=number, rewritten=1, bytes=7, fresh=number) for number in range(9)]
    assert BatchReport.total(reports) == sum(reports, BatchReport())
    assert BatchReport.total(()) == BatchReport()
