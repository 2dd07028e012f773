"""Dispatches batches to Celery workers: messages by task name, limited in number.

A message is a hint and may be lost, so a batch that is neither claimed nor done some seconds after its message is sent
again, with growing delay. The message of a batch that a worker has begun overtakes those of other batches, so that
batches end one after another, not all at the end of the campaign.

Only this process remembers what it sent: a new leader sends every message again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import structlog

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.broker import parse_broker
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.worker.errors import UnavailableError
from kube_rewrap.worker.queue.app import build_app
from kube_rewrap.worker.queue.diagnosis import why_unavailable
from kube_rewrap.worker.queue.names import BATCHES, PROVE, REWRITE
from kube_rewrap.worker.queue.transport import FIRST
from kube_rewrap.worker.records.batch import BatchSpec

_PROBE = "rewrap.probe"
_PROBE_SECONDS = 10
_FIRST_RESEND = 4.0
_LONGEST_RESEND = 30.0
_LEAST_ROOM = 2  # messages in the queue delay a batch that lost its worker
_LONGEST_QUEUE = 100  # messages; without a worker they would pile up
_TOLD_AFTER = 5  # messages for one batch or part that no worker claimed: about a minute
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Sent:
    """When a message was last sent, after how many seconds it is due again, and how often it was sent."""

    at: float
    patience: float
    times: int = 1


class Sender:
    """Sends messages; logs once that Redis is unavailable, and once that it is available again.

    One thread calls Celery: while Redis does not answer, no more than one thread waits for it. `is_available` is None
    until the first call to Redis.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._app: Any = None
        self._thread = ThreadPoolExecutor(1, "celery")
        self.is_available: bool | None = None

    async def send(self, task: str, arguments: Mapping[str, object], queue: str, *, is_first: bool = False) -> None:
        """Send one message; `is_first`: before all others in the queue.

        Raises UnavailableError when Redis does not take it, SettingsError for a bad broker URL.
        """
        await self._do(partial(self._send, task, dict(arguments), queue, FIRST if is_first else None))

    async def length(self, queue: str) -> int:
        """Return how many messages wait in a queue. Raises UnavailableError, SettingsError."""
        return int(await self._do(partial(self._length, queue)))

    async def probe(self) -> None:
        """Test whether Redis takes messages; sets `is_available`, and logs a change of it."""
        with suppress(UnavailableError):
            await self._do(self._write)

    async def _do(self, work: Callable[[], Any]) -> Any:
        try:
            async with asyncio.timeout(2 * self._settings.broker.timeout + 1):
                result = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except ConfigError:
            raise
        except Exception as error:  # noqa: BLE001 - any error of Celery, kombu or redis means unavailable
            broker = parse_broker(self._settings.broker)
            place, because = broker.place, await why_unavailable(broker, error)
            if self.is_available is not False:
                self.is_available = False
                _log.warning("queue.unavailable", broker=place, because=because)
            raise UnavailableError(f"Redis at {place} does not take messages: {because}; check --broker") from None
        if self.is_available is False:
            _log.info("queue.available", because="Redis takes messages again")
        self.is_available = True
        return result

    def _write(self) -> None:
        """Write a key that expires: a Redis that is full or read-only refuses it as it would a message."""
        with self._celery().connection_for_write() as connection:
            connection.default_channel.client.set(_PROBE, 1, ex=_PROBE_SECONDS)

    def _length(self, queue: str) -> Any:
        with self._celery().connection_for_write() as connection:
            return connection.default_channel.client.llen(queue)

    def _send(self, task: str, arguments: dict[str, object], queue: str, priority: int | None) -> None:
        self._celery().send_task(task, kwargs=arguments, queue=queue, retry=False, priority=priority)

    def _celery(self) -> Any:
        if self._app is None:
            app = build_app(self._settings)
            # Each server once: kombu would retry for some six seconds, in which a caller learns nothing.
            tries = len(parse_broker(self._settings.broker).nodes)
            app.conf.broker_transport_options = {**app.conf.broker_transport_options, "max_retries": tries - 1}
            self._app = app
        return self._app

    def close(self) -> None:
        """Close the connections to Redis."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        if self._app is not None:
            self._app.close()


class QueueDispatcher:
    """See Dispatcher and Scanners. Serves one campaign."""

    def __init__(self, sender: Sender, clock: Callable[[], float]) -> None:
        self._sender = sender
        self._clock = clock
        self._sent: dict[tuple[str, int], _Sent] = {}
        self._begun: frozenset[int] = frozenset()
        """Batches that a worker had claimed, and that are not done."""

    async def offer(self, batches: Sequence[BatchSpec], claimed: frozenset[int]) -> None:
        """See Dispatcher."""
        free = [batch for batch in batches if batch.number not in claimed]
        for number in claimed:
            self._sent.pop((REWRITE, number), None)
        self._forget(REWRITE, {batch.number for batch in free})
        self._begun = claimed | self._begun.intersection(batch.number for batch in free)
        free.sort(key=lambda batch: batch.number not in self._begun)
        await self._send(REWRITE, {batch.number: batch.campaign for batch in free}, len(claimed))

    async def offer_proof(self, campaign: str, numbers: Sequence[int], claimed: frozenset[int]) -> None:
        """See Scanners."""
        for number in claimed:
            self._sent.pop((PROVE, number), None)
        free = [number for number in numbers if number not in claimed]
        self._forget(PROVE, set(free))
        await self._send(PROVE, dict.fromkeys(free, campaign), len(claimed))

    async def wait(self, seconds: float) -> None:
        """See Dispatcher."""
        await asyncio.sleep(seconds * random.uniform(0.4, 0.8))  # noqa: S311 - jitter

    def _forget(self, task: str, wanted: set[int]) -> None:
        self._sent = {key: sent for key, sent in self._sent.items() if key[0] != task or key[1] in wanted}

    async def _send(self, task: str, wanted: Mapping[int, str], at_work: int) -> None:
        """Send due messages while there is room: two unclaimed ones for each batch or part at work, two at least."""
        now = self._clock()
        waiting = sum(now < sent.at + sent.patience for sent in self._sent.values())
        room = max(_LEAST_ROOM, 2 * at_work) - waiting
        due = [number for number in wanted if self._is_due(task, number, now)][: max(0, room)]
        try:
            if not due or await self._sender.length(BATCHES) >= _LONGEST_QUEUE:
                return
            for number in due:
                is_first = task == REWRITE and number in self._begun
                await self._sender.send(
                    task, {"campaign": wanted[number], "number": number}, BATCHES, is_first=is_first
                )
                self._note(task, wanted[number], number, now)
        except UnavailableError:
            return  # the sender has logged it; the next round tries again

    def _is_due(self, task: str, number: int, now: float) -> bool:
        before = self._sent.get((task, number))
        return before is None or now >= before.at + before.patience

    def _note(self, task: str, campaign: str, number: int, now: float) -> None:
        before = self._sent.get((task, number))
        if before is None:
            self._sent[task, number] = _Sent(now, _FIRST_RESEND)
            return
        again = _Sent(now, min(_LONGEST_RESEND, 2 * before.patience), before.times + 1)
        self._sent[task, number] = again
        if again.times == _TOLD_AFTER:
            because = (
                f"its message was sent {again.times} times, and no worker claimed it: check that a worker holds this "
                "configuration, and read its log"
            )
            _log.warning("message.unanswered", task=task, campaign=campaign, batch=number, because=because)
