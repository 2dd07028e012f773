"""Shall a campaign rest, or go on after a rest? Pure.

1. An operator's pause ends by an operator's word only.
2. No room in etcd, no write left for a key, or outside the hours: rest, in this order of gravity.
3. None of these any more: go on. After a lack of room only once there is some distance to the limit,
   so that it does not go on and off with every compaction.

Not handled: what a campaign does that is only proving; it writes nothing, and goes on.
"""

from __future__ import annotations

from dataclasses import dataclass

from config.settings import SpaceSettings
from worker.model.campaign import Campaign, CampaignState, Pause
from worker.pace.pressure import Room

_DISTANCE = 0.02
"""Share of the quota that must be free below the stop mark before writing goes on."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """What speaks for a rest now: sentences, None where nothing does."""

    space: str | None
    budget: str | None
    hours: str | None

    @property
    def cause(self) -> tuple[Pause, str] | None:
        """The gravest of them."""
        causes = ((Pause.SPACE, self.space), (Pause.BUDGET, self.budget), (Pause.WINDOW, self.hours))
        return next(((cause, because) for cause, because in causes if because is not None), None)


def judge_rest(campaign: Campaign, pressure: Pressure) -> Campaign:
    """Return the campaign paused, or going on again, or as it is."""
    if campaign.state.is_end or campaign.paused_for is Pause.OPERATOR or campaign.state is CampaignState.PROVING:
        return campaign
    cause = pressure.cause
    if cause is not None:
        return campaign.paused(*cause) if campaign.paused_for is not cause[0] else campaign
    if campaign.state is CampaignState.PAUSED:
        return campaign.moved(CampaignState.RUNNING, f"what made it rest ({campaign.paused_for}) is over")
    return campaign


def judge_room(room: Room, settings: SpaceSettings, paused_for: Pause | None) -> str | None:
    """Return why there is no room; after a pause for space, a little more room is asked for."""
    if room.refusal is not None:
        return room.refusal
    if paused_for is Pause.SPACE and room.projected > (settings.stop_at - _DISTANCE) * room.quota:
        return "etcd is still close to its quota: waiting for a compaction and a defragmentation"
    return None
