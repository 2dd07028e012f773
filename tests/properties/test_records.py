"""Every value that is recorded comes back as it was, and whatever else is on record is refused, never guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from worker.errors import RecordError
from worker.model.batch import BatchSpec, BatchState, Checkpoint
from worker.model.budget import Budget, Landed, Mark, Own, Sight
from worker.model.campaign import Campaign, CampaignState, Pause, Scope, Wish
from worker.model.inventory import Inventory, KeyTally, ResourceRange, ResourceTally, Unreadable
from worker.model.keys import KeyRange, key_bytes, key_text, prefix_end
from worker.model.outcome import BatchReport
from worker.model.proof import ProofPart
from worker.model.request import Origin, Request, RequestKind, RequestState
from worker.model.verdict import KeyRef, Reason
from worker.state.codec import decode, encode

COUNTS = st.integers(0, 2**63)
TEXTS = st.text(max_size=20)
ETCD_KEYS = st.binary(max_size=30)
RANGES = st.builds(KeyRange, ETCD_KEYS, ETCD_KEYS)
REPORTS = st.builds(BatchReport, *[COUNTS] * 9)
SPECS = st.builds(
    BatchSpec, TEXTS, COUNTS, TEXTS, RANGES, TEXTS, st.lists(st.tuples(TEXTS, COUNTS), max_size=4).map(tuple)
)
MOMENTS = st.floats(0, 2**40)
CHECKPOINTS = st.builds(
    Checkpoint, SPECS, st.sampled_from(BatchState), ETCD_KEYS, REPORTS, COUNTS, COUNTS, MOMENTS, TEXTS
)
NAMES = st.lists(TEXTS, max_size=4).map(tuple)
SCOPES = st.builds(Scope, NAMES, NAMES)
WISHES = st.builds(Wish, TEXTS, st.floats(0, 1000), st.integers(-100, 100), st.booleans())
CAMPAIGNS = st.builds(
    Campaign,
    *(TEXTS, st.sampled_from(CampaignState), TEXTS, SCOPES, COUNTS, TEXTS, TEXTS, COUNTS, COUNTS),
    *(WISHES, st.none() | st.sampled_from(Pause), TEXTS),
)
REQUESTS = st.builds(
    Request,
    *(TEXTS, st.sampled_from(RequestKind), TEXTS, st.sampled_from(Origin), NAMES, NAMES, WISHES),
    *(st.sampled_from(RequestState), TEXTS, TEXTS),
)
KEYS = st.builds(KeyRef, TEXTS, TEXTS, TEXTS)
TALLIES = st.builds(
    ResourceTally,
    *(TEXTS, KEYS, st.lists(KEYS, max_size=3).map(tuple)),
    st.dictionaries(KEYS, st.builds(KeyTally, COUNTS, COUNTS, COUNTS), max_size=3),
    st.dictionaries(KEYS, COUNTS, max_size=3),
    COUNTS,
    st.lists(st.builds(Unreadable, ETCD_KEYS, st.sampled_from(Reason), TEXTS), max_size=3),
)


@st.composite
def proof_parts(draw: st.DrawFn) -> ProofPart:
    revision = draw(COUNTS)
    found = draw(st.none() | st.lists(TALLIES, max_size=2).map(lambda tallies: Inventory(revision, tuple(tallies))))
    ranges = draw(st.lists(st.builds(ResourceRange, TEXTS, RANGES), max_size=2).map(tuple))
    return ProofPart(draw(TEXTS), draw(COUNTS), revision, draw(TEXTS), ranges, found, draw(st.booleans()))


SWAPS = st.lists(st.builds(Landed, *[COUNTS] * 3), max_size=3).map(tuple)
BUDGETS = st.builds(
    Budget,
    TEXTS,
    TEXTS,
    st.lists(TEXTS, max_size=3).map(tuple),
    COUNTS,
    estimated=COUNTS,
    restored=st.booleans(),
    made_in=st.builds(Mark, st.integers(0, 2**64 - 1), st.integers(-(2**63), 2**63)),
    sights=st.dictionaries(TEXTS, st.builds(Sight, COUNTS, st.none() | COUNTS), max_size=3),
    born=COUNTS,
    own=st.dictionaries(TEXTS, st.builds(Own, COUNTS, COUNTS, SWAPS), max_size=3),
)


class Recorded(Protocol):
    def to_json(self) -> Mapping[str, object]: ...

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self: ...


RECORDED: st.SearchStrategy[Recorded] = st.one_of(
    REPORTS, SPECS, CHECKPOINTS, CAMPAIGNS, BUDGETS, REQUESTS, proof_parts()
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(RECORDED)
def test_a_value_comes_back_as_it_was(value: Recorded) -> None:
    assert type(value).from_json(decode(b"/k", encode(value.to_json()))) == value


@given(RECORDED, st.dictionaries(st.text(max_size=8), JSON, max_size=3))
def test_fields_of_a_newer_writer_are_ignored(value: Recorded, later: dict[str, object]) -> None:
    known = value.to_json()
    assert type(value).from_json({**later, **known}) == value


@given(RECORDED, st.data())
def test_a_field_of_another_kind_is_refused_or_read_but_never_breaks(value: Recorded, data: st.DataObject) -> None:
    record = dict(value.to_json())
    name = data.draw(st.sampled_from(sorted(record)))
    record[name] = data.draw(JSON)
    try:
        type(value).from_json(record)
    except ValueError:
        return


@given(RANGES)
def test_a_range_comes_back_as_it_was(keys: KeyRange) -> None:
    assert KeyRange.from_json(json.loads(json.dumps(keys.to_json()))) == keys


@given(JSON)
def test_what_is_no_range_is_refused(value: object) -> None:
    match value:
        case [str(), str()]:
            return
    with pytest.raises(ValueError, match="a key range is a list of two strings"):
        KeyRange.from_json(value)


@given(ETCD_KEYS)
def test_any_etcd_key_has_one_spelling(key: bytes) -> None:
    assert key_bytes(key_text(key)) == key
    assert key_bytes(json.loads(json.dumps(key_text(key)))) == key


@given(ETCD_KEYS, ETCD_KEYS)
def test_the_range_of_a_prefix_holds_just_what_begins_with_it(prefix: bytes, key: bytes) -> None:
    if prefix.strip(b"\xff"):
        assert (key in KeyRange.of_prefix(prefix)) is key.startswith(prefix)
        assert prefix + key in KeyRange.of_prefix(prefix)
    else:
        assert prefix_end(prefix) == b"\0"


@given(st.binary(max_size=40))
def test_any_bytes_are_a_record_or_refused(stored: bytes) -> None:
    with suppress(RecordError):
        assert decode(b"/k", stored)["v"] == 1


@given(REPORTS, REPORTS, REPORTS)
def test_reports_add_up(one: BatchReport, two: BatchReport, three: BatchReport) -> None:
    assert one + two == two + one
    assert (one + two) + three == one + (two + three)
    assert one + BatchReport() == one


@given(REPORTS)
def test_before_a_sweep_what_was_done_stays_on_the_account(report: BatchReport) -> None:
    kept = report.before_sweep()
    assert (kept.rewritten, kept.gone, kept.encryptions) == (report.rewritten, report.gone, report.encryptions)
    assert (kept.current, kept.quarantined) == (0, 0)
    assert kept.objects == kept.rewritten + kept.gone
