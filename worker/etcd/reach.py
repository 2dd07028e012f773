"""Checks every few seconds whether etcd answers, since an idle process makes no other calls that would show it.

A check waits at most `_ANSWER_SECONDS`, whatever the time-outs of other calls. The first one in an outage logs the
likely cause for each endpoint.
"""

from __future__ import annotations

import asyncio
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import structlog

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.errors import TemporaryError, WorkerError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.diagnosis import diagnose_each, unanswered
from kube_rewrap.worker.etcd.store import Store

_CHECK_SECONDS = 5.0
_ANSWER_SECONDS = 4.0
_NO_ANSWER = "etcd does not answer, so this process can't work; see the log: etcd.unavailable"
_log = structlog.get_logger()


class Reach:
    """`trouble` is a sentence while etcd does not answer, "" while it does. Other threads may read it."""

    def __init__(self, settings: EtcdSettings) -> None:
        self._settings = settings
        self.trouble = "etcd was not reached yet"

    async def follow(self, store: Store) -> None:
        """Check every few seconds until cancelled."""
        while True:
            await self._check(store)
            await asyncio.sleep(_CHECK_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311 - jitter

    async def _check(self, store: Store) -> None:
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                await store.revision()
        except (TemporaryError, TimeoutError):
            await self._lost()
            return
        except WorkerError as error:
            await self._lost(str(error))
            return
        if self.trouble:
            await self._found(store)
        self.trouble = ""

    async def _found(self, store: Store) -> None:
        """Log which members of etcd answer."""
        try:
            async with asyncio.timeout(_ANSWER_SECONDS):
                members = await store.members()
        except (WorkerError, TimeoutError):
            members = []  # a user without the right to ask for the status, or etcd is away again
        known = [f"{one.endpoint} {one.version}" for one in members]
        cluster = f"{members[0].cluster_id:x}" if members else None
        _log.info("etcd.available", members=known, cluster=cluster, because="etcd answers")

    async def _lost(self, because: str = "") -> None:
        """Log why etcd can't be used, once an outage; without a reason, the likely one."""
        is_new, self.trouble = self.trouble != _NO_ANSWER, _NO_ANSWER
        if is_new:
            # gRPC's own text is vague, and may quote what a proxy says.
            last = f"no answer within {_ANSWER_SECONDS:g} s"
            because = because or unanswered(await diagnose_each(self._settings, last))
            _log.warning("etcd.unavailable", endpoints=list(self._settings.endpoints), because=because)

    async def follow_alone(self, state_prefix: str) -> None:
        """Check every few seconds until cancelled, over a connection of its own."""
        while True:
            try:
                async with open_store(self._settings, state_prefix) as store:
                    await self.follow(store)
            except (ConfigError, WorkerError) as error:
                await self._lost(str(error))
            await asyncio.sleep(_CHECK_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311 - jitter


@contextmanager
def follow_etcd(settings: EtcdSettings, state_prefix: str) -> Iterator[Reach]:
    """Check in a thread of its own while the block runs, for a process whose main thread has no event loop."""
    reach, loop = Reach(settings), asyncio.new_event_loop()
    following = loop.create_task(reach.follow_alone(state_prefix))

    def follow() -> None:
        loop.run_until_complete(asyncio.gather(following, return_exceptions=True))
        loop.close()

    thread = threading.Thread(target=follow, name="etcd-reach", daemon=True)
    thread.start()
    try:
        yield reach
    finally:
        loop.call_soon_threadsafe(following.cancel)
        thread.join(_ANSWER_SECONDS)
