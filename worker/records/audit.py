"""The audit log in etcd. Each entry is written in one transaction with the head: no entry is doubled or lost."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog

from kube_rewrap.worker.errors import RecordChangedError, RecordError, RecordUnclearError, TemporaryError
from kube_rewrap.worker.etcd.ranges import KeyRange, after, key_text
from kube_rewrap.worker.etcd.store import Delete, Expect, Item, Put, Store
from kube_rewrap.worker.records import record
from kube_rewrap.worker.records.audit_chain import Entry, Head, Scalar, detail_of
from kube_rewrap.worker.records.codec import damaged, decode, encode
from kube_rewrap.worker.records.keyspace import Keyspace

KEPT = 10_000
"""Entries that the log keeps; the transaction that adds an entry deletes those older than that."""

_ATTEMPTS = 50
_LONGEST_PAUSE = 0.5
_PAGE = 200
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The whole log at one revision; `damaged` has one sentence for each unreadable record."""

    head: Head
    entries: tuple[Entry, ...]
    damaged: tuple[str, ...]


class AuditLog:
    """The log of one state prefix. `actor` is the command that writes; the log adds host and pid."""

    def __init__(self, store: Store, keyspace: Keyspace, actor: str) -> None:
        self._store = store
        self._keyspace = keyspace
        self._actor = f"{actor} {socket.gethostname()}:{os.getpid()}"

    async def append(self, event: str, campaign: str, **detail: Scalar) -> Entry:
        """Add one entry to the audit log, and log it with its hash. Many processes may append at once.

        Raises TemporaryError when the write loses too many compare-and-swaps, or etcd does not answer;
        RecordError when the log is damaged so that the write would overwrite an entry.
        """
        given, at = detail_of(detail), datetime.now(UTC).isoformat(timespec="milliseconds")
        for attempt in range(_ATTEMPTS):
            head, revision = await self._head()
            entry = Entry(
                number=head.number + 1,
                at=at,
                event=event,
                campaign=campaign,
                actor=self._actor,
                detail=given,
                previous=head.hash,
            ).sealed()
            if await self._write(entry, head, revision):
                break
            await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.01 * (attempt + 1))))  # noqa: S311 - jitter
        else:
            raise TemporaryError("the audit log is written to too often by others", delay=1.0)
        # The whole entry, so that an auditor can compare the log lines with etcd.
        fields = {name: value for name, value in entry.to_json().items() if name != "event"}
        _log.info("audit", entry_event=event, **fields)
        return entry

    async def head(self) -> Head:
        """Return the newest entry's number and hash. Raises RecordError when the record is damaged."""
        return (await self._head())[0]

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield the kept entries, oldest first. Raises RecordError for a damaged one."""
        async for item in record.read_items(self._store, self._keyspace.audit):
            yield self._entry(item)

    async def snapshot(self) -> Snapshot:
        """Return the log at one revision, without what other processes append meanwhile.

        Raises CompactedError when etcd compacts that revision during the read.
        """
        head, entries, faults = Head(), list[Entry](), list[str]()
        async for item in self._pinned():
            try:
                if item.key == self._keyspace.audit_head:
                    head = _head_of(item)
                elif item.key in self._keyspace.audit:
                    entries.append(self._entry(item))
            except RecordError as error:
                faults.append(str(error))
        return Snapshot(head, tuple(entries), tuple(faults))

    async def _pinned(self) -> AsyncIterator[Item]:
        """Yield head and entries as of one revision, read as one range: their keys are neighbours."""
        rest, revision = KeyRange(self._keyspace.audit_head, self._keyspace.audit.end), 0
        while True:
            page = await self._store.page(rest, _PAGE, revision=revision)
            for item in page.items:
                yield item
            if not page.more:
                return
            rest, revision = rest.since(after(page.items[-1].key)), revision or page.revision

    async def _head(self) -> tuple[Head, int]:
        item = await self._store.get(self._keyspace.audit_head)
        return (Head(), 0) if item is None else (_head_of(item), item.mod_revision)

    def _entry(self, item: Item) -> Entry:
        try:
            entry = Entry.from_json(decode(item.key, item.value))
        except ValueError as error:
            raise damaged(item.key, error) from None
        if item.key != self._keyspace.audit_entry(entry.number):
            raise damaged(item.key, ValueError(f"it holds entry {entry.number}"))
        return entry

    async def _write(self, entry: Entry, head: Head, revision: int) -> bool:
        """Write an entry after this head; False when another process wrote first, and this one wrote nothing."""
        place = self._keyspace.audit_entry(entry.number)
        # A nonce, as in every record: two processes may write equal entries at the same moment.
        value = encode({**entry.to_json(), "by": os.urandom(8).hex()})
        oldest = max(head.oldest, entry.number - KEPT + 1)
        along: list[Put | Delete] = [Put(place, value)]
        if oldest > head.oldest:
            fallen = KeyRange(self._keyspace.audit_entry(head.oldest), self._keyspace.audit_entry(oldest))
            along.append(Delete(fallen))
        moved = Head(entry.number, entry.hash, oldest).to_json()
        guards = [Expect(place, 0)]
        try:
            await record.write(self._store, self._keyspace.audit_head, moved, revision, guards=guards, along=along)
        except RecordUnclearError:
            # The answer was lost, and the head has moved on: this process moved it if its own bytes are at `place`.
            found = await self._store.get(place)
            return found is not None and found.value == value
        except RecordChangedError:
            await self._require_room(place, revision)
            return False
        return True

    async def _require_room(self, place: bytes, revision: int) -> None:
        """Raise RecordError when `place`, the key of the next entry by this head, already holds an entry."""
        found = await self._store.get(place)
        if found is not None and (await self._head())[1] == revision:
            raise RecordError(
                f"the audit log's head was deleted or set back: {key_text(place)} is there already. See rewrap "
                f"audit-log verify; keep a copy of what is under {key_text(self._keyspace.audit.start)}, then delete "
                f"it and {key_text(self._keyspace.audit_head)} to begin a new log"
            )


def _head_of(item: Item) -> Head:
    try:
        return Head.from_json(decode(item.key, item.value))
    except ValueError as error:
        raise damaged(item.key, error) from None
