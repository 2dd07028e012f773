"""`rewrap scheduler`: waits for leadership, follows the configuration file, runs controllers under each generation."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from functools import partial

import structlog
from prometheus_client import CollectorRegistry

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.logs import Repetition
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.probe import ApiserverProbe, ConvergenceProbe
from kube_rewrap.scheduler.backups.figures import follow_catalogue
from kube_rewrap.scheduler.configuration.keks import KekWatch
from kube_rewrap.scheduler.configuration.watcher import ConfigurationWatch
from kube_rewrap.scheduler.daemon.controllers import ControllerContext, Controllers, LeaderState
from kube_rewrap.scheduler.daemon.election import leadership
from kube_rewrap.scheduler.dispatch.celery import Sender
from kube_rewrap.scheduler.engine import ask_key_ids
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.registry.cluster import open_cluster
from kube_rewrap.scheduler.rotation.file import ConfigurationFile, archive_of
from kube_rewrap.worker.background import background
from kube_rewrap.worker.errors import (
    FencedError,
    KmsRefusedError,
    KmsUnavailableError,
    OutdatedError,
    StoppedError,
    TemporaryError,
    WorkerError,
)
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.reach import Reach
from kube_rewrap.worker.etcd.store import Expect, Store
from kube_rewrap.worker.monitoring import serve
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.usable import Usable

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_TICK_SECONDS = 5.0
_PROBE_SECONDS = 5.0
_FILE_SECONDS = 0.1
# Reasons that /readyz shows to unauthenticated clients; only the log has details.
_OUTDATED = "the configuration file is an old copy, or refused; see the log: configuration.outdated"
_UNAVAILABLE = "etcd can't be reached; see the log: scheduler.restarted"
_NO_KMS = "a KMS plugin is needed and does not serve; see the log: scheduler.restarted"
_FAILED = "this scheduler failed and starts again; see the log: scheduler.restarted"
_NO_QUEUE = "Redis takes no messages, so campaigns make no progress; see the log: queue.unavailable"
_NO_KEK = "this scheduler leads, and a KMS plugin names no key-encryption key yet; see the log: kek.held"
_NO_FILE = "this scheduler leads, and no configuration is in force yet; see the log: configuration.rejected"

_log = structlog.get_logger()


class Daemon:
    """The scheduler's process. A signal pulls `stop`."""

    def __init__(self, settings: Settings, file: str, stop: Brake, *, allow_readable: bool) -> None:
        self._settings = settings
        self._file = file
        self._stop = stop
        self._allow_readable = allow_readable
        self._sender = Sender(settings)
        self._registry = CollectorRegistry()
        self._metrics = SchedulerMetrics(self._registry)
        self._not_ready = ""
        self._held: Callable[[], str] = str
        self._reach = Reach(settings.etcd)
        self._layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
        self._usable = Usable(file, self._layout, allow_readable=allow_readable)

    async def run(self) -> None:
        """Wait for leadership and lead, again and again, until `stop` is pulled.

        Raises ConfigError, and any error that is no WorkerError: a retry would not mend either.
        """
        address = self._settings.service.metrics_addr
        async with background(self._stop.pull) as begin:
            begin("the heartbeat", self._tick)
            begin("the queue probe", self._probe)
            if self._settings.backups.catalogue is not None:
                begin("the catalogue", partial(follow_catalogue, self._settings.backups.catalogue, self._metrics))
            with ExitStack() as stack:
                if address is not None:
                    stack.enter_context(serve(address, self._registry, self._metrics.alive, self._ready))
                await self._run()

    async def _tick(self) -> None:
        """Show /healthz that the event loop runs."""
        while True:
            self._metrics.ticked()
            await asyncio.sleep(_TICK_SECONDS)

    async def _probe(self) -> None:
        """Probe Redis at intervals: while no message is sent, only this notices an outage."""
        while True:
            await self._sender.probe()
            self._metrics.queue(is_available=self._sender.is_available)
            await asyncio.sleep(_PROBE_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311 - jitter

    def _ready(self) -> str:
        """See Question: ready while etcd and Redis answer and the file is usable; a leader also needs it in force."""
        if self._not_ready == _NO_FILE and self._held():
            return _NO_KEK
        return self._not_ready or self._reach.trouble or ("" if self._sender.is_available else _NO_QUEUE)

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        reason = Repetition()
        try:
            while True:
                self._stop.check()
                began = asyncio.get_running_loop().time()
                try:
                    await self._candidate()
                except StoppedError:
                    raise
                except OutdatedError as error:
                    # Leadership was released, so that a scheduler with the newer file may take it.
                    self._not_ready = _OUTDATED
                    if reason.begins(str(error)):
                        _log.error("configuration.outdated", because=str(error))
                except WorkerError as error:
                    # The records hold all progress; the next candidacy continues from them.
                    self._not_ready = _not_ready(error)
                    if reason.begins(str(error)):
                        expected = isinstance(error, TemporaryError | FencedError)
                        (_log.warning if expected else _log.error)("scheduler.restarted", because=str(error))
                if asyncio.get_running_loop().time() - began > _LONGEST_PAUSE:
                    pause = _FIRST_PAUSE
                wait = pause * random.uniform(0.5, 1.0)  # noqa: S311 - jitter
                await self._stop.unless_pulled(asyncio.sleep(wait))
                pause = min(_LONGEST_PAUSE, 2 * pause)
        except StoppedError as reason:
            _log.info("scheduler.stopped", because=str(reason))
        finally:
            self._sender.close()

    async def _candidate(self) -> None:
        """Wait for leadership, and lead until it is lost, a controller fails, or `stop` is pulled."""
        settings = self._settings
        try:
            async with (
                open_store(settings.etcd, settings.keyspace.state_prefix) as store,
                self._stop.below() as brake,
                background(brake.pull) as begin,
            ):
                begin("the etcd probe", partial(self._reach.follow, store))
                stop_checking = begin("the configuration probe", self._usable.follow)
                await asyncio.to_thread(self._usable.check)  # the result of an earlier candidacy may be outdated
                await self._wait_for_file(brake)
                async with leadership(store, Keyspace(settings.keyspace.state_prefix), brake, self._waiting) as guard:
                    if self._usable.trouble:
                        return  # the file became unusable meanwhile; another scheduler may have a usable one
                    stop_checking()  # ConfigurationWatch follows the file from here on
                    self._metrics.leads(leads=True)
                    self._not_ready = _NO_FILE
                    await self._lead(store, guard, brake, ApiserverProbe(settings, store, self._file))
        except StoppedError:
            return
        finally:
            self._metrics.leads(leads=False)

    async def _wait_for_file(self, brake: Brake) -> None:
        """Wait until the file is usable: a leader without one would keep out schedulers that have one."""
        while self._usable.trouble:
            self._not_ready = self._usable.trouble
            await brake.unless_pulled(asyncio.sleep(_FILE_SECONDS))

    def _waiting(self, because: str) -> None:
        """See OnWaiting. A scheduler that waits is ready while etcd answers and its file is usable.

        Raises StoppedError when the file is unusable, which ends the candidacy.
        """
        self._not_ready = because or self._usable.trouble
        if self._usable.trouble:
            raise StoppedError(self._usable.trouble)

    async def _lead(self, store: Store, guard: Expect, brake: Brake, apiservers: ConvergenceProbe) -> None:
        """Run controllers under the newest generation; a newer one stops them, and starts others."""
        allowed = self._allow_readable
        watch = ConfigurationWatch(self._file, self._settings.service, self._layout, allow_readable=allowed)
        settings = self._settings.rotation
        archive = settings.archive or archive_of(self._file)
        file = ConfigurationFile(self._file, archive, allow_readable=allowed, kms_file=settings.kms_file)
        state, before = LeaderState(self._metrics), ""
        keyspace = Keyspace(self._settings.keyspace.state_prefix)
        keks = KekWatch(
            Keks(store, keyspace, [guard]),
            AuditLog(store, keyspace, "rewrap scheduler"),
            partial(ask_key_ids, self._settings),
            self._settings.kms.settle,
            self._metrics.keks,
        )
        self._held = lambda: keks.held
        async with aclosing(keks.generations(watch.generations())) as generations:
            newest = await brake.unless_pulled(anext(generations))

            async def follow(superseded: Brake) -> None:
                nonlocal newest
                newest = await anext(generations)
                superseded.pull(StoppedError("a newer configuration is in force"))

            def accepted() -> None:
                nonlocal before
                before = generation.hash
                self._not_ready = ""

            while True:
                generation = newest
                async with brake.below() as below:
                    context = ControllerContext(guard, below, state, file, apiservers, accepted, self._held, before)
                    try:
                        async with background(below.pull) as begin:
                            begin("the configuration watch", partial(follow, below))
                            await self._follow(generation, context)
                    except WorkerError as error:
                        brake.check()
                        if newest is generation:
                            raise
                        if not isinstance(error, StoppedError):
                            _log.warning("leader.interrupted", generation=generation.hash, because=str(error))

    async def _follow(self, generation: Generation, context: ControllerContext) -> None:
        """Run the controllers under one generation until the brake is pulled. Raises its reason."""
        _log.info(
            "leader.following", generation=generation.hash, because="it is the newest usable configuration in the file"
        )
        self._metrics.configured(generation.hash)
        async with open_cluster(self._settings, generation, "rewrap scheduler") as cluster:
            await Controllers(self._settings, cluster, self._sender, context).run()


def _not_ready(error: WorkerError) -> str:
    if isinstance(error, KmsUnavailableError | KmsRefusedError):
        return _NO_KMS
    return _UNAVAILABLE if isinstance(error, TemporaryError) else _FAILED
