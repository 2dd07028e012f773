"""Decides whether a campaign pauses or resumes. Pure.

1. Only an operator's request ends an operator's pause.
2. No room in etcd, no write left for a key, a KMS plugin that does not name the KEK in force, or outside the
   maintenance windows: pause, in this order of gravity.
3. None of these any more: resume. After a lack of room only once there is some distance to the limit, so that it does
   not switch with every compaction.
4. A quarantine that grew too much (`worker.records.try_counter`, `transition.advance`): pause until an operator's
   request. An etcd writer who tries out values under aescbc learns from each whether it opens: `MOST_FRESH` a day at
   most.
5. No batch has advanced for a minute, and the plugin of each worker that tried one failed, though the plugin beside
   the scheduler serves: pause, and try again after a while (`Standstill`).
6. A campaign that is proving writes nothing, and continues; except while KMS plugins do not serve, and parts of the
   proof fail for that. It starts another proof when they serve again.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from kube_rewrap.config.settings.schema import SpaceSettings
from kube_rewrap.worker.rate.pressure import Room
from kube_rewrap.worker.records.batch import BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause, QuarantineLimit, Scope

MOST_FRESH = 200
"""New objects a day that no key opens: with more, campaigns that no operator asked for pause, as under attack.

A byte of plaintext takes 128 guesses on average, 256 at the most.
"""

STANDSTILL_SECONDS = 60.0
"""As long as the circuit of a failing plugin stays open at most: by then each worker has tried."""

_DAY = 86_400.0

_DISTANCE = 0.02
"""Share of the quota that must be free below the stop mark before a campaign resumes."""


@dataclass(frozen=True, slots=True)
class Pressure:
    """The present reasons for a pause: sentences, None where there is none.

    `away`: why KMS plugins do not serve, though the campaign needs them; `kms` includes it.
    """

    space: str | None
    budget: str | None
    window: str | None
    kms: str | None = None
    away: str | None = None

    @property
    def cause(self) -> tuple[Pause, str] | None:
        """The gravest reason, None if there is none."""
        causes = (
            (Pause.SPACE, self.space),
            (Pause.BUDGET, self.budget),
            (Pause.KMS, self.kms),
            (Pause.WINDOW, self.window),
        )
        return next(((cause, because) for cause, because in causes if because is not None), None)


def judge_pause(campaign: Campaign, pressure: Pressure) -> Campaign:
    """Return the campaign paused, resumed, or as it is."""
    if campaign.state.is_end or campaign.paused_for in _ENDED_BY_OPERATOR:
        return campaign
    if campaign.state is CampaignState.PROVING:
        return campaign if pressure.away is None else campaign.paused(Pause.KMS, pressure.away)
    cause = pressure.cause
    if cause is not None:
        return campaign.paused(*cause) if campaign.paused_for is not cause[0] else campaign
    if campaign.state is CampaignState.PAUSED:
        return campaign.moved(CampaignState.RUNNING, f"the cause of its pause ({campaign.paused_for}) is over")
    return campaign


_ENDED_BY_OPERATOR = {Pause.OPERATOR, Pause.QUARANTINE}


@dataclass(frozen=True, slots=True)
class Standstill:
    """A campaign since `since` (seconds of a clock that does not jump), from when on no batch of it has advanced.

    `attempts` is how often its batches had been tried then.
    """

    since: float
    attempts: int = 0
    reached: tuple[object, ...] = ()

    def seen(self, campaign: str, batches: Sequence[Checkpoint], now: float) -> Standstill:
        """Return the standstill after a look at all batches: this one, unless one has advanced."""
        cursors = ((one.spec.number, one.spec.sweep, one.cursor, one.state is BatchState.DONE) for one in batches)
        reached = (campaign, *cursors)
        return self if reached == self.reached else Standstill(now, _attempts(batches), reached)

    def why(self, batches: Sequence[Checkpoint], now: float) -> str:
        """Return why it lasts, if nothing but the plugins of workers is known to be the cause; else ""."""
        open_ones = (one for one in batches if one.state not in {BatchState.DONE, BatchState.PARKED})
        tried = [one for one in open_ones if one.attempts]
        is_long = now - self.since >= STANDSTILL_SECONDS and _attempts(batches) > self.attempts
        if not is_long or not tried or not all(one.by_plugin for one in tried):
            return ""
        return f"the plugin beside the scheduler serves, and those beside the workers fail: {tried[0].because}"


def _attempts(batches: Iterable[Checkpoint]) -> int:
    return sum(one.attempts for one in batches)


@dataclass(frozen=True, slots=True)
class Allowance:
    """The rest of a day's `MOST_FRESH` at a time, in seconds of any clock that does not jump."""

    left: float = MOST_FRESH
    at: float = 0.0

    def spent(self, now: float, count: int = 0) -> Allowance:
        """Return the rest after `count` more; it refills evenly over a day, up to `MOST_FRESH`."""
        return Allowance(min(float(MOST_FRESH), self.left + MOST_FRESH * (now - self.at) / _DAY) - count, now)

    @property
    def is_exceeded(self) -> bool:
        """Whether more were counted than the day allows."""
        return self.left < 0


def plan_quarantine_limit(known: Iterable[Campaign], scope: Scope, planned: int, *, attended: bool) -> QuarantineLimit:
    """Return the limit of the quarantine of a new campaign.

    `known` are the campaigns on record, `planned` is the revision of the plan. Workers see to it that all campaigns
    that no operator asked for share one day's allowance (`worker.records.try_counter`).
    """
    covering = [one for one in known if one.proof_revision and _covers(one.scope, scope)]
    # A campaign may have left objects that were written meanwhile to the next one.
    since = max((one.quarantine_limit.planned or one.proof_revision for one in covering), default=0)
    return QuarantineLimit(since, planned, None if attended else MOST_FRESH)


def _covers(wide: Scope, narrow: Scope) -> bool:
    namespaces = not wide.namespaces or (narrow.namespaces and set(narrow.namespaces) <= set(wide.namespaces))
    return bool(namespaces) and set(narrow.resources) <= set(wide.resources)


def judge_room(room: Room, settings: SpaceSettings, paused_for: Pause | None) -> str | None:
    """Return why etcd has no room, None if it has; after a pause for space, `_DISTANCE` more must be free."""
    if room.refusal is not None:
        return room.refusal
    if paused_for is Pause.SPACE and room.projected > (settings.stop_at - _DISTANCE) * room.quota:
        return "etcd is still close to its quota: waiting for a compaction and a defragmentation"
    return None
