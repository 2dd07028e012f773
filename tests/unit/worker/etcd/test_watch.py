"""What the answers on a watch's stream mean: fragments, progress, lagging members, watches that etcd ends."""

from __future__ import annotations

from typing import Any

import pytest

from kube_rewrap.worker.etcd import compat
from kube_rewrap.worker.etcd.store import Item, Watched
from kube_rewrap.worker.etcd.watch import Reader, _EndedError, _is_sound

_rpc: Any = compat.load()[0]


def answer(watch: int, *puts: int, header: int = 0, **fields: object) -> Any:
    """An answer with a PUT at each of the revisions."""
    response = _rpc.WatchResponse(watch_id=watch, **fields)
    response.header.revision = header or max(puts, default=0)
    for revision in puts:
        event = response.events.add()
        event.kv.key, event.kv.value, event.kv.mod_revision, event.kv.version = b"k", b"v", revision, 1
    return response


def item(revision: int) -> Item:
    return Item(b"k", b"v", revision, 1, 0)


def reader(*revisions: int) -> Reader:
    """One watch on each range, answered with the ids 10, 11 and so on."""
    one = Reader(revisions)
    for index in range(len(revisions)):
        one.expect(index)
    for index in range(len(revisions)):
        assert one.take(answer(10 + index, header=99, created=True)) is None
    return one


def test_created_moves_nothing() -> None:
    assert reader(5, 7).revisions == [5, 7]


def test_a_backlog_ends_at_its_last_event_though_the_header_is_ahead() -> None:
    assert reader(5).take(answer(10, 5, 8, header=50)) == Watched(0, (item(5), item(8)), 9, 50)


def test_a_fragment_is_held_back_until_its_revision_is_whole() -> None:
    one = reader(5)
    assert one.take(answer(10, 5, 6, fragment=True)) is None
    assert one.revisions == [5]
    assert one.take(answer(10, 7, fragment=False)) == Watched(0, (item(5), item(6), item(7)), 8, 7)


def test_fragments_of_two_ranges_do_not_mix() -> None:
    one = reader(5, 5)
    assert one.take(answer(10, 5, fragment=True)) is None
    assert one.take(answer(11, 6)) == Watched(1, (item(6),), 7, 6)
    assert one.take(answer(10, 7)) == Watched(0, (item(5), item(7)), 8, 7)


def test_a_deletion_moves_the_revision_and_delivers_nothing() -> None:
    response = answer(10, 9)
    response.events[0].type = 1
    assert reader(5).take(response) == Watched(0, (), 10, 9)


def test_progress_moves_its_range_behind_the_header() -> None:
    one = reader(5, 5)
    assert one.take(answer(11, header=30)) == Watched(1, (), 31, 30)
    assert one.revisions == [5, 31]


def test_a_member_that_lags_behind_takes_nothing_back() -> None:
    assert reader(40).take(answer(10, header=30)) == Watched(0, (), 40, 30)


def test_an_answer_about_all_moves_every_range_that_is_behind() -> None:
    one = reader(5, 40)
    one.doubts = 0
    assert one.progressed(30) == [Watched(0, (), 31, 30)]
    assert one.revisions == [31, 40]


def test_an_answer_about_all_moves_no_range_whose_watch_is_being_made() -> None:
    one = reader(5, 5)
    one.expect(0)
    assert one.progressed(30) == []
    assert one.revisions == [5, 5]


def test_an_answer_about_all_moves_no_range_of_which_a_revision_is_not_whole() -> None:
    one = reader(5, 5)
    assert one.take(answer(10, 7, fragment=True)) is None
    assert one.progressed(30) == [Watched(1, (), 31, 30)]


def test_where_etcd_may_answer_early_an_answer_is_believed_when_others_confirm_it() -> None:
    one = reader(5)
    one.doubts = 2
    assert [one.progressed(revision) for revision in (30, 31)] == [[], []]
    assert one.progressed(40) == [Watched(0, (), 31, 40)]


def test_an_event_that_comes_behind_its_answer_disproves_it_and_is_delivered() -> None:
    one = reader(5)
    one.doubts = 2
    assert [one.progressed(revision) for revision in (30, 50)] == [[], []]
    assert one.take(answer(10, 29)) == Watched(0, (item(29),), 30, 29)
    assert [one.progressed(revision) for revision in (51, 52)] == [[], []]
    assert one.progressed(53) == [Watched(0, (), 52, 53)]


def test_an_event_that_comes_behind_an_answer_that_was_believed_is_delivered() -> None:
    one = reader(5)
    assert one.progressed(30) == [Watched(0, (), 31, 30)]
    assert one.take(answer(10, 29)) == Watched(0, (item(29),), 31, 29)


@pytest.mark.parametrize(
    ("version", "is_sound"),
    [
        *[(version, True) for version in ("3.4.25", "3.5.8", "3.5.21", "3.6.0", "3.6.0-rc.1", "4.0.0")],
        *[(version, False) for version in ("3.3.30", "3.4.23", "3.5.1", "3.5.7", "", "not a version", "3.5")],
    ],
)
def test_which_etcd_answers_in_order(version: str, is_sound: bool) -> None:
    assert _is_sound(version) is is_sound


def test_an_answer_to_nobody_says_nothing() -> None:
    one = reader(5)
    assert one.take(answer(-1, header=30)) is None
    assert one.revisions == [5]


def test_compaction_moves_its_range_there_and_drops_what_was_not_whole() -> None:
    one = reader(5, 5)
    assert one.take(answer(10, 6, fragment=True)) is None
    gone = one.take(answer(10, header=30, canceled=True, compact_revision=20))
    assert gone == Watched(0, (), 20, 30, compacted=20)
    one.expect(0)
    assert one.take(answer(12, created=True)) is None
    assert one.take(answer(12, 20)) == Watched(0, (item(20),), 21, 20)
    assert one.revisions == [21, 5]


@pytest.mark.parametrize("watch", [-1, 0, 10], ids=["etcd 3.5", "etcd 3.4", "an id that is in use"])
def test_created_and_cancelled_at_once_ends_the_watch_that_was_asked_for(watch: int) -> None:
    one = reader(5)
    one.expect(0)
    with pytest.raises(_EndedError, match="permission denied"):
        one.take(answer(watch, created=True, canceled=True, cancel_reason="etcdserver: permission denied"))
