"""One child process of a worker: its event loop, and the engine for the configuration that it has read.

This process creates its etcd clients after it was spawned: a `grpc.aio` channel does not survive a fork, and belongs
to one loop. The loop runs only while the child works on a message, and keeps no task between two messages.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TypeVar

import structlog
import uvloop

from kube_rewrap.config.encryption.generation import Generation, content_hash, load_generation
from kube_rewrap.config.encryption.source import read
from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.worker.background import cancel_all
from kube_rewrap.worker.collector import spare_the_imports
from kube_rewrap.worker.engine import Engine, open_engine
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.store import Store
from kube_rewrap.worker.kms.pace import ceiling, pace_name
from kube_rewrap.worker.queue.execution import ChildTools, MessageResult
from kube_rewrap.worker.rate.shared import open_pace
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.wrapped import plugin_of

T = TypeVar("T")

_SHARES = 8
"""Without Redis, each worker process limits itself to 1/`_SHARES` of the rate ceiling."""

_NAMED_SECONDS = 20.0
"""How long ago a plugin may have named its KEK when a slice of a batch begins."""

_HANDED_BACK_SECONDS = 2.0
_BOUND_SECONDS = 240.0
_CLOSE_SECONDS = 10.0
_log = structlog.get_logger()


class Child:
    """See the module's docstring. `file` is the EncryptionConfiguration's path."""

    def __init__(self, settings: Settings, file: str, *, allow_readable: bool) -> None:
        spare_the_imports()
        self._settings = settings
        self._file = file
        self._allow_readable = allow_readable
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._stack = AsyncExitStack()
        self._tools: ChildTools | None = None
        self._aimed_at = 0.0
        self._has_handed_back = False

    def work(self, job: Callable[[ChildTools], Awaitable[MessageResult]]) -> MessageResult:
        """Run a job with the engine.

        Raises ConfigError without a usable configuration, TimeoutError after `_BOUND_SECONDS`.
        """

        async def with_tools() -> MessageResult:
            async with asyncio.timeout(_BOUND_SECONDS):
                done = await job(await self._tools_for_file())
            self._has_handed_back = done.outcome == "handed_back"
            return done

        return self._run(with_tools())

    def control(self, job: Callable[[Store, Keyspace], Awaitable[T]]) -> T:
        """Run a job that needs records only, no keys and no configuration. Raises TimeoutError."""

        async def with_records() -> T:
            settings = self._settings
            async with (
                asyncio.timeout(_BOUND_SECONDS),
                open_store(settings.etcd, settings.keyspace.state_prefix) as store,
            ):
                return await job(store, Keyspace(settings.keyspace.state_prefix))

        return self._run(with_records())

    def close(self) -> None:
        """Settle the ledger, and close the engine and the event loop."""

        async def close() -> None:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._close_engine()

        try:
            self._run(close())
        finally:
            self._runner.close()

    def _run(self, job: Awaitable[T]) -> T:
        async def alone() -> T:
            try:
                return await job
            finally:
                others = asyncio.all_tasks() - {asyncio.current_task()}
                await cancel_all(*others)

        return self._runner.run(alone())

    async def _tools_for_file(self) -> ChildTools:
        """Return the tools for the file's present content; the previous ones if the file can't be used.

        Raises ConfigError if there are no previous ones.
        """
        try:
            raw = read(self._file, allow_readable=self._allow_readable)
            is_same = self._tools is not None and self._tools.engine.generation.file_hash == content_hash(raw)
            if self._tools is not None and is_same and await self._is_aimed(self._tools.engine):
                return self._tools
            # In a thread: a large file takes seconds, and the job's time limit needs the loop.
            generation = await asyncio.to_thread(load_generation, raw, self._file)
        except ConfigError:
            # The worker's parent checks the file, too, and logs its faults.
            if self._tools is None:
                raise
            return self._tools
        if self._tools is None:
            because = "its first message about a batch arrived"
        else:
            because = "a KMS plugin names another KEK" if is_same else "the configuration file changed"
        await self._close_engine()
        self._tools = await self._open(generation)
        _log.info("worker.ready", generation=generation.hash, because=because)
        return self._tools

    async def _open(self, generation: Generation) -> ChildTools:
        settings = self._settings
        async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
            cluster = (await store.members())[0].cluster_id
        pace = await self._stack.enter_async_context(
            open_pace(settings.broker, f"{cluster:x}", settings.pace.rate, _SHARES)
        )
        kms = {
            plugin: await self._stack.enter_async_context(
                open_pace(settings.broker, f"{cluster:x}:{pace_name(plugin)}", ceiling(plugin, settings.kms), _SHARES)
            )
            for plugin in map(plugin_of, generation.kms_providers)
        }
        engine = await self._stack.enter_async_context(open_engine(settings, generation, pace, kms.__getitem__))
        self._aimed_at = asyncio.get_running_loop().time()
        return ChildTools(settings, engine, pace)

    async def _is_aimed(self, engine: Engine) -> bool:
        """Whether the plugins named the KEKs of the engine's generation within the last seconds.

        They are asked at once after one of them named another KEK while a batch was at work, and soon after this child
        has handed a batch back: the campaign may be of a KEK that has taken effect since.
        """
        now = asyncio.get_running_loop().time()
        seconds = _HANDED_BACK_SECONDS if self._has_handed_back and _is_complete(engine) else _NAMED_SECONDS
        if engine.is_refuted or now - self._aimed_at > seconds:
            if not await engine.is_aimed():
                return False
            self._aimed_at, engine.is_refuted = now, False
        return True

    async def _close_engine(self) -> None:
        if self._tools is not None:
            await self._tools.engine.ledger.settle()
        self._tools = None
        await self._stack.aclose()


def _is_complete(engine: Engine) -> bool:
    """Whether it is known which KEK each KMS provider writes with. A plugin that names none is not asked more often."""
    try:
        engine.require_aimed()
    except (KmsUnavailableError, KmsRefusedError):
        return False
    return True
