"""The audit log: each entry holds the hash of the entry before it. Pure.

An attacker who changes, inserts or removes an entry has to recompute every later hash, which write access to
etcd allows. So rewrap also logs each hash, and operators keep the log lines elsewhere (docs/audit-log.md).

Not handled: the order of times. Several processes write, each by its own clock.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated

from kube_rewrap.worker.fields import is_scalar, mapping_of, text_of
from kube_rewrap.worker.records.form import Form, Text, whole

Scalar = str | int | float | bool | None

BEGINNING = "0" * 64
"""The first entry's `previous`."""

_LONGEST_TEXT = 1_000


def _detail(value: object, what: str) -> Mapping[str, Scalar]:
    given = mapping_of(value, what)
    found = {text_of(name, what): one for name, one in given.items() if is_scalar(one)}
    if len(found) < len(given):
        raise ValueError(f"{what} has a value that is neither a text nor a finite number")
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry(Form):
    """One entry. `number` counts from 1, `at` is ISO 8601 in UTC, `hash` covers all other fields."""

    number: Annotated[int, whole(least=1)]
    at: Text
    event: Text
    campaign: Text
    actor: Text
    detail: Annotated[Mapping[str, Scalar], _detail]
    previous: Text
    hash: Text = ""

    def sealed(self) -> Entry:
        """Return the entry with its hash."""
        return replace(self, hash=self.computed())

    def computed(self) -> str:
        """Return the SHA-256 (hex) over a canonical JSON encoding of all fields but `hash`."""
        fields = {name: value for name, value in self.to_json().items() if name != "hash"}
        encoded = json.dumps(fields, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
        return hashlib.sha256(encoded.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Head(Form):
    """Number and hash of the newest entry, and number of the oldest kept one. Number 0: the log is empty."""

    number: Annotated[int, whole(least=1)] = 0
    hash: Text = BEGINNING
    oldest: Annotated[int, whole(least=1)] = 1

    def __post_init__(self) -> None:
        """Refuse an oldest entry after the newest one."""
        if self.oldest > max(1, self.number):
            raise ValueError("oldest is greater than number")


def detail_of(fields: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """Return an entry's details, with long texts cut. Raises TypeError, naming the field, for any non-scalar value.

    So bytes, and objects that hold a secret, can't enter the log by mistake.
    """
    for name, value in fields.items():
        if not is_scalar(value):
            raise TypeError(f"{name}: an audit entry takes texts and finite numbers only, not {type(value).__name__}")
    return {name: _cut(value) for name, value in fields.items()}


def find_faults(entries: Iterable[Entry], head: Head) -> list[str]:
    """Return a sentence for each fault of a log; an empty list means that the log is whole.

    The oldest kept entry's `previous` is checked only if that entry is number 1 (`is_anchored`): otherwise the
    log has deleted the entry that it names.
    """
    ordered = sorted(entries, key=lambda entry: entry.number)
    faults: list[str] = []
    if ordered and not head.number:
        faults.append(f"the head is missing, and there are entries up to {ordered[-1].number}")
        head = Head(ordered[-1].number, ordered[-1].hash, ordered[0].number)
    expected, previous = head.oldest, BEGINNING if head.oldest == 1 else None
    for entry in ordered:
        if entry.computed() != entry.hash:
            faults.append(f"entry {entry.number} was changed: its hash is not that of its fields")
        if misplaced := _misplaced(entry.number, expected, head):
            faults.append(misplaced)
            continue
        if entry.number != expected:
            faults.append(f"{_span(expected, entry.number - 1)} missing: entry {entry.number} follows instead")
            previous = None
        if previous is not None and entry.previous != previous:
            faults.append(f"entry {entry.number} does not follow the entry before it")
        expected, previous = entry.number + 1, entry.hash
    if expected == head.oldest <= head.number:
        faults.append(f"{_span(head.oldest, head.number)} missing: the head names them, and etcd has none of them")
    elif expected != head.number + 1:
        faults.append(f"the log ends at entry {expected - 1}, and its head names {head.number}")
    elif head.number and previous != head.hash:
        faults.append(f"the head's hash is not that of entry {head.number}")
    return faults


def is_anchored(head: Head) -> bool:
    """Whether the log still keeps entry 1, so that `find_faults` checks the chain from its beginning."""
    return head.oldest == 1


def _misplaced(number: int, expected: int, head: Head) -> str:
    """Return why the log can't hold an entry of this number here; "" = it can."""
    if number > head.number:
        return f"entry {number} is newer than the head, which names {head.number}"
    if number < head.oldest:
        return f"entry {number} is older than entry {head.oldest}, the oldest that the head names"
    return f"entry {number} exists more than once" if number < expected else ""


def _span(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"


def _cut(value: Scalar) -> Scalar:
    return f"{value[: _LONGEST_TEXT - 1]}…" if isinstance(value, str) and len(value) > _LONGEST_TEXT else value
