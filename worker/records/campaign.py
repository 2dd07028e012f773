"""A campaign: the rewrap of the objects in one scope under one generation of the EncryptionConfiguration."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum

from kube_rewrap.worker.fields import MOST_BATCHES, NAMESPACE, Fields, matching, number_of

FASTEST = 1_000_000.0
"""Highest rate that a campaign may have, in objects a second."""

HIGHEST_PRIORITY = 100


class CampaignState(StrEnum):
    """The state of a campaign. Only a clean proof scan makes it `complete`."""

    RUNNING = "running"
    PROVING = "proving"
    PAUSED = "paused"
    COMPLETE = "complete"
    INCOMPLETE = "incomplete"
    SUPERSEDED = "superseded"
    CANCELLED = "cancelled"

    @property
    def is_end(self) -> bool:
        """Whether the state is final."""
        return self in {
            CampaignState.COMPLETE,
            CampaignState.INCOMPLETE,
            CampaignState.SUPERSEDED,
            CampaignState.CANCELLED,
        }


class Pause(StrEnum):
    """Who or what paused a campaign. Only an operator can end a pause by an operator, or for the quarantine.

    `scheduler`: an operator resumed the campaign, and the scheduler has yet to check that it may go on. Workers
    write nothing until then.
    """

    OPERATOR = "operator"
    SCHEDULER = "scheduler"
    SPACE = "space"
    BUDGET = "budget"
    WINDOW = "window"
    KMS = "kms"
    QUARANTINE = "quarantine"


@dataclass(frozen=True, slots=True)
class Scope:
    """What a campaign covers: resources by name, in the given namespaces, or in all if none is given."""

    resources: tuple[str, ...]
    namespaces: tuple[str, ...] = ()


def new_id(now: datetime, chance: bytes) -> str:
    """Return a name for a campaign or a rotation. Names sort by `now`, to a quarter of a millisecond.

    `chance` is at least 2 random bytes; they distinguish names of the same moment.
    """
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond * 4096 // 1_000_000:03x}{chance.hex()[:3]}"


@dataclass(frozen=True, slots=True)
class CampaignOptions:
    """The options of a campaign, as requested.

    `rate` is its own ceiling in objects a second, 0 = the service's. Of waiting campaigns the one with the
    highest `priority` begins first. Only with `allow_plaintext` may a campaign decrypt objects, under an identity
    primary. `paused`: the campaign begins paused, because an operator paused its request. Without `allow_empty`
    the scheduler refuses a request that names a namespace or a resource without objects. `repair`: the scheduler
    itself started it, to repair drift; the audit log has a sum of such campaigns, not an entry for each.
    """

    reason: str = ""
    rate: float = 0.0
    priority: int = 0
    allow_plaintext: bool = False
    paused: bool = False
    allow_empty: bool = False
    repair: bool = False

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {
            "reason": self.reason,
            "rate": self.rate,
            "priority": self.priority,
            "allow_plaintext": self.allow_plaintext,
            "paused": self.paused,
            "allow_empty": self.allow_empty,
            "repair": self.repair,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> CampaignOptions:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        return cls(
            fields.text("reason"),
            fields.one("rate", rate_of),
            fields.count("priority", -HIGHEST_PRIORITY, HIGHEST_PRIORITY),
            fields.flag("allow_plaintext"),
            paused=fields.has("paused") and fields.flag("paused"),
            allow_empty=fields.has("allow_empty") and fields.flag("allow_empty"),
            repair=fields.has("repair") and fields.flag("repair"),
        )


def rate_of(value: object) -> float:
    """Return a campaign's own rate in objects a second, 0 = it has none. Raises ValueError."""
    rate = number_of(value, "rate", FASTEST)
    if 0 < rate < 1:
        raise ValueError("rate is below 1 and not 0")
    return rate


NO_OPTIONS = CampaignOptions()


@dataclass(frozen=True, slots=True)
class Growth:
    """How far the quarantine of a campaign may grow. An attacker who tries out ciphertexts leaves unreadable objects.

    An object written after the revision `since` counts as new. A campaign may put `most` new objects in
    quarantine; None = any number, for a campaign that an operator asked for. `planned` is the revision at which
    the campaign was planned.
    """

    since: int = 0
    planned: int = 0
    most: int | None = None

    def allows(self, fresh: int) -> bool:
        """Whether `fresh` new objects may be in quarantine."""
        return self.most is None or fresh <= self.most

    def to_json(self) -> dict[str, object]:
        """Return the JSON form."""
        return {"since": self.since, "planned": self.planned, "most": self.most}

    @classmethod
    def from_json(cls, value: object) -> Growth:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        most = fields.count("most") if fields.has("most") else None
        return cls(fields.count("since"), fields.count("planned"), most)


ANY_GROWTH = Growth()


@dataclass(frozen=True, slots=True)
class Campaign:
    """One campaign's record. `batches` is the number of its batches; `because` is the reason for its state.

    Times are ISO 8601 in UTC. `sweeps` is the number of passes over its batches that began; `proof_revision` is
    the revision of the last proof scan, 0 before the first. Only the state `paused` has `paused_for`. `whole`:
    the scope covers all that the configuration governed when the campaign was planned, or taken up; resources
    that appear later do not change it.
    """

    id: str
    state: CampaignState
    generation: str
    scope: Scope
    batches: int
    planned_at: str
    because: str
    sweeps: int = 1
    proof_revision: int = 0
    options: CampaignOptions = NO_OPTIONS
    paused_for: Pause | None = None
    ended_at: str = ""
    growth: Growth = ANY_GROWTH
    whole: bool = False

    def moved(self, state: CampaignState, because: str, *, proof_revision: int = 0) -> Campaign:
        """Return the campaign in another state; `because` is the reason."""
        return replace(
            self, state=state, because=because, proof_revision=proof_revision or self.proof_revision, paused_for=None
        )

    def paused(self, cause: Pause, because: str) -> Campaign:
        """Return the campaign paused for this cause."""
        return replace(self.moved(CampaignState.PAUSED, because), paused_for=cause)

    def log_context(self) -> dict[str, object]:
        """Return the fields that every log line about this campaign carries."""
        return {"campaign": self.id, "generation": self.generation, "state": self.state.value}

    def to_json(self) -> dict[str, object]:
        """Return the JSON form of the record."""
        return {
            "id": self.id,
            "state": self.state.value,
            "generation": self.generation,
            "resources": list(self.scope.resources),
            "namespaces": list(self.scope.namespaces),
            "batches": self.batches,
            "planned_at": self.planned_at,
            "because": self.because,
            "sweeps": self.sweeps,
            "proof_revision": self.proof_revision,
            "options": self.options.to_json(),
            "paused_for": self.paused_for.value if self.paused_for else None,
            "ended_at": self.ended_at,
            "growth": self.growth.to_json(),
            "whole": self.whole,
        }

    @classmethod
    def from_json(cls, value: Mapping[str, object]) -> Campaign:
        """Read the JSON form. Raises ValueError if `value` is not one."""
        fields = Fields.of(value)
        return cls(
            fields.name("id"),
            fields.choice("state", CampaignState),
            fields.text("generation"),
            Scope(fields.texts("resources"), fields.each("namespaces", _namespace)),
            fields.count("batches", most=MOST_BATCHES),
            fields.moment("planned_at"),
            fields.text("because"),
            fields.count("sweeps", 1),
            fields.count("proof_revision"),
            CampaignOptions.from_json(fields.mapping(fields.either("options", "wish"))),
            fields.choice("paused_for", Pause) if fields.has("paused_for") else None,
            fields.moment_or_none("ended_at"),
            fields.one("growth", Growth.from_json) if fields.has("growth") else ANY_GROWTH,
            fields.has("whole") and fields.flag("whole"),  # absent in records of earlier versions
        )


def completed(campaigns: Iterable[Campaign], generation: str, after: int = 0) -> frozenset[str]:
    """Return the resources that complete campaigns proved, in all namespaces, under the configuration `generation`.

    Proofs up to the revision `after` do not count: the configuration may have changed and come back since.
    """
    whole = (
        campaign.scope.resources
        for campaign in campaigns
        if campaign.state is CampaignState.COMPLETE
        and campaign.generation == generation
        and (not after or campaign.proof_revision > after)
        and not campaign.scope.namespaces
    )
    return frozenset(resource for resources in whole for resource in resources)


def _namespace(value: object) -> str:
    return matching(value, "a namespace", NAMESPACE)
