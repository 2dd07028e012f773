"""What a gap of the watch may hide: bounds that hold whatever happened in it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.worker.records.budget import Landed
from kube_rewrap.worker.records.gap import Gap
from kube_rewrap.worker.records.observed import Observations

NOBODY = frozenset[str]()


def test_each_revision_that_nothing_explains_may_have_been_a_write_of_any_key() -> None:
    assert Gap(first=10, end=20).most("k", 10, 20) == 10


def test_what_is_known_is_not_subtracted_twice_and_nothing_beyond_the_interval_is() -> None:
    gap = Gap(first=10, end=20, keys={11: NOBODY, 12: frozenset({"k"}), 13: frozenset({"other"}), 19: NOBODY})
    assert gap.most("k", 10, 15, seen=(9, 11, 14, 15)) == 5 - len({11, 13, 14})


def test_an_object_of_another_resource_that_was_created_in_the_gap_explains_all_its_writes() -> None:
    assert (
        Gap(first=10, end=30, keys={25: NOBODY}, resources={}, unencrypted=(Landed(6, 12, 24),)).most("k", 10, 30)
        == 20 - 1 - 6
    )


def test_of_an_interval_that_begins_or_ends_among_an_objects_writes_it_explains_what_can_not_lie_outside() -> None:
    gap = Gap(first=10, end=30, keys={}, resources={}, unencrypted=(Landed(6, 12, 24),))
    assert gap.most("k", 14, 30) == 16 - 4
    assert gap.most("k", 10, 22) == 12 - 3


@given(st.data())
def test_no_write_of_the_key_is_ever_explained_away(data: st.DataObject) -> None:
    first, end = 10, 40
    log = [data.draw(st.sampled_from(["k", "secret", "pod-a", "pod-b", "ours", "deletion"])) for _ in range(first, end)]
    written: dict[str, list[int]] = {}
    for at, what in enumerate(log, first):
        written.setdefault(what, []).append(at)
    pods = [written[name] for name in ("pod-a", "pod-b") if name in written]
    unencrypted = tuple(Landed(len(at) - 1, at[0], at[-1] - 1) for at in pods if len(at) > 1)
    keys = {at[-1]: NOBODY for at in (*pods, written.get("ours", [])) if at}
    keys |= {at[-1]: frozenset({name}) for name, at in written.items() if name in {"k", "secret"}}
    low, high = sorted(data.draw(st.tuples(st.integers(first, end), st.integers(first, end))))
    seen = data.draw(st.lists(st.sampled_from(written["secret"]))) if "secret" in written else []
    most = Gap(first=first, end=end, keys=keys, resources={}, unencrypted=unencrypted).most("k", low, high, seen)
    assert most >= sum(low <= at < high for at in written.get("k", []))
    if set(log) <= {"k", "pod-a", "pod-b"} and (low, high) == (first, end):
        assert most == len(written.get("k", []))


def test_a_record_names_what_it_replaced_until_the_watch_has_passed_that() -> None:
    seen = Observations(replaced=(30, 40))
    assert seen.replacing({"secrets": 35, "configmaps": 60}, 50) == (40, 50)
    assert seen.replacing({"secrets": 51}, 50) == ()
    assert Observations().replacing({"secrets": 1}, 0) == ()
    assert len(Observations(replaced=tuple(range(400))).replacing({"secrets": 1}, 500)) == 100
