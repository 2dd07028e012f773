"""Whatever is done to a chain of audit entries is found, short of making every later hash and the head anew."""

from __future__ import annotations

import json
from dataclasses import replace

from hypothesis import assume, given
from hypothesis import strategies as st

from kube_rewrap.worker.records.audit_chain import BEGINNING, Entry, Head, Scalar, find_faults
from kube_rewrap.worker.records.codec import decode, encode

# With the surrogates that bytes that are not UTF-8 become in etcd keys.
TEXTS = st.text(max_size=10) | st.text("a\udc80\udcff", max_size=5)
SCALARS: st.SearchStrategy[Scalar] = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
)
DETAILS = st.dictionaries(TEXTS, SCALARS, max_size=4)
CONTENTS = st.lists(st.tuples(TEXTS, TEXTS, TEXTS, TEXTS, DETAILS), min_size=1, max_size=8)


@st.composite
def chains(draw: st.DrawFn) -> tuple[list[Entry], Head]:
    first = draw(st.integers(1, 5))
    entries: list[Entry] = []
    previous = BEGINNING if first == 1 else "e" * 64
    for number, (at, event, campaign, actor, detail) in enumerate(draw(CONTENTS), start=first):
        entry = Entry(
            number=number,
            at=at,
            event=event,
            campaign=campaign,
            actor=actor,
            detail=detail,
            previous=previous,
        )
        entries.append(entry.sealed())
        previous = entries[-1].hash
    return entries, Head(entries[-1].number, previous, first)


@given(chains())
def test_a_chain_that_nobody_touched_is_whole_after_storing_and_reading_it(made: tuple[list[Entry], Head]) -> None:
    entries, head = made
    stored = [Entry.from_json(decode(b"k", encode(entry.to_json()))) for entry in entries]
    assert stored == entries
    assert find_faults(stored, head) == []


@given(chains(), st.data())
def test_a_changed_field_is_found(made: tuple[list[Entry], Head], data: st.DataObject) -> None:
    entries, head = made
    index = data.draw(st.integers(0, len(entries) - 1))
    name = data.draw(st.sampled_from(["number", "at", "event", "campaign", "actor", "detail", "previous", "hash"]))
    value = data.draw({"number": st.integers(1, 20), "detail": DETAILS}.get(name, TEXTS))
    changed = Entry.from_json({**entries[index].to_json(), name: value})
    # Python takes 1, 1.0 and True for the same; the hash does not.
    assume(json.dumps(changed.to_json()) != json.dumps(entries[index].to_json()))
    found = find_faults([*entries[:index], changed, *entries[index + 1 :]], head)
    assert f"entry {changed.number} was changed: its hash is not that of its fields" in found


@given(chains(), st.data())
def test_a_changed_entry_with_a_new_hash_of_its_own_is_found(
    made: tuple[list[Entry], Head], data: st.DataObject
) -> None:
    entries, head = made
    index = data.draw(st.integers(0, len(entries) - 1))
    changed = replace(entries[index], actor=entries[index].actor + "!").sealed()
    found = find_faults([*entries[:index], changed, *entries[index + 1 :]], head)
    last = index == len(entries) - 1
    number = entries[index].number
    assert found == [
        f"the head's hash is not that of entry {number}"
        if last
        else f"entry {number + 1} does not follow the entry before it"
    ]


@given(chains(), st.data())
def test_entries_that_were_taken_out_are_found(made: tuple[list[Entry], Head], data: st.DataObject) -> None:
    entries, head = made
    kept = data.draw(st.lists(st.sampled_from(entries), unique_by=lambda entry: entry.number, max_size=len(entries)))
    assert bool(find_faults(kept, head)) == (len(kept) < len(entries))
