"""What somebody asks of the scheduler: to start a campaign, or to pause, resume or cancel one.

Requests come from messages that anybody who reaches the queue can write, so every argument is
checked here as hostile input, and errors name the argument but never repeat a long one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

from kube_rewrap.worker.fields import NAME, NAMESPACE, Fields
from kube_rewrap.worker.records.campaign import FASTEST, HIGHEST_PRIORITY, NO_OPTIONS, CampaignOptions

_RESOURCE = re.compile(r"(\*|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?)?")
_EXAMPLES = {"resources": "secrets or deployments.apps", "namespaces": "kube-system"}
_MOST_NAMES = 200
_LONGEST_REASON = 500
_PRIORITIES = range(-HIGHEST_PRIORITY, HIGHEST_PRIORITY + 1)

ARGUMENTS = ("id", "resources", "namespaces", "reason", "rate", "priority", "allow_plaintext", "allow_empty")
"""What the message that starts a campaign may carry; all of it may be left out."""


class HostileArgumentError(ValueError):
    """An argument of a request is not what it should be; the message names it."""


class RequestKind(StrEnum):
    """What is asked for."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


class Origin(StrEnum):
    """Who asks."""

    OPERATOR = "operator"
    CHANGE = "change"
    DRIFT = "drift"
    RESYNC = "resync"


class RequestState(StrEnum):
    """How far a request is. One that came from the service itself waits until it can be met."""

    WAITING = "waiting"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class Request:
    """One request. `campaign` is the one that it is about, or the one that it led to; "" before there is one."""

    id: str
    kind: RequestKind
    asked_at: str
    origin: Origin = Origin.OPERATOR
    resources: tuple[str, ...] = ()
    namespaces: tuple[str, ...] = ()
    options: CampaignOptions = NO_OPTIONS
    state: RequestState = RequestState.WAITING
    campaign: str = ""
    because: str = ""

    def decided(self, state: RequestState, because: str, campaign: str = "") -> Request:
        """Return the request with what became of it."""
        return replace(self, state=state, because=because, campaign=campaign or self.campaign)

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {
            "id": self.id,
            "kind": self.kind.value,
            "asked_at": self.asked_at,
            "origin": self.origin.value,
            "resources": list(self.resources),
            "namespaces": list(self.namespaces),
            "options": self.options.to_json(),
            "state": self.state.value,
            "campaign": self.campaign,
            "because": self.because,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Request:
        """Read the JSON form. Raises ValueError where it is not one."""
        fields = Fields.of(value)
        return cls(
            fields.name("id"),
            fields.choice("kind", RequestKind),
            fields.moment("asked_at"),
            fields.choice("origin", Origin),
            fields.texts("resources"),
            fields.texts("namespaces"),
            CampaignOptions.from_json(fields.mapping(fields.either("options", "wish"))),
            fields.choice("state", RequestState),
            fields.name_or_none("campaign"),
            fields.text("because"),
        )


def start_request(arguments: Mapping[str, object], fallback_id: str, asked_at: str) -> Request:
    """Return the request that a start message makes. Raises HostileArgumentError."""
    unknown = sorted(str(name)[:40] for name in arguments if name not in ARGUMENTS)
    if unknown:
        raise HostileArgumentError(f"unknown arguments: {', '.join(unknown[:5])}; known are {', '.join(ARGUMENTS)}")
    rate = arguments.get("rate", 0)
    if isinstance(rate, bool) or not isinstance(rate, int | float) or not (rate == 0 or 1 <= rate <= FASTEST):
        raise HostileArgumentError("rate must be 0 (the service's own) or 1 to 1000000")
    priority = arguments.get("priority", 0)
    if isinstance(priority, bool) or not isinstance(priority, int) or priority not in _PRIORITIES:
        raise HostileArgumentError("priority must be a whole number from -100 to 100")
    allow_plaintext = _switch(arguments, "allow_plaintext")
    allow_empty = _switch(arguments, "allow_empty")
    return Request(
        id=name_of(arguments.get("id", fallback_id), "id"),
        kind=RequestKind.START,
        asked_at=asked_at,
        resources=_names(arguments.get("resources", []), "resources", _RESOURCE),
        namespaces=_names(arguments.get("namespaces", []), "namespaces", NAMESPACE),
        options=CampaignOptions(
            reason_of(arguments.get("reason", "")), float(rate), priority, allow_plaintext, allow_empty=allow_empty
        ),
    )


def is_namespace(name: str) -> bool:
    """Whether a name is a namespace's: a DNS label. A key in etcd may have anything in that place."""
    return NAMESPACE.fullmatch(name) is not None


def name_of(value: object, what: str) -> str:
    """Return a campaign's or a request's name. Raises HostileArgumentError."""
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise HostileArgumentError(f"{what} must be 1 to 64 of a-z, 0-9 and -, and begin with no -")


def reason_of(value: object, what: str = "reason") -> str:
    """Return why something is asked for, in somebody's own words. Raises HostileArgumentError."""
    if not isinstance(value, str) or len(value) > _LONGEST_REASON or not value.isprintable():
        raise HostileArgumentError(f"{what} must be a printable text of at most {_LONGEST_REASON} characters")
    return value


def number_of(value: object, what: str, most: int = 99_999_999) -> int:
    """Return the number of a batch. Raises HostileArgumentError."""
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= most:
        return value
    raise HostileArgumentError(f"{what} must be a whole number from 0 to {most}")


def _switch(arguments: Mapping[str, object], name: str) -> bool:
    value = arguments.get(name, False)
    if not isinstance(value, bool):
        raise HostileArgumentError(f"{name} must be true or false")
    return value


def _names(value: object, what: str, form: re.Pattern[str]) -> tuple[str, ...]:
    if not isinstance(value, list) or len(value) > _MOST_NAMES:
        raise HostileArgumentError(f"{what} must be a list of at most {_MOST_NAMES} names")
    names = tuple(name for name in value if isinstance(name, str) and form.fullmatch(name))
    if len(names) != len(value):
        raise HostileArgumentError(f"{what} must be names such as {_EXAMPLES[what]}")
    return names
