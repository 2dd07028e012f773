"""Probes whether all kube-apiservers run a configuration, and waits until they do.

Their /metrics report the configuration that each runs; their identity leases in etcd give their number;
`convergence.py` judges, with an operator's recorded statement about exactly this file where there is one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import structlog

from kube_rewrap.config.encryption.generation import NO_TARGETS
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.logs import Repetition
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence, assume, judge
from kube_rewrap.scheduler.apiservers.leases import IdentityLease, Leases, decode_lease
from kube_rewrap.scheduler.apiservers.metrics_client import scrape_all
from kube_rewrap.worker.errors import TemporaryError
from kube_rewrap.worker.etcd.items import read_items
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.assumption import Assumption
from kube_rewrap.worker.records.assumptions import Assumptions
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace

_PROBE_SECONDS = 5.0
"""Between two probes: kube-apiserver reads its file once a minute, so probing more often shows nothing new."""

_log = structlog.get_logger()


class ConvergenceProbe(Protocol):
    """Probes the kube-apiservers of one cluster."""

    async def probe(self, file_hash: str, targets: Mapping[str, str] = NO_TARGETS) -> Convergence:
        """Return whether all kube-apiservers run the file with this hash, and write under the KEKs in `targets`.

        Raises SettingsError for credentials that can't be read, TemporaryError when etcd does not answer.
        """


class ApiserverProbe:
    """See ConvergenceProbe. It reads `store`; only `assume` writes to it.

    `file` is the configuration's path: its change time decides where a replica reports no hash. None: not known.
    """

    def __init__(self, settings: Settings, store: Store, file: str | None = None) -> None:
        self._settings = settings.apiservers
        root = Layout(settings.keyspace.etcd_prefix).root
        self._leases = KeyRange.of_prefix(root + b"leases/kube-system/apiserver-")
        self._keyspace = Keyspace(settings.keyspace.state_prefix)
        self._store = store
        self._file = file

    async def probe(self, file_hash: str, targets: Mapping[str, str] = NO_TARGETS) -> Convergence:
        """See ConvergenceProbe."""
        scrapes, leases = await asyncio.gather(scrape_all(self._settings), self._read_leases())
        changed_at = await asyncio.to_thread(self._changed_at)
        found = judge(file_hash, scrapes, leases, time.time(), changed_at, targets=targets)
        given = await Assumptions(self._store, self._keyspace).load()
        if given is None or given.file_hash != file_hash:
            return found
        return assume(found, given.reason, given.at)

    async def assume(self, file_hash: str, reason: str, audit: AuditLog) -> Convergence:
        """Record an operator's statement about a file, first in the audit log. Raises TemporaryError, RecordError."""
        given = Assumption(file_hash, reason, datetime.now(UTC).isoformat(timespec="seconds"))
        await audit.append("convergence.assumed", "", file_hash=file_hash, reason=reason)
        await Assumptions(self._store, self._keyspace).replace(given)
        return assume(Convergence(is_converged=False, file_hash=file_hash, because=""), given.reason, given.at)

    def _changed_at(self) -> float | None:
        """Return when the file was changed, in seconds since 1970."""
        try:
            return Path(self._file).stat().st_mtime if self._file is not None else None
        except OSError:
            return None

    async def _read_leases(self) -> Leases:
        found: list[IdentityLease] = []
        unreadable: list[str] = []
        async for item in read_items(self._store, self._leases):
            try:
                lease = decode_lease(item.key, item.value)
            except ValueError as error:
                unreadable.append(str(error))
            else:
                found += [lease] if lease is not None else []
        return Leases(tuple(found), tuple(unreadable))


async def wait_converged(
    probe: Callable[[], Coroutine[object, object, Convergence]],
    brake: Brake,
    seconds: float,
    pause: float = _PROBE_SECONDS,
) -> Convergence:
    """Probe until all replicas have converged or `seconds` have passed; returns the result of the last probe.

    `pause` is the longest between two probes, in seconds. Raises the brake's reason; SettingsError; and
    TemporaryError when etcd did not answer the last probe.
    """
    loop = asyncio.get_running_loop()
    began, reason = loop.time(), Repetition()
    while True:
        left = began + seconds - loop.time()
        try:
            found = await brake.unless_pulled(probe())
        except TemporaryError as error:
            if left <= 0:
                raise
            because = str(error)
        else:
            if found.is_converged:
                _log.info("convergence.reached", file_hash=found.file_hash, because=found.because)
                return found
            because = found.because
            if left <= 0:
                _log.warning("convergence.timed_out", file_hash=found.file_hash, because=because)
                return found
        if reason.begins(because):
            _log.info("convergence.waiting", because=because)
        await brake.unless_pulled(asyncio.sleep(min(left, pause * random.uniform(0.5, 1.0))))  # noqa: S311 - jitter
