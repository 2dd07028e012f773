"""Every value that is recorded comes back as it was, and whatever else is on record is refused, never guessed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Protocol, Self

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.worker.errors import RecordError
from kube_rewrap.worker.etcd.ranges import KeyRange, key_bytes, key_text, prefix_end
from kube_rewrap.worker.records.batch import Checkpoint
from kube_rewrap.worker.records.campaign import Campaign
from kube_rewrap.worker.records.codec import decode, encode
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import Request
from kube_rewrap.worker.records.scan import Scan
from kube_rewrap.worker.records.usage import Usage
from tests.properties.record_strategies import (
    BUDGETS,
    CAMPAIGNS,
    CHECKPOINTS,
    ETCD_KEYS,
    KEKS,
    PLUGIN_REPORTS,
    RANGES,
    REPORTS,
    REQUESTS,
    SCANS,
    SPECS,
    TRIES,
    USAGES,
    proof_parts,
)


class Recorded(Protocol):
    def to_json(self) -> Mapping[str, object]: ...

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Self: ...


RECORDED: st.SearchStrategy[Recorded] = st.one_of(
    REPORTS, SPECS, CHECKPOINTS, CAMPAIGNS, BUDGETS, REQUESTS, SCANS, TRIES, USAGES, KEKS, PLUGIN_REPORTS, proof_parts()
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


@pytest.mark.parametrize(
    "wrong",
    [
        {"at": float("nan")},
        {"at": -1},
        {"at": float("inf")},
        {"proven_at": 10**400},
        {"stale": -1},
        {"stale": True},
        {"objects": 2**64},
        {"generation": "x" * 1_000},
        {"unreadable": [["secrets", "no_such_reason", 1]]},
        {"unreadable": [["secrets\n", "unknown_bytes", 1]]},
        {"unreadable": [["secrets", "unknown_bytes", 1]] * 1_001},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_a_scan_with_a_value_out_of_its_bounds_is_refused(wrong: dict[str, object]) -> None:
    good = Scan(generation="sha256:0", revision=7, at=1_000.0, objects=9, stale=1, is_clean=False).to_json()
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        Scan.from_json({**good, **wrong})


@pytest.mark.parametrize(
    "value",
    [
        {"intervals": [[0, 60, {"f": -1}]], "hasty": {}},
        {"intervals": [[0, float("nan"), {}]], "hasty": {}},
        {"intervals": [[10**400, 60, {}]], "hasty": {}},
        {"intervals": [[True, 60, {}]], "hasty": {}},
        {"intervals": [[0, 60, {}]] * 62, "hasty": {}},
        {"intervals": [], "hasty": {"f" * 65: [1, 1, 1]}},
        {"intervals": [], "hasty": {str(at): [1, 1, 1] for at in range(101)}},
        {"intervals": [], "hasty": {"f": [1, 1]}},
        {"intervals": [], "due_by_rate": {"f": [1, 1, -1]}},
        {"intervals": []},
    ],
)
def test_a_usage_is_checked_for_value_and_size(value: Mapping[str, object]) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each has its own words
        Usage.from_json(value)


@given(RANGES)
def test_a_range_comes_back_as_it_was(keys: KeyRange) -> None:
    assert KeyRange.from_json(json.loads(json.dumps(keys.to_json()))) == keys


@given(JSON)
def test_what_is_no_range_is_refused(value: object) -> None:
    match value:
        case [str(start), str(end)] if key_bytes(start) <= key_bytes(end):
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


@given(CAMPAIGNS, REQUESTS, CHECKPOINTS)
def test_records_of_version_0_1_are_read_by_the_names_that_their_fields_had(
    campaign: Campaign, request: Request, checkpoint: Checkpoint
) -> None:
    for value, name, former in (
        (campaign, "options", "wish"),
        (campaign, "quarantine_limit", "growth"),
        (request, "options", "wish"),
        (checkpoint, "stalled", "fruitless"),
    ):
        fields = {former if field == name else field: one for field, one in value.to_json().items()}
        assert former in fields
        assert type(value).from_json(fields) == value
