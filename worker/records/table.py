"""Records of one kind: reads, lists and changes them by compare-and-swap. Only this module repeats a lost swap.

A kind is a frozen value with `to_json` and `from_json` (a module with a singular name) and a subclass of `Table`
(the plural) that maps a value to its etcd key.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from kube_rewrap.worker.errors import FencedError, RecordChangedError, RecordError, RecordUnclearError, TemporaryError
from kube_rewrap.worker.etcd.ranges import KeyRange, key_text
from kube_rewrap.worker.etcd.store import Delete, Expect, Item, Outcome, Put, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged, decode, require_place
from kube_rewrap.worker.records.keyspace import Keyspace

_WRITES = 5
_SWAPS = 50  # many workers may change one record at the same moment
_LONGEST_PAUSE = 0.05

Change = Put | Delete


class Record(Protocol):
    """A value with a JSON form."""

    def to_json(self) -> Mapping[str, object]:
        """Return the fields of the record."""


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True)
class Stored(Generic[R]):
    """A value as read. The next write succeeds only over the mod_revision `revision`; 0 = no record exists yet."""

    value: R
    revision: int = 0

    def holding(self, value: R) -> Stored[R]:
        """Return another value, for a write over the same revision."""
        return replace(self, value=value)


class Table(ABC, Generic[R]):
    """The records of one kind under one state prefix. Every write also compares `guards`, the writer's locks."""

    def __init__(self, store: Store, keyspace: Keyspace, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._keyspace = keyspace
        self._guards = tuple(guards)

    @abstractmethod
    def _key(self, value: R) -> bytes:
        """Return the etcd key of a value."""

    @abstractmethod
    def _value(self, fields: Mapping[str, object]) -> R:
        """Read the JSON form. Raises ValueError if `value` is not one."""

    def _read(self, item: Item) -> Stored[R]:
        """Read one record. Raises RecordError, naming its key, for a damaged one."""
        fields = decode(item.key, item.value)
        try:
            value = self._value(fields)
        except ValueError as error:
            raise damaged(item.key, error) from None
        require_place(item.key, self._key(value))
        return Stored(value, item.mod_revision)

    async def _at(self, key: bytes) -> Stored[R] | None:
        """Return the record of a key, None if there is none. Raises RecordError for a damaged one."""
        item = await self._store.get(key)
        return None if item is None else self._read(item)

    async def _within(self, keys: KeyRange, *, since: int = 0) -> AsyncIterator[Stored[R]]:
        """Yield the records of a range in key order; `since` leaves out those not modified from that revision on.

        Leaves out unreadable records, and logs each once.
        """
        async for item in record.read_items(self._store, keys, since=since):
            try:
                stored = self._read(item)
            except RecordError as error:
                record.note_unreadable(item, error)
                continue
            yield stored

    async def _unreadable(self, keys: KeyRange) -> list[tuple[str, str]]:
        """Return the names of the records of a range that `_within` leaves out, and why."""
        found = []
        async for item in record.read_items(self._store, keys):
            try:
                self._read(item)
            except RecordError as error:
                found.append((key_text(item.key[len(keys.start) :]), str(error)))
        return found

    async def save(self, stored: Stored[R], *along: Change) -> Stored[R]:
        """Write a value over the revision that was read; the same transaction applies `along`.

        Raises RecordChangedError when another process changed it or a guard is lost, RecordUnclearError when this
        write may have been applied before another process' write, TemporaryError when etcd never answered.
        """
        key, fields = self._key(stored.value), stored.value.to_json()
        revision = await record.write(self._store, key, fields, stored.revision, guards=self._guards, along=along)
        return replace(stored, revision=revision)

    async def replace(self, value: R) -> Stored[R]:
        """Write a value over the present record, readable or not; repeats a lost compare-and-swap."""
        key, lost_at = self._key(value), -1
        for attempt in range(_SWAPS):
            item = await self._store.get(key)
            revision = item.mod_revision if item else 0
            try:
                return await self.save(Stored(value, revision))
            except RecordChangedError:
                self._require_guards(revision, lost_at)
                lost_at = revision
                await _pause(attempt)
        raise _contended(key)

    async def _update(self, key: bytes, change: Callable[[R], R | Awaitable[R]], *along: Change) -> Stored[R] | None:
        """Apply a change by compare-and-swap, and repeat it after each lost one; None if there is no record.

        `change` may be called more than once, and may raise to refuse. If it changes nothing and there is no `along`,
        nothing is written. Raises RecordUnclearError when the change may have been applied already.
        """
        lost_at = -1
        for attempt in range(_SWAPS):
            stored = await self._at(key)
            if stored is None:
                return None
            value = change(stored.value)
            changed = stored.holding(await value if isinstance(value, Awaitable) else value)
            if not along and changed.value.to_json() == stored.value.to_json():
                return changed
            try:
                return await self.save(changed, *along)
            except RecordUnclearError:
                raise
            except RecordChangedError:
                self._require_guards(stored.revision, lost_at)
                lost_at = stored.revision
                await _pause(attempt)
        raise _contended(key)

    async def _note(self, key: bytes, change: Callable[[R | None], R | Awaitable[R]]) -> Stored[R]:
        """Apply a change to a record, or to None where there is none, and repeat it after each lost swap.

        As `_update_again`, the change must be safe to apply twice; if it changes nothing, nothing is written. Raises
        FencedError when a guard is lost.
        """
        lost_at = -1
        for attempt in range(_SWAPS):
            stored = await self._at(key)
            value = change(None if stored is None else stored.value)
            changed = Stored(await value if isinstance(value, Awaitable) else value, stored.revision if stored else 0)
            if stored is not None and changed.value.to_json() == stored.value.to_json():
                return changed
            try:
                return await self.save(changed)
            except RecordChangedError:
                self._require_guards(changed.revision, lost_at)
                lost_at = changed.revision
                await _pause(attempt)
        raise _contended(key)

    async def _update_again(
        self, key: bytes, change: Callable[[R], R | Awaitable[R]], *along: Change
    ) -> Stored[R] | None:
        """As `_update`, for a change that is safe to apply twice: it repeats one with an unclear outcome, too."""
        for attempt in range(_SWAPS):
            try:
                return await self._update(key, change, *along)
            except RecordUnclearError:
                await _pause(attempt)
        raise TemporaryError(f"etcd never told whether {key_text(key)} was changed", delay=1.0)

    def _require_guards(self, revision: int, lost_at: int) -> None:
        """Raise FencedError if a swap was lost twice at one revision: no other process wrote, so a guard is lost."""
        if self._guards and revision == lost_at:
            raise FencedError("the lock was lost; nothing was written")

    async def _commit(self, *changes: Change) -> None:
        """Apply changes that are safe to apply twice; compares the guards only.

        Raises FencedError when a guard is lost, TemporaryError when etcd never answered.
        """
        for _ in range(_WRITES):
            outcome = (await self._store.commit(self._guards, changes)).outcome
            if outcome is Outcome.APPLIED:
                return
            if outcome is Outcome.LOST:
                raise FencedError("the lock was lost; nothing was written")
        raise TemporaryError("etcd never told whether records were written", delay=1.0)


async def _pause(attempt: int) -> None:
    await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.01 * (attempt + 1))))  # noqa: S311 - jitter


def _contended(key: bytes) -> TemporaryError:
    return TemporaryError(f"lost {_SWAPS} compare-and-swaps of {key_text(key)} in a row to others", delay=1.0)
