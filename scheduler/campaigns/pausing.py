"""Shall a campaign rest, or go on after a rest? Pure.

1. An operator's pause ends by an operator's word only.
2. No room in etcd, no write left for a key, or outside the maintenance windows: rest, in this order of gravity.
3. None of these any more: go on. After a lack of room only once there is some distance to the limit,
   so that it does not go on and off with every compaction.
4. A quarantine that grew too much (`worker.records.try_counter`, `transition.advance`): rest until an operator's word.
   An etcd writer who tries out values under aescbc learns by each whether it opens: `MOST_FRESH` a day at most.

Not handled: what a campaign does that is only proving; it writes nothing, and goes on.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kube_rewrap.config.settings.schema import SpaceSettings
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Growth, Pause, Scope

MOST_FRESH = 200
"""Newly written objects that nothing opens, of a day, that campaigns of the service itself take for no attack.

A byte of plaintext takes 128 guesses on average, 256 at the most.
"""

_DAY = 86_400.0

_DISTANCE = 0.02
"""Share of the quota that must be free below the stop mark before writing goes on."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """What speaks for a rest now: sentences, None where nothing does."""

    space: str | None
    budget: str | None
    window: str | None

    @property
    def cause(self) -> tuple[Pause, str] | None:
        """The gravest of them."""
        causes = ((Pause.SPACE, self.space), (Pause.BUDGET, self.budget), (Pause.WINDOW, self.window))
        return next(((cause, because) for cause, because in causes if because is not None), None)


def judge_rest(campaign: Campaign, pressure: Pressure) -> Campaign:
    """Return the campaign paused, or going on again, or as it is."""
    if campaign.state.is_end or campaign.paused_for in _BY_WORD or campaign.state is CampaignState.PROVING:
        return campaign
    cause = pressure.cause
    if cause is not None:
        return campaign.paused(*cause) if campaign.paused_for is not cause[0] else campaign
    if campaign.state is CampaignState.PAUSED:
        return campaign.moved(CampaignState.RUNNING, f"what made it rest ({campaign.paused_for}) is over")
    return campaign


_BY_WORD = {Pause.OPERATOR, Pause.QUARANTINE}


@dataclass(frozen=True, slots=True)
class Allowance:
    """What is left of a day's `MOST_FRESH` at a time in seconds by any clock that does not jump."""

    left: float = MOST_FRESH
    at: float = 0.0

    def spent(self, now: float, count: int = 0) -> Allowance:
        """Return what is left after some more; it comes back evenly over a day, and is never more than at first."""
        return Allowance(min(float(MOST_FRESH), self.left + MOST_FRESH * (now - self.at) / _DAY) - count, now)

    @property
    def is_exceeded(self) -> bool:
        """Whether there was more than the day allows."""
        return self.left < 0


def plan_growth(known: Iterable[Campaign], scope: Scope, planned: int, *, attended: bool) -> Growth:
    """Return how far the quarantine of a new campaign may grow.

    `known` are the campaigns on record, `planned` is the revision of the plan. That all campaigns which no operator
    asked for share what a day allows is what their workers see to (`worker.records.try_counter`).
    """
    covering = [one for one in known if one.proof_revision and _covers(one.scope, scope)]
    # What was written while a campaign was at work may have been left to the next one.
    since = max((one.growth.planned or one.proof_revision for one in covering), default=0)
    return Growth(since, planned, None if attended else MOST_FRESH)


def _covers(wide: Scope, narrow: Scope) -> bool:
    namespaces = not wide.namespaces or (narrow.namespaces and set(narrow.namespaces) <= set(wide.namespaces))
    return bool(namespaces) and set(narrow.resources) <= set(wide.resources)


def judge_room(room: Room, settings: SpaceSettings, paused_for: Pause | None) -> str | None:
    """Return why there is no room; after a pause for space, a little more room is asked for."""
    if room.refusal is not None:
        return room.refusal
    if paused_for is Pause.SPACE and room.projected > (settings.stop_at - _DISTANCE) * room.quota:
        return "etcd is still close to its quota: waiting for a compaction and a defragmentation"
    return None
