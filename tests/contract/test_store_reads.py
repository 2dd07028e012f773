"""What a caller may conclude from a read, whichever store answers."""

from __future__ import annotations

import pytest

from kube_rewrap.worker.errors import CompactedError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Stamp, Store
from tests.contract.conftest import Place, stored

pytestmark = pytest.mark.timeout(30)

SECRETS = KeyRange.of_prefix(b"/registry/secrets/")
NAMES = [b"/registry/secrets/default/a", b"/registry/secrets/default/b", b"/registry/secrets/kube-system/c"]
NEIGHBOURS = [b"/registry/secrets", b"/registry/secretsfoo/default/x", b"/registry/secret/default/y"]


def fill(place: Place) -> None:
    for key in [*NAMES, *NEIGHBOURS]:
        place.put(key, b"value of " + key)


async def test_a_key_that_was_never_written_is_none(store: Store) -> None:
    assert await store.get(b"/registry/secrets/default/a") is None


async def test_a_key_is_read_with_value_versions_and_lease(place: Place) -> None:
    first = await stored(place, NAMES[0], b"one")
    second = await stored(place, NAMES[0], b"two")
    assert (first.key, first.value, first.version, first.lease) == (NAMES[0], b"one", 1, 0)
    assert (second.value, second.version) == (b"two", 2)
    assert second.mod_revision == first.mod_revision + 1


async def test_a_deleted_key_is_none_and_starts_over_when_it_comes_back(place: Place) -> None:
    before = await stored(place, NAMES[0])
    place.delete(NAMES[0])
    assert await place.store.get(NAMES[0]) is None
    again = await stored(place, NAMES[0])
    assert again.version == 1
    assert again.mod_revision == before.mod_revision + 2


async def test_a_page_holds_the_range_in_key_order_and_nothing_beside_it(place: Place) -> None:
    fill(place)
    page = await place.store.page(SECRETS, 10)
    assert [item.key for item in page.items] == NAMES
    assert [item.value for item in page.items] == [b"value of " + key for key in NAMES]
    assert not page.more
    assert page.revision == await place.store.revision()


@pytest.mark.parametrize(("limit", "more"), [(1, True), (2, True), (3, False), (4, False)])
async def test_a_page_is_cut_at_its_limit_and_says_whether_there_is_more(place: Place, limit: int, more: bool) -> None:
    fill(place)
    page = await place.store.page(SECRETS, limit)
    assert [item.key for item in page.items] == NAMES[:limit]
    assert (page.more, page.left) == (more, max(0, 3 - limit))


async def test_the_page_of_an_empty_range_is_empty(store: Store) -> None:
    page = await store.page(SECRETS, 10)
    assert (page.items, page.more) == ((), False)


async def test_the_bytes_of_a_page_are_those_of_its_keys_and_values(place: Place) -> None:
    place.put(b"/registry/secrets/a", b"12345")
    assert (await place.store.page(SECRETS, 10)).bytes == len(b"/registry/secrets/a") + 5


async def test_a_pinned_page_shows_the_store_as_it_was(place: Place) -> None:
    fill(place)
    pinned = await place.store.revision()
    place.put(NAMES[0], b"changed")
    place.delete(NAMES[1])
    place.put(b"/registry/secrets/zz/new", b"new")
    page = await place.store.page(SECRETS, 10, revision=pinned)
    assert [(item.key, item.value) for item in page.items] == [(key, b"value of " + key) for key in NAMES]
    now = await place.store.page(SECRETS, 10)
    assert [item.key for item in now.items] == [NAMES[0], NAMES[2], b"/registry/secrets/zz/new"]


async def test_a_pinned_page_that_was_compacted_away_says_so(place: Place) -> None:
    fill(place)
    pinned = await place.store.revision()
    place.put(NAMES[0], b"changed")
    place.compact()
    with pytest.raises(CompactedError, match="required revision has been compacted"):
        await place.store.page(SECRETS, 10, revision=pinned)


async def test_the_revision_of_the_compaction_itself_can_still_be_read(place: Place) -> None:
    fill(place)
    place.compact()
    pinned = await place.store.revision()
    place.put(NAMES[0], b"changed")
    page = await place.store.page(SECRETS, 1, revision=pinned)
    assert page.items[0].value == b"value of " + NAMES[0]


async def test_since_leaves_out_what_was_not_modified_from_that_revision_on(place: Place) -> None:
    fill(place)
    changed = await stored(place, NAMES[1], b"changed")
    page = await place.store.page(SECRETS, 10, since=changed.mod_revision)
    assert page.items == (changed,)
    assert (await place.store.page(SECRETS, 10, since=changed.mod_revision + 1)).items == ()


async def test_since_and_a_limit_count_only_what_is_left(place: Place) -> None:
    fill(place)
    first = await stored(place, NAMES[1], b"changed")
    await stored(place, NAMES[2], b"changed")
    page = await place.store.page(SECRETS, 1, since=first.mod_revision)
    assert ([item.key for item in page.items], page.left) == ([NAMES[1]], 1)


@pytest.mark.parametrize(("limit", "left"), [(1, 2), (2, 1), (3, 0), (9, 0)])
async def test_keys_come_in_order_up_to_a_limit_with_the_number_of_further_ones(
    place: Place, limit: int, left: int
) -> None:
    fill(place)
    assert await place.store.keys(SECRETS, limit) == (NAMES[:limit], left)


async def test_stamps_tell_when_and_how_often_keys_were_written(place: Place) -> None:
    created = (await stored(place, NAMES[1], b"x")).mod_revision
    fill(place)
    changed = await stored(place, NAMES[1], b"changed")
    place.compact()
    pinned = await place.store.revision()
    again = await stored(place, NAMES[1], b"changed again")
    stamps, left = await place.store.stamps(SECRETS, 2)
    assert ([one.key for one in stamps], left) == (NAMES[:2], 1)
    assert stamps[1] == Stamp(NAMES[1], created, again.mod_revision, 4)
    stamps, left = await place.store.stamps(SECRETS, 9, revision=pinned)
    assert (stamps[1], left) == (Stamp(NAMES[1], created, changed.mod_revision, 3), 0)
    place.compact()
    with pytest.raises(CompactedError):
        await place.store.stamps(SECRETS, 9, revision=pinned)


async def test_keys_of_an_empty_range_are_none(store: Store) -> None:
    assert await store.keys(SECRETS, 5) == ([], 0)


async def test_count_is_exact_and_forgets_what_was_deleted(place: Place) -> None:
    fill(place)
    assert await place.store.count(SECRETS) == 3
    place.delete(NAMES[0])
    assert await place.store.count(SECRETS) == 2
    assert await place.store.count(KeyRange.of_prefix(b"/nothing/")) == 0


async def test_the_revision_grows_by_one_with_each_foreign_write(place: Place) -> None:
    before = await place.store.revision()
    place.put(NAMES[0], b"one")
    place.delete(NAMES[0])
    assert await place.store.revision() == before + 2


async def test_every_member_tells_its_sizes_version_cluster_and_revision(place: Place) -> None:
    place.put(NAMES[0], b"one")
    (member,) = await place.store.members()
    assert member.revision == await place.store.revision()
    assert member.cluster_id > 0
    assert member.version
    assert 0 <= member.db_size_in_use <= member.db_size


async def test_the_lead_of_the_raft_log_over_the_revision_never_shrinks(place: Place) -> None:
    positions = []
    for number in range(3):
        positions.append(await place.store.log_position())
        assert positions[-1].before == positions[-1].after == await place.store.revision()
        place.put(NAMES[0], b"%d" % number)
    leads = [position.index - position.before for position in positions]
    assert 0 < leads[0] <= leads[1] <= leads[2]
    assert positions[0].cluster_id == (await place.store.members())[0].cluster_id


async def test_a_calm_store_has_no_alarm(store: Store) -> None:
    assert await store.alarms() == ()
