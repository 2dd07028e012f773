"""The audit log on record: an entry and the head in one transaction, so that none is doubled or left out."""

from __future__ import annotations

import asyncio
import os
import random
import socket
from collections.abc import AsyncIterator
from datetime import UTC, datetime

import structlog

from worker.errors import RecordChangedError, TemporaryError
from worker.etcd.store import Delete, Put, Store
from worker.model.audit import Entry, Head, Scalar
from worker.state import record
from worker.state.codec import damaged, encode
from worker.state.keyspace import Keyspace

KEPT = 10_000
"""Entries that are kept; the one that falls out is deleted with each new one."""

_ATTEMPTS = 50
_log = structlog.get_logger()


class AuditLog:
    """The log of one state prefix. `actor` is the command that writes; host and pid are added."""

    def __init__(self, store: Store, keyspace: Keyspace, actor: str) -> None:
        self._store = store
        self._keyspace = keyspace
        self._actor = f"{actor} {socket.gethostname()}:{os.getpid()}"

    async def append(self, event: str, campaign: str, **detail: Scalar) -> Entry:
        """Add one entry, and say it in the log with its hash. Raises TemporaryError when etcd does not let us."""
        at = datetime.now(UTC).isoformat(timespec="milliseconds")
        for attempt in range(_ATTEMPTS):
            head, revision = await self._head()
            entry = Entry(head.number + 1, at, event, campaign, self._actor, detail, head.hash).sealed()
            try:
                await self._write(entry, head, revision)
            except RecordChangedError:
                # Somebody else was faster; or, after a lost answer, it may be ours that stands there.
                if await self._is_ours(entry):
                    break
                await asyncio.sleep(random.uniform(0, 0.01) * (attempt + 1))  # noqa: S311 - jitter
            else:
                break
        else:
            raise TemporaryError("the audit log is written to too often by others", delay=1.0)
        context = {"number": entry.number, "hash": entry.hash, "campaign": campaign, "detail": detail}
        _log.info("audit", entry_event=event, **context)
        return entry

    async def head(self) -> Head:
        """Return the newest entry's number and hash. Raises RecordError when the record is damaged."""
        return (await self._head())[0]

    async def entries(self) -> AsyncIterator[Entry]:
        """Yield the kept entries, oldest first. Raises RecordError for a damaged one."""
        async for item, fields in record.read_all(self._store, self._keyspace.audit):
            try:
                yield Entry.from_json(fields)
            except ValueError as error:
                raise damaged(item.key, error) from None

    async def _head(self) -> tuple[Head, int]:
        found = await record.read(self._store, self._keyspace.audit_head)
        if found is None:
            return Head(), 0
        try:
            return Head.from_json(found[0]), found[1]
        except ValueError as error:
            raise damaged(self._keyspace.audit_head, error) from None

    async def _write(self, entry: Entry, head: Head, revision: int) -> None:
        oldest = max(head.oldest, entry.number - KEPT + 1)
        along: list[Put | Delete] = [Put(self._keyspace.audit_entry(entry.number), encode(entry.to_json()))]
        along += [Delete.of_key(self._keyspace.audit_entry(number)) for number in range(head.oldest, oldest)]
        moved = Head(entry.number, entry.hash, oldest)
        await record.write(self._store, self._keyspace.audit_head, moved.to_json(), revision, along=along)

    async def _is_ours(self, entry: Entry) -> bool:
        found = await record.read(self._store, self._keyspace.audit_entry(entry.number))
        return found is not None and found[0].get("hash") == entry.hash
