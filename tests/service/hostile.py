"""Messages that nobody should send: rows by hand, each field with each kind of junk, and mutations by a seed.

What does pass the gate, for only junk was taken off it, asks to pause a campaign that never was, always by one name:
one record in etcd, however many come.
"""

from __future__ import annotations

import base64
import bz2
import copy
import gzip
import json
import random
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import redis

from kube_rewrap.worker.queue.names import BATCHES, CONTROL, PROVE, REWRITE
from tests.service.harness import Service, celery_message

PAUSE = "rewrap.campaign.pause"
ARGUMENTS: dict[str, object] = {"campaign": "never-was", "id": "hostile"}
NOBODY: dict[str, object] = {"campaign": "never-was", "number": 0}

JUNK: tuple[Any, ...] = (
    None, True, 0, -1, 2**70, 1.5, "", "x", "\x00", "../../registry", "A" * 300, [], {}, [None], {"a": None},
    ["a", "b"], {"__type__": "uuid", "__value__": "x"}, [[[[[[[[[[]]]]]]]]]],
)  # fmt: skip

_HEADERS = (
    "lang", "task", "id", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit", "root_id",
    "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting", "stamped_headers",
    "stamps", "compression", "chord", "redelivered",
)  # fmt: skip
_PATHS: tuple[tuple[str, ...], ...] = (
    *((name,) for name in ("body", "content-type", "content-encoding", "headers", "properties", "args")),
    *(("headers", name) for name in _HEADERS),
    *(("properties", name) for name in ("body_encoding", "delivery_tag", "delivery_info", "priority", "reply_to")),
    *(("properties", "delivery_info", name) for name in ("exchange", "routing_key")),
)
_BODIES = (
    "null", "7", '"x"', "[]", "{}", "[[]]", "[[], {}]", "[[], {}, {}, {}]", "[null, null, null]", "[{}, [], {}]",
    "[[], [], {}]", "[[], {}, null]", "[[], {}, []]", '{"args": [], "kwargs": {}}', "", "[[], {}, {}", "NaN",
    '[[], {"id": NaN}, {}]', '[[], {"id": 1e999}, {}]', '[[], {"id": "\\ud800"}, {}]', '[[], {"id": 1, "id": 2}, {}]',
    '[[], {"__type__": "datetime", "__value__": 7}, {}]', '[[], {"id": {"__type__": "x", "__value__": 1}}, {}]',
    '[[], {"id": {"__type__": "decimal", "__value__": []}}, {}]', '[[], {"id": [["a"]]}, {}]',
    '[[], {}, {"callbacks": [{"task": "rewrap.campaign.start"}]}]', '[[], {}, {"errbacks": [1]}]',
    '[[], {}, {"chain": [{"task": "celery.group", "args": [], "kwargs": {}}]}]', '[[], {}, {"chord": {"task": "x"}}]',
    "[" * 3_000, '{"a":' * 3_000, "[" * 3_000 + "]" * 3_000, '[[], {"reason": "' + "A" * 200_000 + '"}, {}]',
)  # fmt: skip
_TEXTS = (
    b"", b"null", b"7", b"[]", b"{}", b"not JSON at all", b"\x00\x01", b"\xff\xfe", b"\xef\xbb\xbf{}", b"NaN", b"[1]",
    b'{"body": 7, "properties": {}}', b'"' + b"\\ud800" * 9 + b'"', b"[" * 3_000, b'{"a":' * 3_000, b"9" * 5_000,
    b"[" * 300_000, b'"' + b"A" * 300_000 + b'"', b'"' * 100_000, b'{"properties": null}', b'"\\' * 100_000,
    b'{"__type__": "uuid", "__value__": "x"}', b'{"headers": {"task": "celery.chord_unlock"}, "properties": null}',
)  # fmt: skip
_STRANGE_TASKS = (
    "celery.accumulate", "celery.backend_cleanup", "celery.chain", "celery.chord", "celery.chord_unlock",
    "celery.chunks", "celery.group", "celery.map", "celery.starmap", "os.system",
    "kube_rewrap.worker.queue.tasks.start_campaign",
    "rewrap.campaign.START", REWRITE, PROVE,
)  # fmt: skip
_TIMES = (
    "2099-01-01T00:00:00+00:00", "2099-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59",
    "now", "1970-01-01T00:00:00+00:00", "2026-W01-1", "-1",
)  # fmt: skip

_HEADER_VALUES: dict[str, tuple[Any, ...]] = {
    "eta": _TIMES,
    "expires": _TIMES,
    "timelimit": ([0.01, None], [None, 0.01], [1, 1], ["a", "b"], [], [None], 1),
    "retries": (1, 30, 31, 10**9),
}

Row = tuple[str, str, bytes]
"""What it is, the queue that it goes to, and its bytes."""


def good() -> dict[str, Any]:
    """A message by hand that only asks for what nobody has."""
    made: dict[str, Any] = json.loads(celery_message(PAUSE, ARGUMENTS, "hostile-1"))
    made["headers"] |= {"retries": 0, "timelimit": [None, None], "expires": None, "stamps": {}}
    return made


def changed(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The good message with one field of another value; an Ellipsis takes it away."""
    made = good()
    *above, name = path
    inside = made
    for one in above:
        inside = inside[one]
    if value is ...:
        inside.pop(name, None)
    else:
        inside[name] = value
    return made


def wrapped(body: bytes) -> str:
    return base64.b64encode(body).decode()


def corpus() -> list[Row]:
    """The rows by hand, and each field with each kind of junk: some hundreds, always the same."""
    return [*_texts(), *_fields(), *_bodies(), *_requests(), *_packed()]


def _texts() -> Iterator[Row]:
    for number, text in enumerate(_TEXTS):
        for queue in (CONTROL, BATCHES):
            yield f"bytes {number} in {queue}: {text[:20]!r}", queue, text
    yield "a name twice", CONTROL, json.dumps(good()).encode().replace(b'"body":', b'"body": null, "body":')


def _fields() -> Iterator[Row]:
    for path in _PATHS:
        for value in (..., *JUNK):
            yield f"{'.'.join(path)} = {str(value)[:20]!r}", CONTROL, json.dumps(changed(path, value)).encode()
    for name, values in _HEADER_VALUES.items():
        for value in values:
            yield f"{name} {value}", CONTROL, json.dumps(changed(("headers", name), value)).encode()
    for kind in ("application/x-python-serialize", "application/x-yaml", "text/plain", "application/data"):
        yield f"content type {kind}", CONTROL, json.dumps(changed(("content-type",), kind)).encode()


def _bodies() -> Iterator[Row]:
    for body in _BODIES:
        raw = json.dumps(changed(("body",), wrapped(body.encode()))).encode()
        # Twice: as many as a worker has children.
        yield f"body {body[:30]}", CONTROL, raw
        yield f"body {body[:30]}, again", CONTROL, raw


def _requests() -> Iterator[Row]:
    for task in _STRANGE_TASKS:
        yield f"task {task}", CONTROL, celery_message(task, NOBODY, "hostile-2").encode()
    yield "a request in the other queue", BATCHES, celery_message(PAUSE, ARGUMENTS, "hostile-3", BATCHES).encode()
    old = {"task": PAUSE, "id": "x", "args": [], "kwargs": ARGUMENTS}
    protocol_1 = changed(("headers",), {}) | {"body": wrapped(json.dumps(old).encode())}
    yield "protocol 1", CONTROL, json.dumps(protocol_1).encode()


def _packed() -> Iterator[Row]:
    body = json.dumps([[], {"reason": "A" * 2**24}, {}]).encode()
    for kind, pack in (("bzip2", bz2.compress), ("gzip", gzip.compress), ("zlib", zlib.compress)):
        made = changed(("headers", "compression"), kind)
        made["body"] = wrapped(pack(body))
        yield f"packed by {kind}", CONTROL, json.dumps(made).encode()


def kept() -> list[bytes]:
    """What Redis may hold of messages that nobody acknowledged, if others write there."""
    whole = json.dumps(good())
    texts = [raw.decode(errors="replace") for _, _, raw in corpus()[:40]]
    exchanges: tuple[object, ...] = ("", "rewrap", None, {})
    keys: tuple[object, ...] = (CONTROL, "elsewhere", None, 7, [])
    places = [f"{json.dumps(exchange)}, {json.dumps(key)}" for exchange in exchanges for key in keys]
    forged = [f"[{text}, {place}]" for text in (whole, "null", "{}", "7") for place in places]
    return [text.encode() for text in (*texts, *forged, whole)]


def mutations(seed: int, count: int) -> Iterator[tuple[str, bytes]]:
    """Good messages with damage: of bytes, of fields, of the body. The same for the same seed."""
    dice = random.Random(seed)
    makers = (_damaged_bytes, _damaged_field, _damaged_field, _damaged_body, _damaged_body)
    for _ in range(count):
        yield dice.choice((CONTROL, CONTROL, CONTROL, BATCHES)), dice.choice(makers)(dice)


def _damaged_bytes(dice: random.Random) -> bytes:
    raw = bytearray(json.dumps(good()).encode())
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(len(raw))
        match dice.randrange(4):
            case 0:
                raw[at] = dice.randrange(256)
            case 1:
                del raw[at : at + dice.randint(1, 40)]
            case 2:
                raw[at:at] = dice.choice((b"{", b"]", b'"', b"\\", b"null", b"\xff", b"\\ud800", b"[" * 2_000))
            case _:
                other = dice.randrange(len(raw))
                raw[at:at] = raw[other : other + 60]
    return bytes(raw)


def _damaged_field(dice: random.Random) -> bytes:
    made = good()
    for _ in range(dice.randint(1, 3)):
        *above, name = dice.choice(_PATHS)
        inside: Any = made
        for one in above:
            inside = inside.get(one) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside[name] = copy.deepcopy(dice.choice(JUNK))
    return json.dumps(made).encode()


def _damaged_body(dice: random.Random) -> bytes:
    body: list[Any] = [[], dict(ARGUMENTS), {"callbacks": None, "errbacks": None, "chain": None, "chord": None}]
    for _ in range(dice.randint(1, 3)):
        part = dice.choice((body, body[1], body[2]))
        if isinstance(part, list) and part:
            part[dice.randrange(len(part))] = copy.deepcopy(dice.choice(JUNK))
        elif isinstance(part, dict):
            part[dice.choice(("campaign", "id", "chord", "chain", "number", "__type__"))] = copy.deepcopy(
                dice.choice(JUNK)
            )
        if not isinstance(body[1], dict) or not isinstance(body[2], dict):
            break
    text = json.dumps(body).encode()
    if dice.random() < 0.2:
        text = text[: dice.randrange(len(text))]
    return json.dumps(changed(("body",), wrapped(text))).encode()


def with_time_limits(campaign: str, count: int) -> list[tuple[str, bytes]]:
    """Messages about the first batches of a campaign, each with a time limit of less than a slice."""
    messages = []
    for number in range(count):
        asked: dict[str, object] = {"campaign": campaign, "number": number % 4}
        made = json.loads(celery_message(REWRITE, asked, f"limit-{number}", BATCHES))
        made["headers"]["timelimit"] = [0.7, None]
        messages.append((BATCHES, json.dumps(made).encode()))
    return messages


def push(service: Service, messages: Iterable[tuple[str, bytes]]) -> None:
    """Put them on their queues."""
    with redis.Redis.from_url(service.redis.url) as client, client.pipeline(transaction=False) as pipe:
        for queue, raw in messages:
            pipe.lpush(queue, raw)
        pipe.execute()


def assert_honest_work_is_done(service: Service, name: str, seconds: float = 60.0) -> None:
    """A request behind all that was pushed comes on record."""
    push(service, [(CONTROL, celery_message(PAUSE, {"campaign": "never-was", "id": name}, name).encode())])
    record = f"/kube-rewrap/v1/requests/{name}"
    service.wait(lambda: service.etcd.admin().read(record), f"{name} is on record", seconds)
