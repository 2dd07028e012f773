"""`rewrap scheduler`: waits to lead, follows the configuration file, and runs the controllers under each generation."""

from __future__ import annotations

import asyncio
import random
from contextlib import ExitStack, aclosing
from functools import partial

import structlog
from prometheus_client import CollectorRegistry

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.probe import ApiserverProbe, ConvergenceProbe
from kube_rewrap.scheduler.campaigns.service import open_service
from kube_rewrap.scheduler.configuration.watcher import ConfigurationWatch
from kube_rewrap.scheduler.daemon.controllers import Controllers, Kept, Term
from kube_rewrap.scheduler.daemon.election import leadership
from kube_rewrap.scheduler.dispatch.celery import Sender
from kube_rewrap.scheduler.metrics import SchedulerMetrics
from kube_rewrap.scheduler.rotation.file import ConfigurationFile, archive_of
from kube_rewrap.worker.background import background
from kube_rewrap.worker.errors import FencedError, OutdatedError, StoppedError, TemporaryError, WorkerError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.reach import Reach
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.monitoring import serve
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.usable import Usable

_FIRST_PAUSE = 1.0
_LONGEST_PAUSE = 30.0
_TICK_SECONDS = 5.0
_PROBE_SECONDS = 5.0
_FILE_SECONDS = 0.1
# Whoever asks whether this process is ready sees these, unauthenticated; the log has the particulars.
_OUTDATED = "the configuration in the file is not the newest; see the log: configuration.outdated"
_UNAVAILABLE = "etcd can't be reached; see the log: scheduler.restarted"
_FAILED = "this scheduler failed and begins again; see the log: scheduler.restarted"
_NO_QUEUE = "Redis takes no messages, so no campaign gets on; the log says queue.unavailable"
_NO_FILE = "this scheduler leads, and no configuration is in force yet; the log may say configuration.rejected"

_log = structlog.get_logger()


class Daemon:
    """The scheduler's process. `stop` is pulled by a signal."""

    def __init__(self, settings: Settings, file: str, stop: Brake, *, allow_readable: bool) -> None:
        self._settings = settings
        self._file = file
        self._stop = stop
        self._allow_readable = allow_readable
        self._sender = Sender(settings)
        self._registry = CollectorRegistry()
        self._metrics = SchedulerMetrics(self._registry)
        self._not_ready = ""
        self._reach = Reach()
        layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
        self._usable = Usable(file, layout, allow_readable=allow_readable)

    async def run(self) -> None:
        """Lead, whenever possible, until it is told to stop. Raises ConfigError and what no waiting mends."""
        address = self._settings.service.metrics_addr
        async with background(self._stop.pull) as begin:
            begin("the heartbeat", self._tick)
            begin("the queue probe", self._probe)
            with ExitStack() as stack:
                if address is not None:
                    stack.enter_context(serve(address, self._registry, self._metrics.alive, self._ready))
                await self._run()

    async def _tick(self) -> None:
        """Show whoever asks for our health that the loop is not stuck."""
        while True:
            self._metrics.ticked()
            await asyncio.sleep(_TICK_SECONDS)

    async def _probe(self) -> None:
        """Look at Redis again and again: while nothing is sent, nothing else would notice that it is gone."""
        while True:
            await self._sender.probe()
            self._metrics.queue(is_available=self._sender.is_available)
            await asyncio.sleep(_PROBE_SECONDS * random.uniform(0.8, 1.0))  # noqa: S311 - jitter

    def _ready(self) -> str:
        """See Question: whether work is taken, which takes etcd, a file in force where this one leads, and Redis."""
        return self._not_ready or self._reach.away or ("" if self._sender.is_available else _NO_QUEUE)

    async def _run(self) -> None:
        pause = _FIRST_PAUSE
        said = ""
        try:
            while True:
                self._stop.check()
                began = asyncio.get_running_loop().time()
                try:
                    await self._candidate()
                except StoppedError:
                    raise
                except OutdatedError as error:
                    # Leadership was given up: one with the right file may have it before this one asks again.
                    self._not_ready = _OUTDATED
                    if str(error) != said:
                        said = str(error)
                        _log.error("configuration.outdated", because=said)
                except WorkerError as error:
                    # Whatever it was, the records say how far things are; the next term begins with them.
                    self._not_ready = _not_ready(error)
                    if str(error) != said:
                        said = str(error)
                        expected = isinstance(error, TemporaryError | FencedError)
                        (_log.warning if expected else _log.error)("scheduler.restarted", because=said)
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
        """Wait for leadership, and lead until it is lost or the process is to stop."""
        settings = self._settings
        try:
            async with (
                open_store(settings.etcd, settings.keyspace.state_prefix) as store,
                self._stop.below() as brake,
                background(brake.pull) as begin,
            ):
                begin("the etcd probe", partial(self._reach.follow, store))
                stop_looking = begin("the configuration probe", self._usable.follow)
                await asyncio.to_thread(self._usable.look)  # what an earlier candidacy saw may be over
                await self._wait_for_file(brake)
                async with leadership(store, Keyspace(settings.keyspace.state_prefix), brake, self._asked) as guard:
                    if self._usable.trouble:
                        return  # it became unusable meanwhile; another scheduler may have a good one
                    stop_looking()  # a leader watches the file
                    self._metrics.leads(leads=True)
                    self._not_ready = _NO_FILE
                    await self._lead(guard, brake, ApiserverProbe(settings, store, self._file))
        except StoppedError:
            return
        finally:
            self._metrics.leads(leads=False)

    async def _wait_for_file(self, brake: Brake) -> None:
        """Ask for no leadership without a usable file: as a leader this one would keep out those that have one."""
        while self._usable.trouble:
            self._not_ready = self._usable.trouble
            await brake.unless_pulled(asyncio.sleep(_FILE_SECONDS))

    def _asked(self, because: str) -> None:
        """See Asked. One that waits to lead is as ready as one that leads, while etcd answers it and its file is good.

        Raises StoppedError when the file is not: it asks again when it is.
        """
        self._not_ready = because or self._usable.trouble
        if self._usable.trouble:
            raise StoppedError(self._usable.trouble)

    async def _lead(self, guard: Expect, brake: Brake, apiservers: ConvergenceProbe) -> None:
        """Run the controllers under the newest generation; each new one ends those of the one before."""
        watch = ConfigurationWatch(self._file, self._settings.service, allow_readable=self._allow_readable)
        settings = self._settings.rotation
        archive = settings.archive or archive_of(self._file)
        file = ConfigurationFile(self._file, archive, allow_readable=self._allow_readable, kms_file=settings.kms_file)
        kept, before = Kept(self._metrics), ""
        async with aclosing(watch.generations()) as generations:
            newest = await brake.unless_pulled(anext(generations))

            async def follow(term: Brake) -> None:
                nonlocal newest
                newest = await anext(generations)
                term.pull(StoppedError("a newer configuration is in force"))

            def accepted() -> None:
                nonlocal before
                before = generation.hash
                self._not_ready = ""

            while True:
                generation = newest
                async with brake.below() as term:
                    try:
                        async with background(term.pull) as begin:
                            begin("the configuration watch", partial(follow, term))
                            await self._follow(generation, Term(guard, term, kept, file, apiservers, accepted, before))
                    except WorkerError as error:
                        brake.check()
                        if newest is generation:
                            raise
                        if not isinstance(error, StoppedError):
                            _log.warning("leader.interrupted", generation=generation.hash, because=str(error))

    async def _follow(self, generation: Generation, term: Term) -> None:
        """Run the controllers under one generation until the brake is pulled. Raises its reason."""
        _log.info("leader.following", generation=generation.hash, because="it is the newest usable one in the file")
        self._metrics.configured(generation.hash)
        async with open_service(self._settings, generation, "rewrap scheduler") as service:
            await Controllers(self._settings, service, self._sender, term).run()


def _not_ready(error: WorkerError) -> str:
    return _UNAVAILABLE if isinstance(error, TemporaryError) else _FAILED
