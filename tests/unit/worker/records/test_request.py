"""Requests come from whoever reaches the queue: each argument is taken as hostile until it was checked."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.worker.records.request import (
    HostileArgumentError,
    Origin,
    Request,
    RequestKind,
    RequestState,
    name_of,
    number_of,
    start_request,
)

NOW = "2024-01-01T00:00:00+00:00"


def test_a_message_without_arguments_asks_for_everything() -> None:
    asked = start_request({}, "fallback", NOW)
    assert (asked.id, asked.kind, asked.origin, asked.state) == (
        "fallback",
        RequestKind.START,
        Origin.OPERATOR,
        RequestState.WAITING,
    )
    assert (asked.resources, asked.namespaces, asked.options.rate, asked.options.priority) == ((), (), 0.0, 0)
    assert not asked.options.allow_plaintext


def test_the_origin_of_full_checks_and_rotations_in_version_0_1_is_read() -> None:
    stored = {**start_request({}, "fallback", NOW).to_json(), "origin": "resync"}
    assert Request.from_json(stored).origin is Origin.FULL_CHECK
    with pytest.raises(ValueError, match="origin is none of"):
        Request.from_json({**stored, "origin": "nobody"})


def test_all_arguments_are_taken_over() -> None:
    arguments = {
        "id": "mine-1",
        "resources": ["secrets", "widgets.example.com"],
        "namespaces": ["kube-system"],
        "reason": "the key is old",
        "rate": 20,
        "priority": -3,
        "allow_plaintext": True,
        "allow_empty": True,
        "since": 2**63 - 1,
    }
    asked = start_request(arguments, "fallback", NOW)
    assert (asked.id, asked.resources, asked.namespaces) == (
        "mine-1",
        ("secrets", "widgets.example.com"),
        ("kube-system",),
    )
    assert (asked.options.reason, asked.options.rate, asked.options.priority, asked.options.allow_plaintext) == (
        "the key is old",
        20.0,
        -3,
        True,
    )
    assert (asked.options.allow_empty, asked.options.repair, asked.options.paused) == (True, False, False)
    assert asked.options.since == 2**63 - 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        pytest.param({"resources": "secrets"}, "resources must be a list", id="a text where a list belongs"),
        pytest.param({"resources": ["../../etc"]}, "resources must be names", id="a path in a resource"),
        pytest.param({"resources": ["secrets/x"]}, "resources must be names", id="a slash in a resource"),
        pytest.param({"resources": [{}]}, "resources must be names", id="an object where a name belongs"),
        pytest.param({"resources": ["a"] * 201}, "at most 200", id="too many resources"),
        pytest.param({"namespaces": ["../kube-system"]}, "namespaces must be names", id="a path in a namespace"),
        pytest.param({"namespaces": ["kube-system\n"]}, "namespaces must be names", id="a line break at the end"),
        pytest.param({"namespaces": ["Kube"]}, "namespaces must be names", id="a capital letter"),
        pytest.param({"namespaces": ["a" * 64]}, "namespaces must be names", id="a namespace that is too long"),
        pytest.param({"rate": True}, "rate must be", id="true is no number"),
        pytest.param({"rate": "500"}, "rate must be", id="a text is no number"),
        pytest.param({"rate": 0.5}, "rate must be", id="slower than one a second"),
        pytest.param({"rate": float("nan")}, "rate must be", id="not a number"),
        pytest.param({"rate": float("inf")}, "rate must be", id="no bound at all"),
        pytest.param({"priority": 1.0}, "priority must be", id="a priority with a point"),
        pytest.param({"priority": 10**30}, "priority must be", id="a huge priority"),
        pytest.param({"allow_plaintext": "yes"}, "allow_plaintext must be", id="a word where a boolean belongs"),
        pytest.param({"allow_empty": 1}, "allow_empty must be", id="a number where a boolean belongs"),
        pytest.param({"since": -1}, "since must be", id="a revision below 0"),
        pytest.param({"since": 2**63}, "since must be", id="a revision that etcd never reaches"),
        pytest.param({"since": True}, "since must be", id="true is no revision"),
        pytest.param({"since": "7"}, "since must be", id="a text is no revision"),
        pytest.param({"since": 7.0}, "since must be", id="a revision with a point"),
        pytest.param({"repair": True}, "unknown arguments: repair", id="an operator's request is no repair"),
        pytest.param({"reason": "x" * 501}, "reason must be", id="a reason that is too long"),
        pytest.param({"reason": "a\x1b[2Jb"}, "reason must be", id="a terminal's control code in the reason"),
        pytest.param({"id": "a/b"}, "id must be", id="a slash in the id"),
        pytest.param({"id": None}, "id must be", id="no id where one is given"),
        pytest.param({"guard": 1}, "unknown arguments: guard", id="an argument that nobody knows"),
    ],
)
def test_what_is_not_as_documented_is_refused_by_name(arguments: dict[str, object], words: str) -> None:
    with pytest.raises(HostileArgumentError, match=words):
        start_request(arguments, "fallback", NOW)


def test_a_refusal_repeats_no_long_text() -> None:
    with pytest.raises(HostileArgumentError) as refusal:
        start_request({"x" * 10_000: 1, "y" * 10_000: 2}, "fallback", NOW)
    assert len(str(refusal.value)) < 400


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = st.sampled_from(
    ("id", "resources", "namespaces", "reason", "rate", "priority", "allow_plaintext", "allow_empty", "since", "other")
)


@given(st.dictionaries(NAMES, ANYTHING, max_size=4))
def test_whatever_comes_is_a_request_or_refused(arguments: dict[str, object]) -> None:
    try:
        asked = start_request(arguments, "fallback", NOW)
    except HostileArgumentError:
        return
    assert all("/" not in name for name in (asked.id, *asked.resources, *asked.namespaces))


@pytest.mark.parametrize("value", [-1, 10**9, 1.0, True, "1", None, []])
def test_the_number_of_a_batch_is_a_small_whole_number(value: object) -> None:
    with pytest.raises(HostileArgumentError, match="number must be a whole number from 0 to 99999999"):
        number_of(value, "number")


@pytest.mark.parametrize("value", ["", "-a", "a" * 65, "A", "a.b", "a/../b", 7, None])
def test_a_name_is_short_and_plain(value: object) -> None:
    with pytest.raises(HostileArgumentError, match="campaign must be 1 to 64"):
        name_of(value, "campaign")
