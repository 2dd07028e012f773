"""Logs: JSON lines with stable event names on stderr, redaction last.

Every field has one meaning everywhere (docs/log-events.md). The last processor before the renderer
drops what could carry a key or a plaintext: raw bytes, and fields with a telling name. Tracebacks
are rendered without local variables and without the errors' texts, which would print keys.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import TextIO

import structlog

from kube_rewrap.config.encryption.secret import SecretBytes

# The last two are a traceback's: what an error says may quote what it was given.
_TELLING = frozenset({"secret", "password", "plaintext", "token", "value", "private_key", "exc_value", "exc_notes"})
_MASK = "[redacted]"

LEVELS = ("debug", "info", "warning", "error", "critical")


def configure_logs(level: str = "info", stream: TextIO | None = None) -> None:
    """Send structlog's events of `level` and above to `stream` (default stderr) as JSON lines."""
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.ExceptionRenderer(structlog.tracebacks.ExceptionDictTransformer(show_locals=False)),
            redact,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[level.upper()]),
        logger_factory=structlog.WriteLoggerFactory(file=stream or sys.stderr),
        cache_logger_on_first_use=False,
    )


def redact(_logger: object, _method: str, event: MutableMapping[str, object]) -> MutableMapping[str, object]:
    """Mask fields that must not leave the process. The last processor before the renderer."""
    for name, value in event.items():
        event[name] = _masked(name, value)
    return event


def _masked(name: object, value: object) -> object:
    """Return a field's value, masked inside lists and mappings too."""
    if name in _TELLING or isinstance(value, bytes | bytearray | memoryview | SecretBytes):
        return _MASK
    if isinstance(value, Mapping):
        return {key: _masked(key, item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_masked(None, item) for item in value]
    return value
