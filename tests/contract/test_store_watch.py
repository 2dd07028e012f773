"""A watch delivers every write once and in order, or says what is lost; through cut connections and stalled servers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Any

import pytest

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import RequestRefusedError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Outcome, Put, Store, Watched, WatchFrom
from tests.contract.conftest import STATE_PREFIX, Place, settings_of
from tests.servers.etcd import REWRAP, EtcdCluster, EtcdOptions
from tests.servers.proxy import Proxy

pytestmark = pytest.mark.timeout(60)

SECRETS = KeyRange.of_prefix(b"/registry/secrets/")
WIDGETS = KeyRange.of_prefix(b"/registry/example.com/widgets/")
Seen = list[tuple[int, bytes, bytes]]


def secret(number: int) -> bytes:
    return b"/registry/secrets/default/s%d" % number


async def taken(stream: AsyncGenerator[Watched], until: Callable[[list[Watched]], bool]) -> list[Watched]:
    """What the stream delivers until there is enough. The test's time-out is the bound."""
    found: list[Watched] = []
    while not until(found):
        found.append(await anext(stream))
    return found


def puts(found: Sequence[Watched]) -> Seen:
    """Range, key and value of each PUT, in the order of delivery."""
    return [(one.index, item.key, item.value) for one in found for item in one.puts]


def of(count: int) -> Callable[[list[Watched]], bool]:
    return lambda found: len(puts(found)) >= count


async def from_now(store: Store, *ranges: KeyRange) -> list[WatchFrom]:
    now = await store.revision() + 1
    return [WatchFrom(one, now) for one in ranges]


async def test_what_was_written_before_the_watch_began_is_delivered_from_its_revision_on(place: Place) -> None:
    place.put(secret(0), b"too early")
    starts = await from_now(place.store, SECRETS)
    place.put(secret(1), b"one")
    place.put(secret(1), b"two")
    async with aclosing(place.store.watch(starts)) as stream:
        found = await taken(stream, of(2))
    assert puts(found) == [(0, secret(1), b"one"), (0, secret(1), b"two")]
    assert found[-1].next_revision == await place.store.revision() + 1
    assert found[-1].revision == await place.store.revision()


async def test_what_is_written_while_watching_comes_by_range_and_nothing_beside_them(place: Place) -> None:
    async with aclosing(place.store.watch(await from_now(place.store, SECRETS, WIDGETS))) as stream:
        place.put(secret(1), b"a")
        first = await taken(stream, of(1))
        place.put(b"/registry/secretsfoo/x", b"neighbour")
        place.put(b"/registry/example.com/widgets/default/w", b"b")
        place.put(secret(2), b"c")
        rest = await taken(stream, of(2))
    assert puts(first) == [(0, secret(1), b"a")]
    assert sorted(puts(rest)) == [(0, secret(2), b"c"), (1, b"/registry/example.com/widgets/default/w", b"b")]


async def test_a_quiet_range_keeps_up_with_the_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kube_rewrap.worker.etcd.watch._PROGRESS_SECONDS", 0.1)
    async with aclosing(place.store.watch(await from_now(place.store, SECRETS, WIDGETS))) as stream:
        place.put(b"/registry/pods/default/p", b"noise")
        goal = await place.store.revision() + 1
        reached = {0: 0, 1: 0}
        while min(reached.values()) < goal:
            watched = await anext(stream)
            assert not watched.puts
            reached[watched.index] = watched.next_revision
    assert set(reached.values()) == {goal}


async def test_an_item_is_as_a_read_shows_it(place: Place) -> None:
    async with aclosing(place.store.watch(await from_now(place.store, SECRETS))) as stream:
        place.put(secret(1), b"a")
        place.put(secret(1), b"b")
        found = await taken(stream, of(2))
    assert [item for one in found for item in one.puts][-1] == await place.store.get(secret(1))


async def test_a_deletion_delivers_nothing_and_moves_the_revision(place: Place) -> None:
    place.put(secret(1), b"a")
    async with aclosing(place.store.watch(await from_now(place.store, SECRETS))) as stream:
        place.delete(secret(1))
        end = await place.store.revision() + 1
        found = await taken(stream, lambda found: bool(found) and found[-1].next_revision >= end)
    assert puts(found) == []


async def test_two_watches_one_after_the_other_lose_and_double_nothing(place: Place) -> None:
    starts = await from_now(place.store, SECRETS)
    seen: Seen = []
    for number in range(6):
        place.put(secret(number), b"before")
        async with aclosing(place.store.watch(starts)) as stream:
            found = await taken(stream, of(1))
        seen += puts(found)
        starts = [WatchFrom(SECRETS, found[-1].next_revision)]
    assert seen == [(0, secret(number), b"before") for number in range(6)]


async def test_what_was_compacted_away_is_said_and_the_range_goes_on_behind_it(place: Place) -> None:
    starts = await from_now(place.store, SECRETS, WIDGETS)
    for number in range(5):
        place.put(secret(number), b"lost")
    place.put(secret(9), b"kept")  # the revision of the compaction itself can still be read
    compacted = await place.store.revision()
    place.compact()
    place.put(secret(10), b"later")
    async with aclosing(place.store.watch(starts)) as stream:
        found = await taken(stream, lambda found: len(puts(found)) >= 2 and sum(bool(o.compacted) for o in found) == 2)
        place.put(b"/registry/example.com/widgets/default/w", b"alive")
        later = await taken(stream, of(1))
    gaps = [one for one in found if one.compacted]
    assert sorted((one.index, one.compacted, one.next_revision, one.puts) for one in gaps) == [
        (0, compacted, compacted, ()),
        (1, compacted, compacted, ()),
    ]
    assert puts(found) == [(0, secret(9), b"kept"), (0, secret(10), b"later")]
    assert puts(later) == [(1, b"/registry/example.com/widgets/default/w", b"alive")]


async def test_a_range_that_is_up_to_date_stays_so_through_a_compaction(place: Place) -> None:
    async with aclosing(place.store.watch(await from_now(place.store, SECRETS, WIDGETS))) as stream:
        place.put(secret(1), b"a")
        found = await taken(stream, of(1))
        place.compact()
        place.put(b"/registry/example.com/widgets/default/w", b"b")
        found += await taken(stream, of(1))
    assert [one.compacted for one in found] == [0] * len(found)
    assert puts(found) == [(0, secret(1), b"a"), (1, b"/registry/example.com/widgets/default/w", b"b")]


async def unfinished(tasks: set[asyncio.Task[Any]]) -> set[asyncio.Task[Any]]:
    """Those that do not end by themselves."""
    return (await asyncio.wait(tasks, timeout=2.0))[1] if tasks else set()


async def test_on_etcd_a_cut_connection_loses_and_doubles_nothing(etcd_any: EtcdCluster) -> None:
    admin = etcd_any.admin()
    with Proxy(etcd_any.endpoints[0]) as proxy:
        async with open_store(settings_of(proxy.endpoint), STATE_PREFIX) as store:
            found: list[Watched] = []
            before = asyncio.all_tasks()
            async with aclosing(store.watch(await from_now(store, SECRETS))) as stream:
                for number in range(60):
                    await asyncio.to_thread(admin.put, secret(number).decode(), b"v%d" % number)
                    if number % 10 == 5:
                        proxy.cut()
                    if number % 20 == 19:
                        found += await taken(stream, of(20))
            left = await unfinished(asyncio.all_tasks() - before)
    assert puts(found) == [(0, secret(number), b"v%d" % number) for number in range(60)]
    assert not left, "each connection that broke left a task behind"
    revisions = [one.next_revision for one in found]
    assert revisions == sorted(revisions)


async def test_on_etcd_a_backlog_larger_than_one_answer_arrives_whole(etcd_any: EtcdCluster) -> None:
    admin = etcd_any.admin()
    async with open_store(settings_of(etcd_any.endpoints[0]), STATE_PREFIX) as store:
        starts = await from_now(store, SECRETS)
        names = [secret(number).decode() for number in range(2_500)]
        admin.put_all(dict.fromkeys(names, b"x" * 1_500))  # several answers of a thousand events, each in fragments
        async with aclosing(store.watch(starts)) as stream:
            found = await taken(stream, of(2_500))
    assert sorted(key.decode() for _, key, _ in puts(found)) == sorted(names)
    assert len(puts(found)) == 2_500
    assert found[-1].next_revision == found[-1].revision + 1


async def test_on_etcd_a_silent_range_moves_on_by_progress_notifications(
    new_etcd: Callable[[EtcdOptions], EtcdCluster],
) -> None:
    quick = EtcdOptions(extra_args=("--experimental-watch-progress-notify-interval", "200ms"))
    cluster = new_etcd(quick)
    admin = cluster.admin()
    async with (
        open_store(settings_of(cluster.endpoints[0]), STATE_PREFIX) as store,
        aclosing(store.watch(await from_now(store, SECRETS))) as stream,
    ):
        elsewhere = admin.put("/registry/pods/default/p", b"x")
        found = await taken(stream, lambda found: bool(found) and found[-1].next_revision > elsewhere)
    assert puts(found) == []
    assert found[-1].next_revision == elsewhere + 1


async def test_on_etcd_a_frozen_member_is_left_for_another(etcd_three: EtcdCluster) -> None:
    urls = tuple(etcd_three.endpoints)
    follower = next(member for member in etcd_three.members if member is not etcd_three.leader())
    others = tuple(url for url in urls if url != follower.endpoint)
    settings = replace(settings_of(follower.endpoint), endpoints=(follower.endpoint, *others), call_timeout=1.0)
    healthy = next(member for member in etcd_three.members if member is not follower)
    async with (
        open_store(settings, STATE_PREFIX) as store,
        open_store(settings_of(healthy.endpoint), "/registry") as writer,
        aclosing(store.watch(await from_now(store, SECRETS))) as stream,
    ):
        await put(writer, 1)
        found = await taken(stream, of(1))
        follower.freeze()
        try:
            await put(writer, 2)
            found += await taken(stream, of(1))
        finally:
            follower.thaw()
    assert puts(found) == [(0, secret(1), b"1"), (0, secret(2), b"2")]


async def put(writer: Store, number: int) -> None:
    """Through a member that lives: the gateway might ask the frozen one."""
    assert (await writer.commit([], [Put(secret(number), b"%d" % number)])).outcome is Outcome.APPLIED


async def test_on_etcd_a_range_that_may_not_be_read_is_refused(etcd_auth: EtcdCluster) -> None:
    password = SecretBytes(REWRAP.password.encode())
    settings = replace(settings_of(etcd_auth.endpoints[0]), user=REWRAP.name, password=password)
    async with open_store(settings, STATE_PREFIX) as store:
        starts = [WatchFrom(KeyRange.of_prefix(b"/elsewhere/"), 1)]
        async with aclosing(store.watch(starts)) as stream:
            with pytest.raises(RequestRefusedError, match="permission denied"):
                await anext(stream)
