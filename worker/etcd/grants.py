"""What an etcd endpoint grants to a client that shows no certificate and gives no password."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Access(StrEnum):
    """How an endpoint answered such a client."""

    ANSWERS = "answers"
    """It answered a read: any client that reaches the endpoint can read everything."""
    ASKS_PASSWORD = "asks for a password"  # noqa: S105 - a description, no password
    """It accepted the connection, and refused the read because the client gave no user name."""
    REFUSES = "refuses"
    """It closed the connection, but answered over one with our certificate."""
    UNCLEAR = "unclear"
    """The probe could not decide; `Exposure.because` is the reason."""


@dataclass(frozen=True, slots=True)
class Exposure:
    """One endpoint. `secure`: it uses TLS; `local`: loopback or a unix socket; only UNCLEAR has a `because`."""

    endpoint: str
    secure: bool
    local: bool
    access: Access
    because: str = ""
