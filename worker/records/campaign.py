"""A campaign: the rewrap of the objects in one scope under one generation of the EncryptionConfiguration."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Annotated

from kube_rewrap.worker.fields import MOST_BATCHES, NAMESPACE, moment_of, number_of
from kube_rewrap.worker.records.form import (
    Count,
    Flat,
    Form,
    Later,
    Moment,
    Name,
    Named,
    Text,
    form_of,
    or_empty,
    whole,
)
from kube_rewrap.worker.records.proof_counts import ProofCounts

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
class Scope(Form):
    """What a campaign covers: resources by name, in the given namespaces, or in all if none is given."""

    resources: tuple[Text, ...]
    namespaces: tuple[Annotated[str, form_of(form=NAMESPACE)], ...] = ()


def new_id(now: datetime, chance: bytes) -> str:
    """Return a name for a campaign or a rotation. Names sort by `now`, to a quarter of a millisecond.

    `chance` is at least 2 random bytes; they distinguish names of the same moment.
    """
    return f"{now:%Y%m%d-%H%M%S}-{now.microsecond * 4096 // 1_000_000:03x}{chance.hex()[:3]}"


def rate_of(value: object, what: str = "rate") -> float:
    """Return a campaign's own rate in objects a second, 0 = it has none. Raises ValueError."""
    rate = number_of(value, what, FASTEST)
    if 0 < rate < 1:
        raise ValueError(f"{what} is below 1 and not 0")
    return rate


@dataclass(frozen=True, slots=True, kw_only=True)
class CampaignOptions(Form):
    """The options of a campaign, as requested.

    `rate` is its own ceiling in objects a second, 0 = the service's. Of waiting campaigns the one with the
    highest `priority` begins first. Only with `allow_plaintext` may a campaign decrypt objects, under an identity
    primary. `paused`: the campaign begins paused, because an operator paused its request. Without `allow_empty`
    the scheduler refuses a request that names a namespace or a resource without objects. `repair`: the scheduler
    itself started it, to repair drift; the audit log has a sum of such campaigns, not an entry for each. `since`: an
    operator said that every KMS plugin has wrapped with the present KEK since this revision, where nothing shows that
    the KEK was rotated. Objects that were last written at or before it are rewritten although they are current; 0 =
    none is.
    """

    reason: Text = ""
    rate: Annotated[float, rate_of] = 0.0
    priority: Annotated[int, whole(least=-HIGHEST_PRIORITY, most=HIGHEST_PRIORITY)] = 0
    allow_plaintext: bool = False
    paused: Later[bool] = False
    allow_empty: Later[bool] = False
    repair: Later[bool] = False
    since: Later[Count] = 0


NO_OPTIONS = CampaignOptions()


@dataclass(frozen=True, slots=True)
class QuarantineLimit(Form):
    """How many objects a campaign may put in quarantine.

    An attacker who tries out ciphertexts leaves unreadable objects.

    An object written after the revision `since` counts as new. A campaign may put `most` new objects in
    quarantine; None = any number, for a campaign that an operator asked for. `planned` is the revision at which
    the campaign was planned.
    """

    since: Count = 0
    planned: Count = 0
    most: Count | None = None

    def allows(self, fresh: int) -> bool:
        """Whether `fresh` new objects may be in quarantine."""
        return self.most is None or fresh <= self.most


NO_QUARANTINE_LIMIT = QuarantineLimit()


@dataclass(frozen=True, slots=True, kw_only=True)
class Campaign(Form):
    """One campaign's record. `batches` is the number of its batches; `because` is the reason for its state.

    Times are ISO 8601 in UTC. `sweeps` is the number of passes over its batches that began; `proof_revision` is
    the revision of the last proof scan, 0 before the first; `proof_counts` is what the scan that ended the campaign
    counted, None before the end and in older records. Only the state `paused` has `paused_for`. `whole`:
    the scope covers all that the configuration governed when the campaign was planned, or taken up; resources
    that appear later do not change it. `convergence` is what was found of the kube-apiservers right before the plan, in
    a sentence; "" = none was asked, or the record is older.
    """

    id: Name
    state: CampaignState
    generation: Text
    scope: Flat[Scope]
    batches: Annotated[int, whole(most=MOST_BATCHES)]
    planned_at: Moment
    because: Text
    sweeps: Annotated[int, whole(least=1)] = 1
    proof_revision: Count = 0
    options: Annotated[CampaignOptions, Named(former="wish")] = NO_OPTIONS
    paused_for: Pause | None = None
    ended_at: Annotated[str, or_empty(moment_of)] = ""
    quarantine_limit: Annotated[Later[QuarantineLimit], Named(former="growth")] = NO_QUARANTINE_LIMIT
    whole: Later[bool] = False
    proof_counts: Later[ProofCounts | None] = None
    convergence: Later[Text] = ""

    @property
    def seconds(self) -> int | None:
        """Seconds from the plan to the end; None before the end."""
        if not self.ended_at:
            return None
        began, ended = datetime.fromisoformat(self.planned_at), datetime.fromisoformat(self.ended_at)
        return max(0, round((ended - began).total_seconds()))

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
