"""Looks whether all kube-apiservers run a configuration, and waits until they do.

Their /metrics say what they run, their identity leases in etcd say how many there are; `convergence.py`
judges. What nobody can tell, an operator's word for exactly this configuration decides; it never counts
against a replica that says itself that it runs another one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Coroutine
from datetime import UTC, datetime
from pathlib import Path

import structlog

from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import ApiserverSettings, KeyspaceSettings, Settings
from kube_rewrap.scheduler.apiservers.convergence import Verdict, assume, judge
from kube_rewrap.scheduler.apiservers.leases import IdentityLease, Leases, decode_lease
from kube_rewrap.scheduler.apiservers.metrics_client import ask_all
from kube_rewrap.worker.errors import TemporaryError
from kube_rewrap.worker.etcd.ranges import KeyRange, after
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.assumption import Assumption
from kube_rewrap.worker.records.assumptions import Assumptions
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace

_LOOK_SECONDS = 5.0
"""Between two looks: kube-apiserver looks at its file once a minute, so more often would tell nothing new."""

_PAGE = 100
_log = structlog.get_logger()


Converged = Callable[[str], Awaitable[tuple[bool, str]]]
"""Whether every kube-apiserver runs the file with this hash, and why."""


class Convergence:
    """What one cluster's kube-apiservers run. `store` is only read, but for an operator's word.

    `file`: the configuration's; when it was changed is asked for where a replica reports no hash. None: not known.
    """

    def __init__(
        self, settings: ApiserverSettings, keyspace: KeyspaceSettings, store: Store, file: str | None = None
    ) -> None:
        self._settings = settings
        self._leases = KeyRange.of_prefix(Layout(keyspace.etcd_prefix).root + b"leases/kube-system/apiserver-")
        self._keyspace = Keyspace(keyspace.state_prefix)
        self._store = store
        self._file = file

    async def look(self, generation: str) -> Verdict:
        """Ask all and return whether all run the configuration with this hash.

        Raises SettingsError for credentials that can't be read, UnavailableError when etcd is away.
        """
        answers, leases = await asyncio.gather(ask_all(self._settings), self._read_leases())
        changed_at = await asyncio.to_thread(self._changed_at)
        verdict = judge(generation, answers, leases, time.time(), changed_at)
        given = await Assumptions(self._store, self._keyspace).load()
        if verdict.converged or verdict.is_contradicted or given is None or given.generation != generation:
            return verdict
        return assume(generation, given.reason, given.at, verdict)

    async def assume(self, generation: str, reason: str, audit: AuditLog) -> Verdict:
        """Record an operator's word, in the audit log first. Raises TemporaryError, RecordError."""
        given = Assumption(generation, reason, datetime.now(UTC).isoformat(timespec="seconds"))
        await audit.append("converged.assumed", "", generation=generation, reason=reason)
        await Assumptions(self._store, self._keyspace).replace(given)
        return assume(generation, given.reason, given.at)

    def _changed_at(self) -> float | None:
        """Return when the file was changed, in seconds since 1970."""
        try:
            return Path(self._file).stat().st_mtime if self._file is not None else None
        except OSError:
            return None

    async def _read_leases(self) -> Leases:
        found: list[IdentityLease] = []
        unreadable: list[str] = []
        rest, more = self._leases, True
        while more:
            page = await self._store.page(rest, _PAGE)
            for item in page.items:
                try:
                    lease = decode_lease(item.key, item.value)
                except ValueError as error:
                    unreadable.append(str(error))
                else:
                    found += [lease] if lease is not None else []
            more = page.more
            rest = rest.since(after(page.items[-1].key)) if more else rest
        return Leases(tuple(found), tuple(unreadable))


async def wait_converged(
    look: Callable[[], Coroutine[object, object, Verdict]], brake: Brake, seconds: float, pause: float = _LOOK_SECONDS
) -> Verdict:
    """Look until all run it or `seconds` have passed; returns the last verdict, which says which of the two.

    `pause` is the longest between two looks, in seconds. Raises what the brake was pulled for; SettingsError; and
    TemporaryError when etcd was away at the last look.
    """
    loop = asyncio.get_running_loop()
    began, said = loop.time(), ""
    while True:
        left = began + seconds - loop.time()
        try:
            verdict = await brake.unless_pulled(look())
        except TemporaryError as error:
            if left <= 0:
                raise
            because = str(error)
        else:
            if verdict.converged:
                _log.info("converge.done", generation=verdict.generation, because=verdict.because)
                return verdict
            because = verdict.because
            if left <= 0:
                _log.warning("converge.timed_out", generation=verdict.generation, because=because)
                return verdict
        if because != said:
            said = because
            _log.info("converge.waiting", because=because)
        await brake.unless_pulled(asyncio.sleep(min(left, pause * random.uniform(0.5, 1.0))))  # noqa: S311 - jitter


async def not_converged(converged: Converged, generation: str) -> str:
    """Return why the kube-apiservers are not known to run a configuration, "" when they do."""
    return _unconverged(*await converged(generation))


def unconverged(verdict: Verdict) -> str:
    """As `not_converged`, of a verdict."""
    return _unconverged(verdict.converged, verdict.because)


def _unconverged(is_converged: bool, because: str) -> str:
    return "" if is_converged else f"the kube-apiservers are not known to run this configuration: {because}"


def converged_by(settings: Settings, store: Store, file: str) -> Converged:
    """Return how the kube-apiservers are asked. It waits for nothing: a rotation looks again."""
    convergence = Convergence(settings.apiservers, settings.keyspace, store, file)

    async def converged(generation: str) -> tuple[bool, str]:
        verdict = await convergence.look(generation)
        return verdict.converged, verdict.because

    return converged
