"""What an etcd endpoint grants to a client that shows no certificate and gives no password."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Access(StrEnum):
    """How an endpoint met such a client."""

    ANSWERS = "answers"
    """It answered a read: whoever reaches it reads everything."""
    ASKS_PASSWORD = "asks for a password"  # noqa: S105 - a word for it, not one
    """It took the connection, and refused the read because nobody was named."""
    REFUSES = "refuses"
    """It ended the connection, and answers one with our certificate."""
    UNCLEAR = "unclear"
    """Nobody can tell; the reason says why."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One endpoint. `secure`: by TLS; `local`: loopback or a unix socket; `because` is empty but for UNCLEAR."""

    endpoint: str
    secure: bool
    local: bool
    access: Access
    because: str = ""
