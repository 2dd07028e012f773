"""kombu's Redis transports, changed so that a worker never stops consuming (docs/adr/0006-celery-as-a-hint.md).

1. Anyone who may push to the queue may push anything. So kombu and Celery only see messages that the gate (`gate.py`)
   has checked and rebuilt: deliveries, and Redis' copies of unacknowledged messages.
2. The transport acknowledges a message whose delivery raises, or that Celery forgot after delivery, and does not
   requeue it: the worker would stop consuming as soon as it has as many such messages as children.
3. If Redis fails while every child is busy, the worker does not poll. The acknowledgements then fail, kombu counts the
   messages as in progress for ever, and does not poll again until the worker restarts. This transport forgets them;
   Redis redelivers them after the visibility timeout.
4. The transport neither writes nor reads kombu's binding tables in Redis.
5. A message of the priority `FIRST` overtakes those that wait in its queue; kombu would keep it in a queue of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from queue import Empty  # kombu's sign for an empty queue
from time import monotonic
from typing import Any

import structlog
from kombu import transport as kombu_transport
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.uuid import uuid

from kube_rewrap.worker.queue import gate
from kube_rewrap.worker.queue.names import BATCHES, CONTROL, EXCHANGE

RETRY_SECONDS = 10
FIRST = 9
"""Priority of a message that a worker is to take before all others."""

_MOST_WAITING = 64
"""Most retries that one worker delays at a time. It does not delay further ones."""

_DROP_SECONDS = 10.0
_STALE_SECONDS = 30.0

# kombu counts KeyError among these, but any code may raise it.
_LOST = tuple(kind for kind in redis.Transport.connection_errors if kind is not KeyError)
_REFUSED_BY_REDIS = redis.Transport.channel_errors
_log = structlog.get_logger()

counters: list[Callable[[Mapping[str, object]], None]] = []
"""Functions in a worker's parent that receive each `MessageResult` as JSON, and the outcome of undelivered messages."""

in_progress: list[Callable[[], Iterable[Any]]] = []
"""Functions in a worker's parent that return the delivery tags of messages in progress or waiting."""


class Pulse:
    """When this worker last took messages, and whether that is too long ago."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._at = clock()

    def beat(self) -> None:
        """Note that the worker polls for messages, or has as many in progress as it may."""
        self._at = self._clock()

    def trouble(self) -> str:
        """Return why the worker takes no messages, "" = it does."""
        silent = self._clock() - self._at
        return f"this worker could take no message for {silent:.0f} s" if silent > _STALE_SECONDS else ""


pulse = Pulse()
"""That of this process."""


class GuardedQoS(redis.QoS):
    """Requeues only messages that pass the gate again; forgets messages that Redis does not let it acknowledge."""

    def append(self, message: Any, delivery_tag: Any) -> None:
        """See kombu. Delivers the message even if Redis refuses to keep a copy of it."""
        virtual.QoS.append(self, message, delivery_tag)
        with _logging_refusals():
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: Any) -> None:
        """See kombu. Forgets the message even if Redis did not accept the acknowledgement; then it raises."""
        try:
            super().ack(delivery_tag)
        except Exception:
            self._forget(delivery_tag)
            raise

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """See kombu."""
        try:
            super().reject(delivery_tag, requeue=requeue)
        except Exception:
            self._forget(delivery_tag)
            raise

    def restore_visible(self, *args: Any, **options: Any) -> None:
        """See kombu."""
        with _logging_refusals():
            super().restore_visible(*args, **options)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Requeue Redis' copy of this tag if it passes the gate, else drop it; in one transaction, as kombu."""

        def put_back(pipe: Any) -> tuple[bytes, gate.GateResult] | None:
            raw = pipe.hget(self.unacked_key, tag)
            pipe.multi()
            self._remove_from_indices(tag, pipe)
            if not raw:
                return None
            verdict = gate.judge_copy(raw, datetime.now(UTC))
            if isinstance(verdict, gate.Message):
                push = pipe.lpush if leftmost else pipe.rpush
                push(verdict.queue, json.dumps(verdict.envelope(uuid())))
            return raw, verdict

        with _logging_refusals(), self.channel.conn_or_acquire(client) as connected:
            found = connected.transaction(put_back, self.unacked_key, value_from_callable=True)
            if found is not None:
                _report(*found)

    def unacknowledged(self) -> dict[Any, Any]:
        """Return the messages that were delivered, and neither acknowledged nor rejected, by delivery tag."""
        return {tag: message for tag, message in self._delivered.items() if tag not in self._dirty}

    def _forget(self, delivery_tag: Any) -> None:
        virtual.QoS.ack(self, delivery_tag)


class _CheckedMessage(virtual.Message):
    """A message as Celery sees it: a retry waits `RETRY_SECONDS`, by this worker's own clock."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        super().__init__(payload, channel=channel, **options)
        waits = self.headers["retries"] and channel.waiting() < _MOST_WAITING
        eta = (datetime.now(UTC) + timedelta(seconds=RETRY_SECONDS)).isoformat() if waits else None
        self.headers = {**self.headers, "expires": None, "eta": eta}

    def stored(self) -> bytes:
        """Return the envelope as JSON bytes."""
        return json.dumps(self._raw).encode()


class GuardedChannel(redis.Channel):
    """A channel to one Redis server."""

    QoS = GuardedQoS
    Message = _CheckedMessage

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lost: set[Any] = set()

    def waiting(self) -> int:
        """Return how many messages wait for their retry."""
        return sum(message.headers["eta"] is not None for message in self.qos.unacknowledged().values())

    def takes_messages(self) -> bool:
        """Whether the channel polled Redis lately, or has as many messages as it may, all of them in progress."""
        if not self.active_queues:
            return False
        if not self.qos.can_consume():
            return not self._lost
        sent: Any = self._brpop_sent_at
        return sent is not None and monotonic() - sent < _STALE_SECONDS

    def drop_lost(self) -> None:
        """Drop each message that Celery neither acknowledged, rejected nor works on, now and at the call before."""
        lost = self.qos.unacknowledged()
        for tag in [tag for tags in in_progress for tag in tags()]:
            lost.pop(tag, None)
        for tag in self._lost.intersection(lost):
            self._give_up(tag, lost[tag].stored(), "Celery did not acknowledge it, and has no task for it")
        self._lost = set(lost)

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        """Return the bindings of our exchange: each queue under its own name."""
        return [(name, "", name) for name in (CONTROL, BATCHES)] if exchange == EXCHANGE else []

    def _put(self, queue: str, message: dict[str, Any], **options: Any) -> None:
        """See kombu. Messages of the priority `FIRST` overtake the others."""
        properties = message["properties"]
        if properties.get("priority") != FIRST:
            super()._put(queue, message, **options)
            return
        with self.conn_or_acquire() as client:
            client.rpush(queue, json.dumps({**message, "properties": {**properties, "priority": 0}}))

    def _queue_bind(self, *_: object) -> None:
        """Write no binding table to Redis."""

    def _brpop_read(self, **options: Any) -> bool:
        """Deliver BRPOP's answer if it passes the gate; kombu's own method would decode any bytes."""
        try:
            queue, raw = self._popped(options)
            self._queue_cycle.rotate(queue)
            verdict = gate.judge_delivery(raw, queue, datetime.now(UTC))
            if not isinstance(verdict, gate.Message):
                _report(raw, verdict)
                raise Empty
            self._deliver(raw, verdict)
            return True
        finally:
            self._in_poll = False
            self._flush_brpop_reauth()

    def _popped(self, options: dict[str, Any]) -> tuple[str, bytes]:
        try:
            answer = self.client.parse_response(self.client.connection, "BRPOP", **options)
        except self.connection_errors:
            self.client.connection.disconnect()
            raise
        if not answer:
            raise Empty
        place, raw = answer
        return place.decode().rsplit(self.sep, 1)[0], raw

    def _deliver(self, raw: bytes, message: gate.Message) -> None:
        tag = uuid()
        try:
            self.connection._deliver(message.envelope(tag), message.queue)  # noqa: SLF001 - where kombu hands it over
        except _LOST:
            raise
        except Exception as error:  # noqa: BLE001 - one bad message must not stop the consumer
            self._give_up(tag, raw, f"Celery raised {type(error).__name__} on its delivery")

    def _give_up(self, tag: Any, raw: bytes, because: str) -> None:
        _log.warning("message.abandoned", because=because, **_digest(raw))
        _count("failed")
        with suppress(*_REFUSED_BY_REDIS):
            self.qos.ack(tag)


class GuardedSentinelChannel(GuardedChannel, redis.SentinelChannel):
    """A channel to the master that Redis Sentinel names."""


class GuardedTransport(redis.Transport):
    """The transport of `redis://` and `rediss://`."""

    Channel = GuardedChannel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """See kombu."""
        super().register_with_event_loop(connection, loop)
        loop.on_tick.add(self.beat)
        loop.call_repeatedly(_DROP_SECONDS, self.drop_lost)

    def beat(self) -> None:
        """Note in `pulse` whether a channel takes messages."""
        if any(channel.takes_messages() for channel in self.channels):
            pulse.beat()

    def drop_lost(self) -> None:
        """Drop the lost messages of every channel."""
        for channel in self.channels:
            channel.drop_lost()


class GuardedSentinelTransport(GuardedTransport, redis.SentinelTransport):
    """The transport of `sentinel://`."""

    Channel = GuardedSentinelChannel


def register() -> None:
    """Make kombu use these transports for its own schemes, in this process."""
    TRANSPORT_ALIASES["redis"] = TRANSPORT_ALIASES["rediss"] = f"{__name__}:GuardedTransport"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:GuardedSentinelTransport"
    # kombu keeps the class of each scheme that a connection used before.
    kombu_transport._transport_cache.clear()  # noqa: SLF001


@contextmanager
def _logging_refusals() -> Iterator[None]:
    """Log and suppress a refusal by Redis: it is full, or its keys of unacknowledged messages have a foreign type."""
    try:
        yield
    except _REFUSED_BY_REDIS as error:
        _log.warning("message.not_kept", because=type(error).__name__)


def _report(raw: bytes, verdict: gate.GateResult) -> None:
    """Log and count a message that did not pass."""
    match verdict:
        case gate.Expired():
            _log.info("message.expired", because="the expiry that its sender set has passed", **_digest(raw))
            _count("dropped")
        case gate.Refused(because):
            _log.warning("message.malformed", because=because, **_digest(raw))
            _count("refused")


def _digest(raw: bytes) -> dict[str, Any]:
    return {"sha256": sha256(raw).hexdigest(), "bytes": len(raw)}


def _count(outcome: str) -> None:
    for counter in counters:
        counter({"outcome": outcome})
