"""A request to the scheduler: to start, pause, resume or cancel a campaign.

Any client that reaches the queue can write the messages that carry requests. So this module checks every argument as
hostile input; its errors name the argument and never repeat a long value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Annotated

from kube_rewrap.worker.fields import MOST, NAME, NAMESPACE
from kube_rewrap.worker.records.campaign import FASTEST, HIGHEST_PRIORITY, NO_OPTIONS, CampaignOptions
from kube_rewrap.worker.records.form import Form, Moment, Name, Named, Text, form_of, or_empty

_RESOURCE = re.compile(r"(\*|[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)(\.[a-z0-9]([a-z0-9.-]{0,250}[a-z0-9])?)?")
_EXAMPLES = {"resources": "secrets or deployments.apps", "namespaces": "kube-system"}
_MOST_NAMES = 200
_LONGEST_REASON = 500
_PRIORITIES = range(-HIGHEST_PRIORITY, HIGHEST_PRIORITY + 1)

ARGUMENTS = ("id", "resources", "namespaces", "reason", "rate", "priority", "allow_plaintext", "allow_empty", "since")
"""The arguments of the message that starts a campaign; all are optional."""


class HostileArgumentError(ValueError):
    """An argument of a request is invalid; the message names it."""


class RequestKind(StrEnum):
    """What a request asks for."""

    START = "start"
    PAUSE = "pause"
    RESUME = "resume"
    CANCEL = "cancel"


class Origin(StrEnum):
    """Who asks: an operator, or the scheduler after a change of the file, drift or a full check, or for a rotation."""

    OPERATOR = "operator"
    CHANGE = "change"
    DRIFT = "drift"
    FULL_CHECK = "full_check"
    ROTATION = "rotation"

    @classmethod
    def _missing_(cls, value: object) -> Origin | None:
        # In version 0.1, full checks and rotations had this origin.
        return cls.FULL_CHECK if value == "resync" else None


class RequestState(StrEnum):
    """The state of a request. One that the service made itself stays `waiting` until the scheduler can accept it."""

    WAITING = "waiting"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Request(Form):
    """One request. `campaign` names the campaign to control, or the one that the request started; "" before that."""

    id: Name
    kind: RequestKind
    asked_at: Moment
    origin: Origin = Origin.OPERATOR
    resources: tuple[Text, ...] = ()
    namespaces: tuple[Text, ...] = ()
    options: Annotated[CampaignOptions, Named(former="wish")] = NO_OPTIONS
    state: RequestState = RequestState.WAITING
    campaign: Annotated[str, or_empty(form_of(form=NAME))] = ""
    because: Text = ""

    def decided(self, state: RequestState, because: str, campaign: str = "") -> Request:
        """Return the request with its decision, and the reason for that."""
        return replace(self, state=state, because=because, campaign=campaign or self.campaign)


def start_request(arguments: Mapping[str, object], fallback_id: str, asked_at: str) -> Request:
    """Return the request in a start message; `fallback_id` is its id if it names none. Raises HostileArgumentError."""
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
    since = number_of(arguments.get("since", 0), "since", MOST)
    return Request(
        id=name_of(arguments.get("id", fallback_id), "id"),
        kind=RequestKind.START,
        asked_at=asked_at,
        resources=_names(arguments.get("resources", []), "resources", _RESOURCE),
        namespaces=_names(arguments.get("namespaces", []), "namespaces", NAMESPACE),
        options=CampaignOptions(
            reason=reason_of(arguments.get("reason", "")),
            rate=float(rate),
            priority=priority,
            allow_plaintext=allow_plaintext,
            allow_empty=allow_empty,
            since=since,
        ),
    )


def is_namespace(name: str) -> bool:
    """Whether a name is a valid namespace, a DNS label. An etcd key may have any bytes in the namespace's place."""
    return NAMESPACE.fullmatch(name) is not None


def name_of(value: object, what: str) -> str:
    """Return a valid name of a campaign or a request. Raises HostileArgumentError, naming the argument `what`."""
    if isinstance(value, str) and NAME.fullmatch(value):
        return value
    raise HostileArgumentError(f"{what} must be 1 to 64 of a-z, 0-9 and -, and begin with no -")


def reason_of(value: object, what: str = "reason") -> str:
    """Return the requester's reason, a printable text. Raises HostileArgumentError."""
    if not isinstance(value, str) or len(value) > _LONGEST_REASON or not value.isprintable():
        raise HostileArgumentError(f"{what} must be a printable text of at most {_LONGEST_REASON} characters")
    return value


def number_of(value: object, what: str, most: int = 99_999_999) -> int:
    """Return a whole number, such as that of a batch. Raises HostileArgumentError."""
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
