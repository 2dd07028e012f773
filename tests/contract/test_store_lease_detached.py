"""What happens to a record's lease, and to the revision, when nothing but that changes."""

from __future__ import annotations

from kube_rewrap.worker.etcd.store import Delete, Put
from tests.contract.conftest import Place

ONE = b"/kube-rewrap/v1/one"


async def test_a_record_written_again_without_its_lease_outlives_it(place: Place) -> None:
    lease = await place.store.grant_lease(60)
    await place.store.commit([], [Put(ONE, b"1", lease)])
    await place.store.commit([], [Put(ONE, b"2")])
    await place.store.revoke_lease(lease)
    item = await place.store.get(ONE)
    assert item is not None
    assert item.lease == 0


async def test_a_commit_that_changes_nothing_leaves_the_revision(place: Place) -> None:
    before = await place.store.revision()
    await place.store.commit([], [Delete.of_key(ONE)])
    assert await place.store.revision() == before
