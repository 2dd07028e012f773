"""kombu's Redis transports, made to live on where they would not (docs/adr/0006-celery-as-a-hint.md).

1. Anybody who may push to the queue may push anything. What is no message at all would end the worker,
   for kombu decodes it in the consumer's loop. Here it is dropped, and said.
2. When Redis goes away while every child is busy, nothing polls. The acknowledgements then fail, kombu
   takes the messages for being worked on for ever, and never polls again: the worker would be deaf
   until it is restarted. Here they are forgotten; Redis gives them to somebody again some day.
"""

from __future__ import annotations

from queue import Empty  # kombu's sign for an empty queue
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis, virtual

_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
_log = structlog.get_logger()


class ForgettingQoS(redis.QoS):
    """Forgets a message whose acknowledgement Redis did not take, and lets the caller know all the same."""

    def ack(self, delivery_tag: Any) -> None:
        """See kombu."""
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

    def _forget(self, delivery_tag: Any) -> None:
        virtual.QoS.ack(self, delivery_tag)


class _Guarded:
    """Goes before a channel class."""

    def _brpop_read(self, **options: Any) -> Any:
        try:
            return super()._brpop_read(**options)  # type: ignore[misc]
        except _MALFORMED as error:
            # Its text is somebody else's: only the kind of fault is told.
            _log.warning("message.malformed", because=type(error).__name__)
            raise Empty from None


class GuardedChannel(_Guarded, redis.Channel):
    """The channel on one Redis."""

    QoS = ForgettingQoS


class GuardedSentinelChannel(_Guarded, redis.SentinelChannel):
    """The channel on the master that sentinels name."""

    QoS = ForgettingQoS


class GuardedTransport(redis.Transport):
    """The transport of `redis://` and `rediss://`."""

    Channel = GuardedChannel


class GuardedSentinelTransport(redis.SentinelTransport):
    """The transport of `sentinel://`."""

    Channel = GuardedSentinelChannel


def register() -> None:
    """Let kombu use these for its own schemes, in this process."""
    TRANSPORT_ALIASES["redis"] = TRANSPORT_ALIASES["rediss"] = f"{__name__}:GuardedTransport"
    TRANSPORT_ALIASES["sentinel"] = f"{__name__}:GuardedSentinelTransport"
