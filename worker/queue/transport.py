"""kombu's Redis transports, made to live on where they would not (docs/adr/0006-celery-as-a-hint.md).

1. Anybody who may push to the queue may push anything. kombu and Celery see what the gate (`gate.py`) made of
   it, or nothing; so it is with what Redis keeps of messages that nobody acknowledged.
2. Whatever a delivered message raises, and whatever was delivered and forgotten, is settled: it does not go
   back, or the worker would be deaf for good as soon as there are as many as it has children.
3. When Redis goes away while every child is busy, nothing polls. The acknowledgements then fail, kombu
   takes the messages for being worked on for ever, and never polls again: the worker would be deaf
   until it is restarted. Here they are forgotten; Redis gives them to somebody again some day.
4. Where a message goes is not read from Redis: kombu's tables of bindings are neither written nor asked.
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
from kombu.transport import TRANSPORT_ALIASES, redis, virtual
from kombu.utils.uuid import uuid

from kube_rewrap.worker.queue import gate
from kube_rewrap.worker.queue.names import BATCHES, CONTROL, EXCHANGE

RETRY_SECONDS = 10
_MOST_WAITING = 64
"""Messages that one worker holds for another try later; one more is tried at once."""

_SWEEP_SECONDS = 10.0
_STALE_SECONDS = 30.0

# kombu counts KeyError among them, which anything may raise.
_LOST = tuple(kind for kind in redis.Transport.connection_errors if kind is not KeyError)
_REFUSED_BY_REDIS = redis.Transport.channel_errors
_log = structlog.get_logger()

counters: list[Callable[[Mapping[str, object]], None]] = []
"""Functions in a worker's parent that are shown the JSON form of each `Done`, and of what came to nothing before."""

accounts: list[Callable[[], Iterable[Any]]] = []
"""Functions in a worker's parent that return the delivery tags of what is at work, or waits for it."""


class Pulse:
    """Whether this worker takes messages: when it was last seen to."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._at = clock()

    def beat(self) -> None:
        """Note that messages are being taken, or that all that may be taken are worked on."""
        self._at = self._clock()

    def trouble(self) -> str:
        """Return why not, "" = it does."""
        silent = self._clock() - self._at
        return f"no message could be taken for {silent:.0f} s" if silent > _STALE_SECONDS else ""


pulse = Pulse()
"""That of this process."""


class SettlingQoS(redis.QoS):
    """Gives back to the queue what passes the gate again; forgets what Redis does not let it acknowledge."""

    def append(self, message: Any, delivery_tag: Any) -> None:
        """See kombu. Where Redis keeps no copy, it is worked on all the same."""
        virtual.QoS.append(self, message, delivery_tag)
        with _going_on():
            super().append(message, delivery_tag)

    def ack(self, delivery_tag: Any) -> None:
        """See kombu. Lets the caller know when Redis did not take it."""
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
        with _going_on():
            super().restore_visible(*args, **options)

    def restore_by_tag(self, tag: Any, client: Any = None, leftmost: bool = False) -> None:
        """Put back on its queue what Redis kept under this tag, in one transaction; as kombu, behind the gate."""

        def put_back(pipe: Any) -> tuple[bytes, gate.Verdict] | None:
            raw = pipe.hget(self.unacked_key, tag)
            pipe.multi()
            self._remove_from_indices(tag, pipe)
            if not raw:
                return None
            verdict = gate.kept(raw, datetime.now(UTC))
            if isinstance(verdict, gate.Message):
                push = pipe.lpush if leftmost else pipe.rpush
                push(verdict.queue, json.dumps(verdict.envelope(uuid())))
            return raw, verdict

        with _going_on(), self.channel.conn_or_acquire(client) as connected:
            found = connected.transaction(put_back, self.unacked_key, value_from_callable=True)
            if found is not None:
                _settled(*found)

    def unsettled(self) -> dict[Any, Any]:
        """Return what was delivered and not settled, by delivery tag."""
        return {tag: message for tag, message in self._delivered.items() if tag not in self._dirty}

    def _forget(self, delivery_tag: Any) -> None:
        virtual.QoS.ack(self, delivery_tag)


class _CheckedMessage(virtual.Message):
    """A message as Celery sees it: one that is tried again waits a while, by this worker's own clock."""

    def __init__(self, payload: Any, channel: Any = None, **options: Any) -> None:
        super().__init__(payload, channel=channel, **options)
        waits = self.headers["retries"] and channel.waiting() < _MOST_WAITING
        eta = (datetime.now(UTC) + timedelta(seconds=RETRY_SECONDS)).isoformat() if waits else None
        self.headers = {**self.headers, "expires": None, "eta": eta}

    def stored(self) -> bytes:
        """Return it as Redis keeps it."""
        return json.dumps(self._raw).encode()


class GuardedChannel(redis.Channel):
    """The channel on one Redis."""

    QoS = SettlingQoS
    Message = _CheckedMessage

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._lost: set[Any] = set()

    def waiting(self) -> int:
        """Return how many messages are held for another try."""
        return sum(message.headers["eta"] is not None for message in self.qos.unsettled().values())

    def takes_messages(self) -> bool:
        """Whether Redis was asked for messages lately, or all that may be taken are accounted for."""
        if not self.active_queues:
            return False
        if not self.qos.can_consume():
            return not self._lost
        sent: Any = self._brpop_sent_at
        return sent is not None and monotonic() - sent < _STALE_SECONDS

    def sweep(self) -> None:
        """Settle what was delivered and is not accounted for, now and the last time."""
        lost = self.qos.unsettled()
        for tag in [tag for account in accounts for tag in account()]:
            lost.pop(tag, None)
        for tag in self._lost.intersection(lost):
            self._give_up(tag, lost[tag].stored(), "nothing works on it any more")
        self._lost = set(lost)

    def get_table(self, exchange: str) -> list[tuple[str, str, str]]:
        """Return which queues are behind our exchange: those of their names."""
        return [(name, "", name) for name in (CONTROL, BATCHES)] if exchange == EXCHANGE else []

    def _queue_bind(self, *_: object) -> None:
        """Leave no table in Redis."""

    def _brpop_read(self, **options: Any) -> bool:
        """Deliver what BRPOP brought, if it passes the gate. As kombu, who would decode whatever it is."""
        try:
            queue, raw = self._popped(options)
            self._queue_cycle.rotate(queue)
            verdict = gate.delivered(raw, queue, datetime.now(UTC))
            if not isinstance(verdict, gate.Message):
                _settled(raw, verdict)
                raise Empty
            self._hand_over(raw, verdict)
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

    def _hand_over(self, raw: bytes, message: gate.Message) -> None:
        tag = uuid()
        try:
            self.connection._deliver(message.envelope(tag), message.queue)  # noqa: SLF001 - where kombu hands it over
        except _LOST:
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, this message costs itself and nothing more
            self._give_up(tag, raw, f"it ended in {type(error).__name__}")

    def _give_up(self, tag: Any, raw: bytes, because: str) -> None:
        _log.warning("message.abandoned", because=because, **_digest(raw))
        _count("failed")
        with suppress(*_REFUSED_BY_REDIS):
            self.qos.ack(tag)


class GuardedSentinelChannel(GuardedChannel, redis.SentinelChannel):
    """The channel on the master that sentinels name."""


class GuardedTransport(redis.Transport):
    """The transport of `redis://` and `rediss://`."""

    Channel = GuardedChannel

    def register_with_event_loop(self, connection: Any, loop: Any) -> None:
        """See kombu."""
        super().register_with_event_loop(connection, loop)
        loop.on_tick.add(self.beat)
        loop.call_repeatedly(_SWEEP_SECONDS, self.sweep)

    def beat(self) -> None:
        """Note whether messages are being taken."""
        if any(channel.takes_messages() for channel in self.channels):
            pulse.beat()

    def sweep(self) -> None:
        """See the channel's."""
        for channel in self.channels:
            channel.sweep()


class GuardedSentinelTransport(GuardedTransport, redis.SentinelTransport):
    """The transport of `sentinel://`."""

    Channel = GuardedSentinelChannel


def register() -> None:
    """Let kombu use these for its own schemes, in this process."""
    TRANSPORT_ALIASES["redis"] = TRANSPORT_ALIASES["rediss"] = f"{__name__}:GuardedTransport"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:GuardedSentinelTransport"


@contextmanager
def _going_on() -> Iterator[None]:
    """Go on where Redis refuses: it is full, or its lists of unacknowledged messages are of another making."""
    try:
        yield
    except _REFUSED_BY_REDIS as error:
        _log.warning("message.not_kept", because=type(error).__name__)


def _settled(raw: bytes, verdict: gate.Verdict) -> None:
    """Say and count what did not pass."""
    match verdict:
        case gate.Expired():
            _log.info("message.expired", because="its sender wanted it done by a time that has passed", **_digest(raw))
            _count("dropped")
        case gate.Refused(because):
            _log.warning("message.malformed", because=because, **_digest(raw))
            _count("refused")


def _digest(raw: bytes) -> dict[str, Any]:
    return {"sha256": sha256(raw).hexdigest(), "bytes": len(raw)}


def _count(outcome: str) -> None:
    for counter in counters:
        counter({"outcome": outcome})
