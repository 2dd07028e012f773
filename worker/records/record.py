"""Writes one record so that the outcome is known, and logs unreadable ones.

Every write carries a nonce of its own: after a lost answer, equal bytes in etcd prove that this write was applied.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import structlog

from kube_rewrap.worker.errors import RecordChangedError, RecordError, RecordUnclearError, TemporaryError
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.etcd.store import Delete, Expect, Item, Outcome, Put, Store
from kube_rewrap.worker.records.codec import encode

_ATTEMPTS = 5
_MOST_NOTED = 1_000
_noted: set[tuple[bytes, int, int]] = set()
_log = structlog.get_logger()


async def write(
    store: Store,
    key: bytes,
    record: Mapping[str, object],
    revision: int,
    *,
    guards: Sequence[Expect] = (),
    along: Sequence[Put | Delete] = (),
) -> int:
    """Write a record if its mod_revision is still `revision` (0 = new) and all guards hold.

    The same transaction applies `along`. Returns the record's new mod_revision. Raises RecordChangedError when another
    process wrote before or a guard is lost: nothing was written. Raises RecordUnclearError when another process has
    written, and this write may have been applied before that; TemporaryError when etcd never answered.
    """
    value = encode({**record, "by": os.urandom(8).hex()})
    for attempt in range(_ATTEMPTS):
        result = await store.commit([Expect(key, revision), *guards], [Put(key, value), *along])
        if result.outcome is Outcome.APPLIED:
            return result.revision
        found = await store.get(key)
        if found is not None and found.value == value:
            return found.mod_revision
        if result.outcome is Outcome.LOST and attempt == 0:
            raise RecordChangedError(f"{key_text(key)} was changed by another process, or its lock was lost")
        if result.outcome is Outcome.LOST or (found.mod_revision if found else 0) != revision:
            raise RecordUnclearError(f"{key_text(key)} was changed by another process, before or after this one did")
    raise TemporaryError(f"etcd never confirmed the write of {key_text(key)}", delay=1.0)


def note_unreadable(item: Item, error: RecordError) -> None:
    """Log that a record is unreadable and ignored: once per process for each version of the record."""
    state = (item.key, item.mod_revision, hash(item.value))
    if state in _noted:
        return
    if len(_noted) >= _MOST_NOTED:
        _noted.clear()
    _noted.add(state)
    _log.error("record.unreadable", because=str(error))
