"""What a conditional write does, whichever store takes it: all of it or nothing, and only if the condition holds."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import CommitResult, Delete, Expect, Item, Outcome, Put, Store, SwapResult
from tests.contract.conftest import Place, stored
from tests.contract.swapping import swap

pytestmark = pytest.mark.timeout(30)

SECRET = b"/registry/secrets/default/a"
ONE, TWO, THREE = (b"/kube-rewrap/v1/" + name for name in (b"one", b"two", b"three"))
OURS = KeyRange.of_prefix(b"/kube-rewrap/")


async def item_of(store: Store, key: bytes) -> Item:
    item = await store.get(key)
    assert item is not None
    return item


# ------------------------------------------------------------------------------------------------------------- swap


async def test_a_swap_of_the_version_that_was_read_is_applied(place: Place) -> None:
    item = await stored(place, SECRET)
    result = await swap(place.store, item, b"new")
    found = await item_of(place.store, SECRET)
    assert result == SwapResult(Outcome.APPLIED, item.mod_revision + 1)
    assert found == Item(SECRET, b"new", item.mod_revision + 1, 2, 0)


async def test_a_swap_after_a_foreign_write_is_lost_and_shows_what_is_there(place: Place) -> None:
    item = await stored(place, SECRET)
    newer = await stored(place, SECRET, b"theirs")
    result = await swap(place.store, item, b"ours")
    assert result.outcome is Outcome.LOST
    assert result.current == newer
    assert await item_of(place.store, SECRET) == newer


async def test_a_swap_after_a_deletion_is_lost_and_shows_nothing(place: Place) -> None:
    item = await stored(place, SECRET)
    place.delete(SECRET)
    result = await swap(place.store, item, b"ours")
    assert (result.outcome, result.current) == (Outcome.LOST, None)
    assert await place.store.get(SECRET) is None


async def test_a_swap_after_delete_and_recreate_with_equal_bytes_is_lost(place: Place) -> None:
    item = await stored(place, SECRET)
    place.delete(SECRET)
    again = await stored(place, SECRET, item.value)
    result = await swap(place.store, item, b"ours")
    assert (result.outcome, result.current) == (Outcome.LOST, again)


async def test_of_two_swaps_of_one_version_only_the_first_is_applied(place: Place) -> None:
    item = await stored(place, SECRET)
    outcomes = [(await swap(place.store, item, value)).outcome for value in (b"first", b"second")]
    assert outcomes == [Outcome.APPLIED, Outcome.LOST]
    assert (await item_of(place.store, SECRET)).value == b"first"


async def test_of_many_swaps_at_once_exactly_one_is_applied(place: Place) -> None:
    item = await stored(place, SECRET)
    results = await asyncio.gather(*(swap(place.store, item, b"%d" % number) for number in range(20)))
    applied = [number for number, result in enumerate(results) if result.outcome is Outcome.APPLIED]
    assert len(applied) == 1
    assert (await item_of(place.store, SECRET)).value == b"%d" % applied[0]


async def test_a_swap_keeps_the_lease(place: Place) -> None:
    lease = await place.store.grant_lease(60)
    item = await stored(place, SECRET, lease=lease)
    await swap(place.store, item, b"new")
    found = await item_of(place.store, SECRET)
    assert (found.value, found.lease) == (b"new", lease)
    await place.store.revoke_lease(lease)
    assert await place.store.get(SECRET) is None


async def test_a_swap_judges_by_mod_revision_alone(place: Place) -> None:
    item = await stored(place, SECRET)
    result = await swap(place.store, replace(item, value=b"something else", version=7), b"new")
    assert result.outcome is Outcome.APPLIED


# ----------------------------------------------------------------------------------------------------------- commit


async def test_a_commit_writes_all_its_records_at_one_revision(store: Store) -> None:
    before = await store.revision()
    result = await store.commit([], [Put(ONE, b"1"), Put(TWO, b"2")])
    assert result == CommitResult(Outcome.APPLIED, before + 1)
    one, two = await item_of(store, ONE), await item_of(store, TWO)
    assert (one.value, one.mod_revision) == (b"1", result.revision)
    assert (two.value, two.mod_revision) == (b"2", result.revision)


async def test_a_commit_writes_nothing_when_one_of_its_expectations_fails(store: Store) -> None:
    await store.commit([], [Put(ONE, b"1")])
    before = await store.revision()
    result = await store.commit([Expect(TWO, 0), Expect(ONE, 0)], [Put(TWO, b"2"), Delete.of_key(ONE)])
    assert result.outcome is Outcome.LOST
    assert await store.revision() == before
    assert await store.get(TWO) is None
    assert (await item_of(store, ONE)).value == b"1"


async def test_revision_zero_expects_that_the_record_does_not_exist(store: Store) -> None:
    assert (await store.commit([Expect(ONE, 0)], [Put(ONE, b"1")])).outcome is Outcome.APPLIED
    assert (await store.commit([Expect(ONE, 0)], [Put(ONE, b"2")])).outcome is Outcome.LOST
    await store.commit([], [Delete.of_key(ONE)])
    assert (await store.commit([Expect(ONE, 0)], [Put(ONE, b"3")])).outcome is Outcome.APPLIED


async def test_a_record_is_written_over_the_version_that_was_read_and_no_other(store: Store) -> None:
    first = await store.commit([], [Put(ONE, b"1")])
    second = await store.commit([Expect(ONE, first.revision)], [Put(ONE, b"2")])
    assert second.outcome is Outcome.APPLIED
    assert (await store.commit([Expect(ONE, first.revision)], [Put(ONE, b"3")])).outcome is Outcome.LOST
    assert (await item_of(store, ONE)).value == b"2"


async def test_a_guard_on_the_creation_holds_while_the_record_changes(store: Store) -> None:
    created = await store.commit([], [Put(ONE, b"1")])
    await store.commit([], [Put(ONE, b"2")])
    guard = Expect(ONE, created.revision, created=True)
    assert (await store.commit([guard], [Put(TWO, b"2")])).outcome is Outcome.APPLIED


async def test_a_guard_on_the_creation_fails_when_the_record_is_gone_or_another_one(store: Store) -> None:
    created = await store.commit([], [Put(ONE, b"1")])
    guard = Expect(ONE, created.revision, created=True)
    await store.commit([], [Delete.of_key(ONE)])
    assert (await store.commit([guard], [Put(TWO, b"2")])).outcome is Outcome.LOST
    await store.commit([], [Put(ONE, b"1")])
    assert (await store.commit([guard], [Put(TWO, b"2")])).outcome is Outcome.LOST
    assert await store.get(TWO) is None


async def test_a_creation_at_revision_zero_expects_that_the_record_does_not_exist(store: Store) -> None:
    guard = Expect(ONE, 0, created=True)
    assert (await store.commit([guard], [Put(ONE, b"1")])).outcome is Outcome.APPLIED
    assert (await store.commit([guard], [Put(ONE, b"2")])).outcome is Outcome.LOST


async def test_a_range_of_records_is_deleted_and_its_neighbours_stay(store: Store) -> None:
    neighbours = [b"/kube-rewrap/v1/batches0", b"/kube-rewrap/v1/batches"]
    batches = [b"/kube-rewrap/v1/batches/1", b"/kube-rewrap/v1/batches/2"]
    await store.commit([], [Put(key, b"x") for key in (*neighbours, *batches)])
    await store.commit([], [Delete(KeyRange.of_prefix(b"/kube-rewrap/v1/batches/"))])
    assert await store.keys(OURS, 10) == (sorted(neighbours), 0)


async def test_the_whole_state_may_be_deleted(store: Store) -> None:
    await store.commit([], [Put(ONE, b"1"), Put(TWO, b"2")])
    await store.commit([], [Delete(OURS)])
    assert await store.count(OURS) == 0


async def test_one_record_is_deleted_and_the_one_that_begins_with_its_name_stays(store: Store) -> None:
    await store.commit([], [Put(ONE, b"1"), Put(ONE + b"-and-more", b"2")])
    await store.commit([], [Delete.of_key(ONE)])
    assert await store.keys(OURS, 10) == ([ONE + b"-and-more"], 0)


# ----------------------------------------------------------------------------------------------------------- leases


async def test_a_record_on_a_lease_ends_with_it(store: Store) -> None:
    lease = await store.grant_lease(60)
    await store.commit([], [Put(ONE, b"1", lease), Put(TWO, b"2", lease), Put(THREE, b"3")])
    assert (await item_of(store, ONE)).lease == lease
    await store.revoke_lease(lease)
    assert await store.keys(OURS, 10) == ([THREE], 0)


async def test_a_lease_is_kept_until_it_is_revoked(store: Store) -> None:
    lease = await store.grant_lease(60)
    assert await store.keep_lease(lease) is True
    await store.revoke_lease(lease)
    assert await store.keep_lease(lease) is False


async def test_revoking_a_lease_twice_is_no_error(store: Store) -> None:
    lease = await store.grant_lease(60)
    await store.revoke_lease(lease)
    await store.revoke_lease(lease)


async def test_leases_are_different(store: Store) -> None:
    first, second = await store.grant_lease(60), await store.grant_lease(60)
    assert 0 not in {first, second}
    assert first != second
