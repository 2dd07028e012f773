"""The audit log in etcd. Each entry is written in one transaction with the head: no entry is doubled or lost."""

from __future__ import annotations

import os
import socket
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from kube_rewrap.worker.errors import RecordChangedError, RecordError, RecordUnclearError
from kube_rewrap.worker.etcd.items import read_items
from kube_rewrap.worker.etcd.ranges import KeyRange, key_text
from kube_rewrap.worker.etcd.store import Delete, Expect, Item, Put, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.audit_chain import ChainCheck, Entry, Head, Scalar, detail_of
from kube_rewrap.worker.records.codec import damaged, decode, encode
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.table import Change, Stored, Table

KEPT = 10_000
"""Entries that the log keeps; the transaction that adds an entry deletes older ones."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Entries of the log at one revision, oldest first; `damaged` has one sentence for each unreadable record."""

    head: Head
    entries: tuple[Entry, ...]
    damaged: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Verdict:
    """The result of a check of the whole log at one revision; `faults` as `ChainCheck.end`, and unreadable records.

    `first` and `last` are the oldest and the newest of its `entries`; None = it has none.
    """

    head: Head
    entries: int
    first: Entry | None
    last: Entry | None
    faults: tuple[str, ...]


class AuditLog(Table[Head]):
    """The log of one state prefix. `actor` is the command that writes; the log adds host and pid."""

    _kind = Head

    def __init__(self, store: Store, keyspace: Keyspace, actor: str) -> None:
        super().__init__(store, keyspace)
        self._actor = f"{actor} {socket.gethostname()}:{os.getpid()}"

    def _key(self, _: Head) -> bytes:
        return self._keyspace.audit_head

    async def append(self, event: str, campaign: str, **detail: Scalar) -> Entry:
        """Add one entry to the audit log, and log it with its hash. Many processes may append at once.

        Raises TemporaryError when the write loses too many compare-and-swaps, or etcd does not answer;
        RecordError when the log is damaged so that the write would overwrite an entry.
        """
        given, at = detail_of(detail), datetime.now(UTC).isoformat(timespec="milliseconds")

        async def write(item: Item | None) -> Entry:
            head = self._read(item) if item else Stored(Head())
            entry = Entry(
                number=head.value.number + 1,
                at=at,
                event=event,
                campaign=campaign,
                actor=self._actor,
                detail=given,
                previous=head.value.hash,
            ).sealed()
            await self._write(entry, head)
            return entry

        entry = await self._swap(self._keyspace.audit_head, write)
        # The whole entry, so that an auditor can compare the log lines with etcd.
        fields = {name: value for name, value in entry.to_json().items() if name != "event"}
        _log.info("audit", entry_event=event, **fields)
        return entry

    async def head(self) -> Head:
        """Return the newest entry's number and hash. Raises RecordError when the record is damaged."""
        found = await self._at(self._keyspace.audit_head)
        return found.value if found else Head()

    async def entries(self) -> AsyncGenerator[Entry]:
        """Yield the kept entries, oldest first. Raises RecordError for a damaged one."""
        async with aclosing(read_items(self._store, self._keyspace.audit)) as items:
            async for item in items:
                yield self._entry(item)

    async def newest(self, count: int) -> tuple[Entry, ...]:
        """Return up to `count` entries, the newest first, without reading others. Raises RecordError for damage."""
        number = (await self.head()).number
        newest = KeyRange(self._keyspace.audit_entry(max(1, number - count + 1)), self._keyspace.audit.end)
        page = await self._store.page(newest, count)
        return tuple(self._entry(item) for item in reversed(page.items))

    async def snapshot(self, newest: int | None = None, campaign: str | None = None) -> Snapshot:
        """Return the log at one revision: the newest entries, of one campaign; None = all of them, of any.

        Raises CompactedError when etcd compacts that revision during the read.
        """
        head, entries, faults = Head(), deque[Entry](maxlen=newest), list[str]()
        async for one in self._read_all():
            match one:
                case Head():
                    head = one
                case Entry():
                    if campaign in {None, one.campaign}:
                        entries.append(one)
                case RecordError():
                    faults.append(str(one))
        return Snapshot(head, tuple(entries), tuple(faults))

    async def verify(self) -> Verdict:
        """Check the log at one revision, entry by entry: no number of them fills the memory.

        Raises CompactedError when etcd compacts that revision during the read.
        """
        head, check, damaged = Head(), ChainCheck(Head()), list[str]()
        count, first, last = 0, None, None
        async for one in self._read_all():
            match one:
                case Head():
                    head, check = one, ChainCheck(one)
                case Entry():
                    check.add(one)
                    count, first, last = count + 1, first or one, one
                case RecordError():
                    damaged.append(str(one))
        return Verdict(head, count, first, last, (*damaged, *check.end()))

    async def _read_all(self) -> AsyncGenerator[Head | Entry | RecordError]:
        """Yield the head if there is one, then the entries, as of one revision; an error for each unreadable one."""
        # One range: the key of the head sorts just before those of the entries.
        everything = KeyRange(self._keyspace.audit_head, self._keyspace.audit.end)
        async for item in read_items(self._store, everything, revision=await self._store.revision()):
            read: Head | Entry | RecordError
            try:
                if item.key == self._keyspace.audit_head:
                    read = self._read(item).value
                elif item.key in self._keyspace.audit:
                    read = self._entry(item)
                else:
                    continue
            except RecordError as error:
                read = error
            yield read

    def _entry(self, item: Item) -> Entry:
        try:
            entry = Entry.from_json(decode(item.key, item.value))
        except ValueError as error:
            raise damaged(item.key, error) from None
        if item.key != self._keyspace.audit_entry(entry.number):
            raise damaged(item.key, ValueError(f"it holds entry {entry.number}"))
        return entry

    async def _write(self, entry: Entry, head: Stored[Head]) -> None:
        """Write an entry after this head. Raises RecordChangedError when it was not written."""
        place, oldest = self._keyspace.audit_entry(entry.number), max(head.value.oldest, entry.number - KEPT + 1)
        # A nonce, as in every record: two processes may write equal entries at the same moment.
        value = encode({**entry.to_json(), "by": os.urandom(8).hex()})
        fallen = KeyRange(self._keyspace.audit_entry(head.value.oldest), self._keyspace.audit_entry(oldest))
        along: list[Change] = [Put(place, value), *([] if fallen.is_empty else [Delete(fallen)])]
        moved = Head(entry.number, entry.hash, oldest).to_json()
        try:
            await record.write(
                self._store, self._keyspace.audit_head, moved, head.revision, guards=[Expect(place, 0)], along=along
            )
        except RecordUnclearError:
            # The answer was lost, and the head has moved on: this process moved it if its own bytes are at `place`.
            found = await self._store.get(place)
            if found is None or found.value != value:
                raise RecordChangedError(f"{key_text(place)} was written by another process") from None
        except RecordChangedError:
            await self._require_room(place, head.revision)
            raise

    async def _require_room(self, place: bytes, revision: int) -> None:
        """Raise RecordError when `place`, the key of the next entry by this head, already holds an entry."""
        occupied, head = await self._store.get(place), await self._store.get(self._keyspace.audit_head)
        if occupied is not None and (head.mod_revision if head else 0) == revision:
            raise RecordError(
                f"the audit log's head was deleted or set back: {key_text(place)} exists already. See rewrap "
                f"audit-log verify; keep a copy of what is under {key_text(self._keyspace.audit.start)}, then delete "
                f"it and {key_text(self._keyspace.audit_head)} to begin a new log"
            )
