"""Validates the bytes that a queue delivers; returns one of our messages, or the reason for refusing the bytes.

Anyone who may push to a queue, or write to Redis, can choose these bytes, so Celery and kombu never parse them. The
gate rebuilds a message that passes from the fields that it has checked, and from no others:

1. at most 256 KiB; plain JSON in UTF-8, no name twice, no number or text that JSON can't hold, 8 levels deep;
2. a task of the queue that it came from, with Celery's content type and encodings;
3. each known header of Celery's, of its type; others are left out. No compression, no group, chain, chord or callback,
   no time limit, no ETA, at most `MOST_RETRIES` retries;
4. arguments by name: scalars, or lists of them, so that no decoder has an object to revive. The task checks their
   meaning (`worker/records/request.py`). Positional arguments are left out.

The gate drops expired control messages. Celery never sees an expiry: it would add the message's id to its revoked
ones.
"""

from __future__ import annotations

import base64
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import NoReturn

from kube_rewrap.worker.queue.names import BATCHES, CONTROL, CONTROL_TASKS, EXCHANGE, PROVE, REWRITE

LARGEST = 256 * 1024
"""Bytes; twice the largest request that docs/queue.md allows."""

MOST_RETRIES = 30

_DEEPEST = 8
_LONGEST_NUMBER = 20
_LONGEST_ID = 255
_TASKS = {CONTROL: CONTROL_TASKS, BATCHES: (REWRITE, PROVE)}
_ID = re.compile(rf"[\x21-\x7e]{{1,{_LONGEST_ID}}}")
_ARGUMENT = re.compile(r"[a-z][a-z_]{0,39}")


@dataclass(frozen=True, slots=True)
class Message:
    """A message that passed the gate. `expires` is an ISO 8601 time, "" = never."""

    queue: str
    task: str
    id: str
    arguments: Mapping[str, object]
    retries: int = 0
    expires: str = ""

    def envelope(self, tag: str) -> dict[str, object]:
        """Return the message in kombu's form, which passes the gate again."""
        return {
            "body": base64.b64encode(json.dumps([[], self.arguments, {}]).encode()).decode(),
            "content-encoding": "utf-8",
            "content-type": "application/json",
            "headers": {
                "task": self.task,
                "id": self.id,
                "root_id": self.id,
                "retries": self.retries,
                "expires": self.expires or None,
                "timelimit": [None, None],
            },
            "properties": {
                "body_encoding": "base64",
                "delivery_tag": tag,
                "delivery_info": {"exchange": EXCHANGE, "routing_key": self.queue},
            },
        }


@dataclass(frozen=True, slots=True)
class Expired:
    """A message whose expiry has passed."""


@dataclass(frozen=True, slots=True)
class Refused:
    """Not one of our messages. `because` is our own sentence and quotes nothing of the message."""

    because: str


GateResult = Message | Expired | Refused


class _HostileError(ValueError):
    """Ends the check; its text becomes `Refused.because`."""


def judge_delivery(raw: bytes, queue: str, now: datetime) -> GateResult:
    """Judge the bytes that a queue delivered at `now`."""
    return _result(lambda: _message(_json(raw), queue), now)


def judge_copy(raw: bytes, now: datetime) -> GateResult:
    """Judge Redis' copy of an unacknowledged message: kombu's `[envelope, exchange, routing key]`."""

    def read() -> Message:
        match _json(raw):
            case [envelope, str(), str(queue)] if queue in _TASKS:
                return _message(envelope, queue)
        raise _HostileError("it is not the copy of a message in kombu's form")

    return _result(read, now)


def _result(read: Callable[[], Message], now: datetime) -> GateResult:
    try:
        message = read()
        return Expired() if message.expires and _moment(message.expires) <= now else message
    except _HostileError as error:
        return Refused(str(error))


def _message(value: object, queue: str) -> Message:
    envelope = _object(value, "it is")
    if envelope.get("content-type") != "application/json" or envelope.get("content-encoding") != "utf-8":
        raise _HostileError("its content type and encoding are not those of JSON in UTF-8")
    properties = _object(envelope.get("properties"), "its properties are")
    if properties.get("body_encoding") != "base64":
        raise _HostileError("its body encoding is not base64")
    if not _is_text(properties.get("delivery_tag")):
        raise _HostileError("its delivery tag is no text")
    if _object(properties.get("delivery_info"), "its delivery information is").get("routing_key") != queue:
        raise _HostileError("its routing key names another queue")
    headers = _object(envelope.get("headers"), "its headers are")
    task = headers.get("task")
    if not isinstance(task, str) or task not in _TASKS.get(queue, ()):
        raise _HostileError("it names a task that its queue does not have")
    identity = headers.get("id")
    if not isinstance(identity, str) or not _ID.fullmatch(identity):
        raise _HostileError(f"its id is not 1 to {_LONGEST_ID} printable characters of ASCII without a space")
    for name, is_good in _HEADERS.items():
        if name in headers and not is_good(headers[name]):
            raise _HostileError(f"its header {name} has a value that rewrap does not accept")
    retries, expires = headers.get("retries"), headers.get("expires")
    return Message(
        queue,
        task,
        identity,
        _arguments(envelope.get("body")),
        retries if isinstance(retries, int) else 0,
        # No expiry for batches, whose records say whether they are done: a fast clock must not drop these messages.
        expires if isinstance(expires, str) and queue == CONTROL else "",
    )


def _arguments(body: object) -> Mapping[str, object]:
    try:
        raw = base64.b64decode(body, validate=True) if isinstance(body, str) else b""
    except ValueError:
        raise _HostileError("its body is not in base64") from None
    match _json(raw):
        case [list(), dict(arguments), dict(embedded)]:
            pass
        case _:
            raise _HostileError("its body is not [positional, {arguments by name}, {callbacks}]")
    if any(embedded.values()):
        raise _HostileError("it asks for callbacks, a chain or a chord")
    for name, value in arguments.items():
        if not _ARGUMENT.fullmatch(name):
            raise _HostileError("the name of an argument is not of the required form")
        if not all(_is_plain(item) for item in (value if isinstance(value, list) else [value])):
            raise _HostileError("an argument is more than a text, a number, or a list of them")
    return arguments


def _json(raw: bytes) -> object:
    if len(raw) > LARGEST:
        raise _HostileError(f"it has more than {LARGEST} bytes")
    try:
        value: object = _DECODER.decode(raw.decode())
        # JSON can spell a lone surrogate, which UTF-8 can't encode.
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        raise _HostileError("it is not plain JSON in UTF-8") from None
    if _is_deeper(value, _DEEPEST):
        raise _HostileError(f"it is nested deeper than {_DEEPEST} levels")
    return value


def _is_deeper(value: object, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_is_deeper(one, levels - 1) for one in inner if isinstance(one, dict | list))


def _unique(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a name twice")
    return found


def _whole(digits: str) -> int:
    if len(digits) > _LONGEST_NUMBER:
        raise ValueError("too many digits")
    return int(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError("too large")
    return number


def _constant(_: str) -> NoReturn:
    raise ValueError("no number")


_DECODER = json.JSONDecoder(object_pairs_hook=_unique, parse_int=_whole, parse_float=_finite, parse_constant=_constant)


def _object(value: object, what: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise _HostileError(f"{what} no JSON object")
    return value


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _HostileError("its header expires is no time") from None
    if moment.tzinfo is None:
        raise _HostileError("its header expires is a time without a zone")
    return moment


def _is_plain(value: object) -> bool:
    return value is None or isinstance(value, str | int | float)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST_ID


def _is_text_or_none(value: object) -> bool:
    return value is None or isinstance(value, str)


def _is_none(value: object) -> bool:
    return value is None


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= MOST_RETRIES


_HEADERS: Mapping[str, Callable[[object], bool]] = {
    "lang": _is_text_or_none,
    "shadow": _is_text_or_none,
    "argsrepr": _is_text_or_none,
    "kwargsrepr": _is_text_or_none,
    "origin": _is_text_or_none,
    "root_id": _is_text_or_none,
    "parent_id": _is_text_or_none,
    "expires": _is_text_or_none,
    "retries": _is_count,
    "replaced_task_nesting": _is_count,
    "ignore_result": lambda value: value is None or isinstance(value, bool),
    "stamped_headers": lambda value: value is None or isinstance(value, list),
    "stamps": lambda value: value is None or isinstance(value, dict),
    "timelimit": lambda value: value is None or value == [None, None],
    # Celery would act on these; our messages never carry them.
    "eta": _is_none,
    "compression": _is_none,
    "group": _is_none,
    "group_index": _is_none,
    "chord": _is_none,
    "chain": _is_none,
    "callbacks": _is_none,
    "errbacks": _is_none,
}
"""Checks of Celery 5's headers that have no rule above; only the size of the message bounds their length."""
