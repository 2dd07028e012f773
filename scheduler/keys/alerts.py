"""Judges how far the budget of each aesgcm key is used, and which alerts and rotations are due. Pure.

1. From the share `due_at` of its limit a key is due for rotation; at the limit it is exhausted, and so
   is one whose budget was restored.
   A key that writes is also due when, at the rate of the last hour, its rest lasts less than three times as
   long as the last rotation took; it stays so (`worker.records.usage`).
2. An alert is due when a key reaches such a state, then every day; every hour while an exhausted key writes.
3. A due key that writes in some entry is a reason to rotate; one that only reads is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from kube_rewrap.worker.records.budget import Budget, BudgetState
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.usage import NOTHING, Haste, Usage, find_haste

_DAY = 86_400.0
_HOUR = 3_600.0
_LEAST_WATCHED = 60.0
"""Seconds of watching below which a rate says nothing."""

_ROTATION_SECONDS = 30 * 60.0
"""How long a rotation is taken to last when none is on record."""

_WORN = (BudgetState.DUE, BudgetState.EXHAUSTED, BudgetState.RESTORED)


@dataclass(frozen=True, slots=True)
class LoggedAlert:
    """The last alert that was logged for a key: its state, and when (seconds of a monotonic clock)."""

    state: BudgetState
    at: float


@dataclass(frozen=True, slots=True)
class Worn:
    """A key that wears, or is worn out, and the resources that are written with it, as the file names them.

    `haste`: why it is due before its share of the limit is used; None when it is due for that share.
    """

    budget: Budget
    state: BudgetState
    resources: tuple[str, ...]
    haste: Haste | None = None

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing of ours may encrypt with it any more."""
        return self.state is not BudgetState.DUE

    def because(self, limit: int) -> str:
        """Return the sentence for the log."""
        budget, used = self.budget, f"{self.budget.used} of {limit} writes are used"
        names = ", ".join(budget.names) or budget.fingerprint
        where = f"; {', '.join(self.resources)} are written with it" if self.resources else "; nothing writes with it"
        if self.state is BudgetState.RESTORED:
            return f"{names}: etcd was restored, and how often it has encrypted is not known{where}: rotate it"
        if self.state is BudgetState.EXHAUSTED:
            return f"{names}: {used}{where}. rewrap encrypts nothing more with it; kube-apiserver does: ROTATE IT NOW"
        if self.haste is not None:
            return f"{names}: {used}, and {self.haste.because}{where}: rotate it"
        return f"{names}: {used}{where}: rotate it"


def judge_wear(
    budgets: Iterable[Budget], generation: GenerationRecord, gcm_limit: int, due_at: float, usage: Usage = NOTHING
) -> tuple[Worn, ...]:
    """Return the configured keys that are due, exhausted or restored, the most used first.

    `usage` holds those that were found due by their rate.
    """
    configured = {key.fingerprint for _, chain in generation.resources for key in chain}
    found = []
    for budget in budgets:
        if budget.fingerprint not in configured:
            continue
        state, haste = judge_state(budget, generation, gcm_limit, due_at, usage)
        if state in _WORN:
            writes = (name for name, chain in generation.resources if chain[0].fingerprint == budget.fingerprint)
            found.append(Worn(budget, state, tuple(writes), haste))
    return tuple(sorted(found, key=lambda worn: -worn.budget.used))


def judge_state(
    budget: Budget, generation: GenerationRecord, gcm_limit: int, due_at: float, usage: Usage
) -> tuple[BudgetState, Haste | None]:
    """Return a budget's state, and why it is due if that is for its rate alone."""
    state = budget.state(gcm_limit, due_at)
    if state is not BudgetState.OK or budget.fingerprint not in writing(generation):
        return state, None
    haste = usage.haste(budget.fingerprint, budget.limit(gcm_limit))
    return (BudgetState.DUE, haste) if haste is not None else (state, None)


def writing(generation: GenerationRecord) -> frozenset[str]:
    """Return the fingerprints of the keys that write."""
    return frozenset(chain[0].fingerprint for _, chain in generation.resources if chain)


def find_hasty(budget: Budget, gcm_limit: int, usage: Usage, took: float, now: float) -> Haste | None:
    """Return why a key that writes is due by its rate, None when it is not, or was found so before.

    `took` is how long a rotation lasts in seconds, `now` in seconds since 1970.
    """
    left = budget.left(gcm_limit)
    if left is None or usage.haste(budget.fingerprint, gcm_limit) is not None:
        return None
    return find_haste(left, usage.rate(budget.fingerprint, now), took, gcm_limit)


def rotation_seconds(rotations: Iterable[Rotation]) -> float:
    """Return how long the last rotation that came to its end took, in seconds; half an hour where none did.

    At most a day: one that was held, or waited for an operator, says nothing about the next.
    """
    took = [seconds for one in rotations if one.step is RotationStep.DONE and (seconds := _took(one)) is not None]
    return min(_DAY, took[-1]) if took else _ROTATION_SECONDS


def _took(rotation: Rotation) -> float | None:
    """Return how long one rotation took; None when its record does not say. Its name begins with when it began."""
    try:
        began = datetime.strptime(rotation.id[:15], "%Y%m%d-%H%M%S").replace(tzinfo=UTC)
        return max(0.0, (datetime.fromisoformat(rotation.passed[-1].at) - began).total_seconds())
    except (ValueError, IndexError, TypeError):
        return None


def due_alerts(worn: Iterable[Worn], logged: Mapping[str, LoggedAlert], now: float) -> tuple[Worn, ...]:
    """Return the keys whose state is new, and those whose last alert is too long ago."""
    return tuple(key for key in worn if _is_due(key, logged.get(key.budget.fingerprint), now))


def _is_due(worn: Worn, before: LoggedAlert | None, now: float) -> bool:
    if before is None or before.state is not worn.state:
        return True
    return now - before.at >= (_HOUR if worn.is_exhausted and worn.resources else _DAY)


def to_rotate(worn: Iterable[Worn]) -> Worn | None:
    """Return the key that should be rotated, one at a time; None when none should."""
    return next((one for one in worn if one.resources), None)


def reached_at(budget: Budget, gcm_limit: int, since: int, now: float) -> float | None:
    """Return when a key's limit will be reached if others go on to write as they did (seconds since 1970).

    `since` is when the watch of their writes began, 0 = there is none. None: not known, no limit, or no other
    writer.
    """
    left, foreign = budget.left(gcm_limit), max(0, budget.observed - budget.committed)
    if left is None or not since or not foreign or now - since < _LEAST_WATCHED:
        return None
    return now + left * (now - since) / foreign
