"""kombu's Redis transports, made to live on when a message is not one.

Anybody who may push to the queue may push anything. What is no message at all would end the worker:
kombu decodes it in the consumer's loop. Here it is dropped, and said. docs/adr/0006-celery-as-a-hint.md.
"""

from __future__ import annotations

from queue import Empty  # kombu's sign for an empty queue
from typing import Any

import structlog
from kombu.transport import TRANSPORT_ALIASES, redis

_MALFORMED = (ValueError, KeyError, TypeError, AttributeError)
_log = structlog.get_logger()


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


class GuardedSentinelChannel(_Guarded, redis.SentinelChannel):
    """The channel on the master that sentinels name."""


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
