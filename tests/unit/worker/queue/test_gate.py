"""What the queue may deliver: messages of ours pass, made anew; the rest is refused with a reason."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.worker.queue import gate
from kube_rewrap.worker.queue.names import BATCHES, CONTROL, CONTROL_TASKS, PROVE, REWRITE
from kube_rewrap.worker.records.request import start_request
from tests.service.harness import celery_message
from tests.service.hostile import ARGUMENTS, PAUSE, changed, corpus, good, kept, mutations, wrapped

_HEADER = "its header"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
START = "rewrap.campaign.start"
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
)

# As Celery 5.7 sends it for send_task(…, queue="rewrap.control"), recorded.
STOCK: dict[str, Any] = {
    "body": wrapped(
        b'[[], {"id": "x", "reason": "\\u00e9"}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]'
    ),
    "content-encoding": "utf-8",
    "content-type": "application/json",
    "headers": {
        "lang": "py",
        "task": START,
        "id": "b525c430-392a-4c8f-83a6-e891348bf677",
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": "b525c430-392a-4c8f-83a6-e891348bf677",
        "parent_id": None,
        "argsrepr": "()",
        "kwargsrepr": "{'id': 'x', 'reason': '\\u00e9'}",
        "origin": "gen4461@host",
        "ignore_result": None,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    },
    "properties": {
        "correlation_id": "b525c430-392a-4c8f-83a6-e891348bf677",
        "reply_to": "2c1ba9db-fe2c-36e8-9a06-3cb899753fc1",
        "delivery_mode": 2,
        "delivery_info": {"exchange": "", "routing_key": "rewrap.control"},
        "priority": 0,
        "body_encoding": "base64",
        "delivery_tag": "e1554cef-993d-4650-9db7-732f64d269bd",
    },
}


def judged(message: object, queue: str = CONTROL) -> gate.GateResult:
    return gate.judge_delivery(json.dumps(message).encode(), queue, NOW)


def with_header(name: str, value: object) -> gate.GateResult:
    return judged(changed(("headers", name), value))


def with_body(body: str) -> gate.GateResult:
    return judged(changed(("body",), wrapped(body.encode())))


def test_a_message_of_a_stock_celery_client_passes() -> None:
    identity = "b525c430-392a-4c8f-83a6-e891348bf677"
    assert judged(STOCK) == gate.Message(CONTROL, START, identity, {"id": "x", "reason": "é"})


@pytest.mark.parametrize(
    ("task", "queue"),
    [*((task, CONTROL) for task in CONTROL_TASKS), (REWRITE, BATCHES), (PROVE, BATCHES)],
)
def test_each_task_passes_in_its_own_queue_and_in_no_other(task: str, queue: str) -> None:
    message = json.loads(celery_message(task, {"number": 3}, "m-1", queue))
    assert judged(message, queue) == gate.Message(queue, task, "m-1", {"number": 3})
    other = BATCHES if queue == CONTROL else CONTROL
    message["properties"]["delivery_info"]["routing_key"] = other
    assert judged(message, other) == gate.Refused("it names a task that its queue does not have")
    assert isinstance(judged(message, "elsewhere"), gate.Refused)


def test_the_largest_request_that_is_documented_passes() -> None:
    arguments: dict[str, object] = {
        "id": "a" * 64,
        "resources": [f"{number:03}{'a' * 60}.{'b' * 252}" for number in range(200)],
        "namespaces": [f"{number:03}{'n' * 60}" for number in range(200)],
        "reason": "\U0001f511" * 500,
        "rate": 999_999.5,
        "priority": -100,
        "allow_plaintext": True,
    }
    passed = gate.judge_delivery(celery_message(START, arguments, "m-1").encode(), CONTROL, NOW)
    assert passed == gate.Message(CONTROL, START, "m-1", arguments)
    assert start_request(arguments, "", "").options.reason == arguments["reason"]


@pytest.mark.parametrize(
    ("verdict", "because"),
    [
        pytest.param(
            gate.judge_delivery(b" " * 262_145, CONTROL, NOW), "it has more than 262144 bytes", id="too large"
        ),
        pytest.param(gate.judge_delivery(b"\xff", CONTROL, NOW), "it is not plain JSON in UTF-8", id="not UTF-8"),
        pytest.param(
            gate.judge_delivery(b"[" * 200_000, CONTROL, NOW), "it is not plain JSON in UTF-8", id="a deep text"
        ),
        pytest.param(judged(None), "it is no JSON object", id="null"),
        pytest.param(
            judged(changed(("more",), [[[[[[[[1]]]]]]]])), "it is nested deeper than 8 levels", id="a deep field"
        ),
        pytest.param(
            gate.judge_delivery(json.dumps(good()).encode().replace(b'"body"', b'"body": null, "body"'), CONTROL, NOW),
            "it is not plain JSON in UTF-8",
            id="a name twice",
        ),
        pytest.param(with_body('[[], {"rate": NaN}, {}]'), "it is not plain JSON in UTF-8", id="NaN"),
        pytest.param(with_body('[[], {"rate": 1e999}, {}]'), "it is not plain JSON in UTF-8", id="infinite"),
        pytest.param(
            with_body('[[], {"rate": ' + "9" * 21 + "}, {}]"), "it is not plain JSON in UTF-8", id="a long number"
        ),
        pytest.param(
            with_body('[[], {"reason": "\\ud800"}, {}]'), "it is not plain JSON in UTF-8", id="a lone surrogate"
        ),
        pytest.param(
            with_body("null"), "its body is not [positional, {arguments by name}, {callbacks}]", id="a body null"
        ),
        pytest.param(
            with_body('[[], {}, {"chord": {"task": "x"}}]'), "it asks for callbacks, a chain or a chord", id="a chord"
        ),
        pytest.param(
            with_body('[[], {"__type__": "uuid", "__value__": 1}, {}]'),
            "the name of an argument is not of the required form",
            id="an object that kombu would revive",
        ),
        pytest.param(
            with_body('[[], {"id": {"__type__": "uuid", "__value__": 1}}, {}]'),
            "an argument is more than a text, a number, or a list of them",
            id="such an object inside",
        ),
        pytest.param(judged(changed(("body",), "n/o base 64")), "its body is not in base64", id="no base64"),
        pytest.param(
            judged(changed(("content-type",), "application/x-python-serialize")),
            "its content type and encoding are not those of JSON in UTF-8",
            id="pickle",
        ),
        pytest.param(judged(changed(("properties",), None)), "its properties are no JSON object", id="no properties"),
        pytest.param(
            judged(changed(("properties", "delivery_tag"), None)), "its delivery tag is no text", id="no delivery tag"
        ),
        pytest.param(
            judged(changed(("properties", "delivery_info", "routing_key"), BATCHES)),
            "its routing key names another queue",
            id="another routing key",
        ),
        pytest.param(
            with_header("task", "celery.chord_unlock"),
            "it names a task that its queue does not have",
            id="a task of Celery's own",
        ),
        pytest.param(
            with_header("id", "a\nb"),
            "its id is not 1 to 255 printable characters of ASCII without a space",
            id="an id of two lines",
        ),
        *(
            pytest.param(
                with_header(name, value),
                f"its header {name} has a value that rewrap does not accept",
                id=f"{name} {value}",
            )
            for name, value in (
                ("timelimit", [0.01, None]),
                ("timelimit", ["a", "b"]),
                ("eta", "2099-01-01T00:00:00+00:00"),
                ("retries", 31),
                ("retries", True),
                ("retries", -1),
                ("compression", "bzip2"),
                ("group", "g"),
                ("root_id", {}),
                ("stamps", []),
            )
        ),
        pytest.param(with_header("expires", "soon"), "its header expires is no time", id="an expiry that is none"),
        pytest.param(
            with_header("expires", "2030-01-01T00:00:00"), "its header expires is a time without a zone", id="no zone"
        ),
    ],
)
def test_what_is_not_ours_is_refused_with_the_reason(verdict: gate.GateResult, because: str) -> None:
    assert verdict == gate.Refused(because)


def test_an_expiry_is_heeded() -> None:
    late, early = ((NOW + timedelta(seconds=seconds)).isoformat() for seconds in (1, -1))
    passed = with_header("expires", late)
    assert isinstance(passed, gate.Message)
    assert passed.expires == late
    assert with_header("expires", early) == gate.Expired()


def test_a_batch_is_judged_by_its_records_and_by_no_clock() -> None:
    """A worker's own may be days ahead of the scheduler's."""
    batch = json.loads(celery_message(REWRITE, {"campaign": "c", "number": 1}, "m", BATCHES))
    batch["headers"]["expires"] = (NOW - timedelta(days=1)).isoformat()
    passed = gate.judge_delivery(json.dumps(batch).encode(), BATCHES, NOW)
    assert isinstance(passed, gate.Message)
    assert passed.expires == ""


def test_what_redis_kept_is_judged_as_what_the_queue_brings() -> None:
    passed = judged(changed(("headers", "retries"), 7))
    assert isinstance(passed, gate.Message)
    stored = json.dumps([passed.envelope("tag"), "rewrap", CONTROL]).encode()
    assert gate.judge_copy(stored, NOW) == passed
    assert isinstance(gate.judge_copy(json.dumps([good(), "rewrap", "elsewhere"]).encode(), NOW), gate.Refused)
    assert isinstance(gate.judge_copy(json.dumps([good(), "rewrap", BATCHES]).encode(), NOW), gate.Refused)
    assert isinstance(gate.judge_copy(json.dumps(good()).encode(), NOW), gate.Refused)


def assert_made_anew(verdict: gate.GateResult, queue: str) -> None:
    """What passed is whole, holds nothing but what was checked, and passes again as it is."""
    if not isinstance(verdict, gate.Message):
        return
    assert verdict.queue == queue
    assert 0 <= verdict.retries <= gate.MOST_RETRIES
    envelope: dict[str, Any] = verdict.envelope("tag")
    assert set(envelope["headers"]) == {"task", "id", "root_id", "retries", "expires", "timelimit"}
    assert envelope["headers"]["timelimit"] == [None, None]
    assert envelope["properties"] == {
        "body_encoding": "base64",
        "delivery_tag": "tag",
        "delivery_info": {"exchange": "rewrap", "routing_key": queue},
    }
    assert judged(envelope, queue) == verdict


def test_of_hostile_messages_none_raises_and_what_passes_is_made_anew() -> None:
    for _, queue, raw in corpus():
        assert_made_anew(gate.judge_delivery(raw, queue, NOW), queue)
    for queue, raw in mutations(seed=1, count=3_000):
        assert_made_anew(gate.judge_delivery(raw, queue, NOW), queue)
    for raw in kept():
        assert_made_anew(gate.judge_copy(raw, NOW), CONTROL)


@given(st.binary(max_size=200))
def test_bytes_are_refused(raw: bytes) -> None:
    assert isinstance(gate.judge_delivery(raw, CONTROL, NOW), gate.Refused)


@given(st.sampled_from([("headers",), ("properties",), ("body",), ("headers", "stamps"), ("headers", "expires")]), JSON)
def test_no_json_in_any_field_raises(path: tuple[str, ...], value: object) -> None:
    assert_made_anew(judged(changed(path, value)), CONTROL)


@given(JSON, JSON, JSON)
def test_no_json_in_the_body_raises(positional: object, named: object, embedded: object) -> None:
    assert_made_anew(with_body(json.dumps([positional, named, embedded])), CONTROL)


def test_a_reason_repeats_nothing_of_the_message() -> None:
    for path in (("headers", "task"), ("headers", "id"), ("headers", "eta"), ("content-type",), ("body",)):
        assert "MARKER" not in repr(judged(changed(path, "MARKER MARKER")))
    assert "MARKER" not in repr(with_body('[[], {"MARKER": 1}, {}]'))
    assert isinstance(judged(json.loads(celery_message(PAUSE, ARGUMENTS, "m"))), gate.Message)
