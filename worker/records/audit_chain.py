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


class ChainCheck:
    """Finds the faults of a log, one entry after the other, in the order of their numbers.

    The oldest kept entry's `previous` is checked only if that entry is number 1 (`is_anchored`): otherwise the
    log has deleted the entry that it names.
    """

    def __init__(self, head: Head) -> None:
        self._head = head
        self._has_head = head.number > 0
        self._begin(head.oldest)
        self._newest = 0
        self._faults: list[str] = []

    def _begin(self, oldest: int) -> None:
        self._expected, self._previous = oldest, BEGINNING if oldest == 1 else None

    def add(self, entry: Entry) -> None:
        """Check the next entry."""
        if not self._has_head and not self._newest:
            self._begin(entry.number)
        self._newest = entry.number
        if entry.computed() != entry.hash:
            self._faults.append(f"entry {entry.number} was changed: its hash is not that of its fields")
        if misplaced := self._misplaced(entry.number):
            self._faults.append(misplaced)
            return
        if entry.number != self._expected:
            missing = _span(self._expected, entry.number - 1)
            self._faults.append(f"{missing} missing: entry {entry.number} follows instead")
            self._previous = None
        if self._previous is not None and entry.previous != self._previous:
            self._faults.append(f"entry {entry.number} does not follow the entry before it")
        self._expected, self._previous = entry.number + 1, entry.hash

    def end(self) -> list[str]:
        """Return a sentence for each fault, after the last entry; an empty list means that the log is whole."""
        if not self._has_head:
            missing = [f"the head is missing, and there are entries up to {self._newest}"] if self._newest else []
            return [*missing, *self._faults]
        return [*self._faults, *self._faults_of_end()]

    def _faults_of_end(self) -> list[str]:
        head = self._head
        if self._expected == head.oldest <= head.number:
            return [f"{_span(head.oldest, head.number)} missing: the head names them, and etcd has none of them"]
        if self._expected != head.number + 1:
            return [f"the log ends at entry {self._expected - 1}, and its head names {head.number}"]
        return [] if self._previous == head.hash else [f"the head's hash is not that of entry {head.number}"]

    def _misplaced(self, number: int) -> str:
        """Return why the log can't hold an entry of this number here; "" = it can."""
        if self._has_head and number > self._head.number:
            return f"entry {number} is newer than the head, which names {self._head.number}"
        if self._has_head and number < self._head.oldest:
            return f"entry {number} is older than entry {self._head.oldest}, the oldest that the head names"
        return f"entry {number} exists more than once" if number < self._expected else ""


def find_faults(entries: Iterable[Entry], head: Head) -> list[str]:
    """Return a sentence for each fault of a log whose entries come in any order; see ChainCheck."""
    check = ChainCheck(head)
    for entry in sorted(entries, key=lambda entry: entry.number):
        check.add(entry)
    return check.end()


def is_anchored(head: Head) -> bool:
    """Whether the log still keeps entry 1, so that `ChainCheck` checks the chain from its beginning."""
    return head.oldest == 1


def _span(first: int, last: int) -> str:
    return f"entry {first} is" if first == last else f"entries {first} to {last} are"


def _cut(value: Scalar) -> Scalar:
    return f"{value[: _LONGEST_TEXT - 1]}…" if isinstance(value, str) and len(value) > _LONGEST_TEXT else value
