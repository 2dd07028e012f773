"""The audit log."""

from __future__ import annotations

import structlog

from worker.etcd.store import Store
from worker.state.keyspace import Keyspace

_log = structlog.get_logger()


class AuditLog:
    """Entries of what was decided."""

    def __init__(self, store: Store, keyspace: Keyspace, actor: str) -> None:
        self._store = store
        self._keyspace = keyspace
        self._actor = actor

    async def append(self, event: str, campaign: str, **detail: object) -> None:
        """Add one entry."""
        _log.info("audit", entry_event=event, campaign=campaign, detail=detail)
