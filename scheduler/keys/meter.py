"""Measures how fast other writers encrypt with each key, and records it.

It compares two samples, taken at least a minute apart while no campaign is unfinished and the watch has no lag. The
first sample is taken no earlier than a minute after the controllers started: until then the watch may still deliver
writes from before. `worker.records.usage` computes the rate between two samples.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from kube_rewrap.scheduler.keys.alerts import find_due_by_rate, rotation_seconds, writing
from kube_rewrap.worker.records.budget import LIMITED_PROVIDER, Budget
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.rotation import Rotation
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.records.usage import HOUR, SAMPLE_SECONDS, Sample, Usage, between
from kube_rewrap.worker.records.usages import Usages


class Watching(Protocol):
    """The observer's counts."""

    @property
    def lag(self) -> int:
        """Revisions that the watch has not counted yet."""

    @property
    def opened(self) -> Mapping[str, int]:
        """Writes that the watch delivered and a key opened, by fingerprint."""


@dataclass(frozen=True, slots=True)
class MeterFacts:
    """The facts for one measurement. `steady` is in seconds of a monotonic clock, `wall` in seconds since 1970."""

    steady: float
    wall: float

    budgets: Mapping[str, Budget]
    rotations: tuple[Rotation, ...]
    generation: GenerationRecord
    gcm_limit: int


class Meter:
    """See the module's docstring. `usages` is fenced by the leader's lock."""

    def __init__(self, usages: Usages, campaigns: Campaigns, watching: Watching) -> None:
        self._usages = usages
        self._campaigns = campaigns
        self._watching = watching
        self._began: float | None = None
        self._stored: Stored[Usage] | None = None
        self._before: Sample | None = None

    async def measure(self, facts: MeterFacts) -> Usage:
        """Take a sample, if it is time; returns the usage on record afterwards. Raises FencedError, TemporaryError."""
        stored = self._stored or await self._usages.load()
        self._stored = None  # after a failure it is read again
        usage = await self._with_interval(stored.value, facts)
        took, writes = rotation_seconds(facts.rotations), writing(facts.generation)
        found = {
            name: find_due_by_rate(budget, facts.gcm_limit, usage, took, facts.wall)
            for name, budget in facts.budgets.items()
            if name in writes
        }
        due_by_rate = {name: by_rate for name, by_rate in found.items() if by_rate is not None}
        if due_by_rate:
            usage = usage.with_due(due_by_rate, writes)
        if usage != stored.value:
            stored = await self._usages.save(replace(stored, value=usage))
        self._stored = stored
        return usage

    async def _with_interval(self, usage: Usage, facts: MeterFacts) -> Usage:
        if self._began is None:
            self._began = facts.steady
        if facts.steady < (self._before.at if self._before else self._began) + SAMPLE_SECONDS:
            return usage
        if self._watching.lag or await self._campaigns.unfinished():
            return usage
        sample = Sample(facts.steady, self._watching.opened, _own(facts.budgets.values()))
        if self._before is None:
            self._before = sample
            return usage
        interval = between(self._before, sample, int(facts.wall))
        if interval is None:
            # Without writes the interval stays open, for at most an hour: quiet hours must not lower a later rate.
            self._before = sample if sample.at - self._before.at > HOUR else self._before
            return usage
        self._before = sample
        return usage.followed_by(interval)


def _own(budgets: Iterable[Budget]) -> dict[str, int]:
    return {one.fingerprint: one.committed for one in budgets if one.provider == LIMITED_PROVIDER}
