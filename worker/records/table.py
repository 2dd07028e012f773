"""Records of one kind: reads, lists and changes them by compare-and-swap. Only this module repeats a lost swap.

A kind is a frozen value with `to_json` and `from_json` (a module with a singular name) and a subclass of `Table`
(the plural) that names this value's class and maps a value to its etcd key.
"""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Generic, Protocol, Self, TypeVar

from kube_rewrap.worker.errors import FencedError, RecordChangedError, RecordError, RecordUnclearError, TemporaryError
from kube_rewrap.worker.etcd.items import read_items
from kube_rewrap.worker.etcd.ranges import KeyRange, key_text
from kube_rewrap.worker.etcd.store import Delete, Expect, Item, Outcome, Put, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.codec import damaged, decode, encode, require_place
from kube_rewrap.worker.records.keyspace import Keyspace

_WRITES = 5
_SWAPS = 50  # many workers may change one record at the same moment
_LONGEST_PAUSE = 0.5
_PUTS = 64  # etcd takes 128 operations in a transaction
_PUT_BYTES = 2**19  # and 1.5 MiB

Change = Put | Delete


class Record(Protocol):
    """A value with a JSON form."""

    def to_json(self) -> Mapping[str, object]:
        """Return the fields of the record."""

    @classmethod
    def from_json(cls, value: Mapping[str, object], /) -> Self:
        """Read the fields of the record. Raises ValueError for invalid ones."""


R = TypeVar("R", bound=Record)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Stored(Generic[R]):
    """A value as read. The next write succeeds only over the mod_revision `revision`; 0 = no record exists yet."""

    value: R
    revision: int = 0

    def holding(self, value: R) -> Stored[R]:
        """Return another value, for a write over the same revision."""
        return replace(self, value=value)


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A record that is damaged, and how."""

    item: Item
    error: RecordError


class Table(ABC, Generic[R]):
    """The records of one kind under one state prefix. Every write also compares `guards`, the writer's locks."""

    _kind: type[R]

    def __init__(self, store: Store, keyspace: Keyspace, guards: Sequence[Expect] = ()) -> None:
        self._store = store
        self._keyspace = keyspace
        self._guards = tuple(guards)

    @abstractmethod
    def _key(self, value: R, /) -> bytes:
        """Return the etcd key of a value."""

    def _read(self, item: Item) -> Stored[R]:
        """Read one record. Raises RecordError, naming its key, for a damaged one."""
        fields = decode(item.key, item.value)
        try:
            value = self._kind.from_json(fields)
        except ValueError as error:
            raise damaged(item.key, error) from None
        require_place(item.key, self._key(value))
        return Stored(value, item.mod_revision)

    async def _at(self, key: bytes) -> Stored[R] | None:
        """Return the record of a key, None if there is none. Raises RecordError for a damaged one."""
        item = await self._store.get(key)
        return None if item is None else self._read(item)

    async def _within(self, keys: KeyRange, *, since: int = 0) -> AsyncGenerator[Stored[R]]:
        """Yield the readable records of a range, as `_each` does; logs each unreadable one once."""
        async with aclosing(self._each(keys, since=since)) as each:
            async for one in each:
                if isinstance(one, Unreadable):
                    record.note_unreadable(one.item, one.error)
                else:
                    yield one

    async def _changed(self, keys: KeyRange, since: int) -> tuple[list[Stored[R]], int]:
        """Return the readable records of a range written from revision `since` on, and the `since` of the next call.

        That follows the store's revision before the read: a record that changes during the read is returned twice
        rather than never.
        """
        following = await self._store.revision() + 1
        return [stored async for stored in self._within(keys, since=since)], following

    async def _each(self, keys: KeyRange, *, since: int = 0) -> AsyncGenerator[Stored[R] | Unreadable]:
        """Yield the records of a range in key order; `since` leaves out those not modified from that revision on.

        A caller that stops early must close the iterator (`aclosing`).
        """
        async with aclosing(read_items(self._store, keys, since=since)) as items:
            async for item in items:
                try:
                    read: Stored[R] | Unreadable = self._read(item)
                except RecordError as error:
                    read = Unreadable(item, error)
                yield read

    async def _sorted(self, keys: KeyRange) -> tuple[list[Stored[R]], list[tuple[str, str]]]:
        """Return the readable records of a range in key order, and the names of the others, each with the reason."""
        readable: list[Stored[R]] = []
        others: list[tuple[str, str]] = []
        async for one in self._each(keys):
            if isinstance(one, Unreadable):
                record.note_unreadable(one.item, one.error)
                others.append((key_text(one.item.key[len(keys.start) :]), str(one.error)))
            else:
                readable.append(one)
        return readable, others

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

        async def write(item: Item | None) -> Stored[R]:
            return await self.save(Stored(value, item.mod_revision if item else 0))

        return await self._swap(self._key(value), write, may_write_twice=True)

    async def _update(
        self,
        key: bytes,
        change: Callable[[R], R | Awaitable[R]],
        *along: Change,
        first: R | None = None,
        may_write_twice: bool = False,
    ) -> Stored[R] | None:
        """Apply a change to a record. Repeats as `_swap` does, and raises the same errors.

        A missing record counts as `first`; None if there is no `first` either. `change` may be called more than once,
        and may raise to refuse. If it changes nothing and there is no `along`, nothing is written.
        """

        async def write(item: Item | None) -> Stored[R] | None:
            if item is not None:
                stored = self._read(item)
            elif first is not None:
                stored = Stored(first)
            else:
                return None
            value = change(stored.value)
            changed = stored.holding(await value if isinstance(value, Awaitable) else value)
            if not along and changed.value.to_json() == stored.value.to_json():
                return changed
            return await self.save(changed, *along)

        return await self._swap(key, write, may_write_twice=may_write_twice)

    async def _swap(
        self, key: bytes, write: Callable[[Item | None], Awaitable[T]], *, may_write_twice: bool = False
    ) -> T:
        """Read a record and call `write`, which writes over what was read; repeat both after a lost compare-and-swap.

        Raises FencedError when a guard is lost, TemporaryError after `_SWAPS` attempts. Raises RecordUnclearError when
        the write may have been applied, unless it `may_write_twice`: then repeats after this, too.
        """
        lost_at = -1
        for attempt in range(_SWAPS):
            item = await self._store.get(key)
            try:
                return await write(item)
            except RecordChangedError as error:
                if isinstance(error, RecordUnclearError) and not may_write_twice:
                    raise
                revision = item.mod_revision if item else 0
                # Lost twice at one revision: no other process wrote the record.
                if self._guards and revision == lost_at:
                    raise FencedError("the lock was lost; nothing was written") from None
                lost_at = revision
                await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.01 * (attempt + 1))))  # noqa: S311 - jitter
        raise TemporaryError(f"lost {_SWAPS} compare-and-swaps of {key_text(key)} in a row to other writers", delay=1.0)

    async def _put_all(self, values: Iterable[R]) -> None:
        """Write values over whatever stands at their keys, in their order, some in each transaction.

        For records that no other process writes meanwhile. Raises what `_commit` raises.
        """
        some, size = list[Change](), 0
        for value in values:
            put = Put(self._key(value), encode(value.to_json()))
            if some and (len(some) >= _PUTS or size + len(put.value) > _PUT_BYTES):
                await self._commit(*some)
                some, size = [], 0
            some.append(put)
            size += len(put.value)
        if some:
            await self._commit(*some)

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
        raise TemporaryError("etcd never confirmed the write of some records", delay=1.0)
