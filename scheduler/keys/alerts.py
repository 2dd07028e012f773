"""Judges the write budget of each aesgcm key: is it due for rotation or exhausted, is an alert due? Pure.

1. A key is due when it has made the share `due_at` of the writes that its limit allows, and exhausted at the limit.
   A key whose budget was restored from a backup counts as exhausted.
2. A primary key is also due when, at the rate of the last hour, its remaining writes would last less than three times
   as long as the last rotation took. It stays due when the rate falls (`worker.records.usage`).
3. An alert is due when a key reaches such a state, then every day; every hour if it is exhausted and primary.
4. Only a primary key is rotated. A due key that only reads makes no further writes.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from kube_rewrap.worker.records.budget import Budget, BudgetState
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.usage import NOTHING, DueByRate, Usage, judge_rate

_DAY = 86_400.0
_HOUR = 3_600.0
_LEAST_WATCHED = 60.0
"""Seconds that the watch must have run before `reached_at` computes a rate."""

_ROTATION_SECONDS = 30 * 60.0
"""The assumed duration of a rotation when none is on record."""

_ALERTED = (BudgetState.DUE, BudgetState.EXHAUSTED, BudgetState.RESTORED)


@dataclass(frozen=True, slots=True)
class LoggedAlert:
    """The last alert that was logged for a key: its state, and when (seconds of a monotonic clock)."""

    state: BudgetState
    at: float


@dataclass(frozen=True, slots=True)
class DueKey:
    """A key that is due, exhausted or restored. `resources`: those of which it is the primary, as the file names them.

    `by_rate`: why it is due before the share `due_at` of its limit is used; None when that share is the reason.
    """

    budget: Budget
    state: BudgetState
    resources: tuple[str, ...]
    by_rate: DueByRate | None = None

    @property
    def is_exhausted(self) -> bool:
        """Whether rewrap must not encrypt with it any more."""
        return self.state is not BudgetState.DUE

    def because(self, limit: int) -> str:
        """Return the sentence for the log; `limit` is the key's write limit."""
        names = ", ".join(self.budget.names) or self.budget.fingerprint
        is_primary = bool(self.resources)
        where = f"it is the primary key of {', '.join(self.resources)}" if is_primary else "it only reads"
        remedy = "rotate it" if is_primary else "remove it when `rewrap verify` calls it removable"
        if self.state is BudgetState.RESTORED:
            return f"{names}: etcd was restored, so the number of its encryptions is unknown; {where}: {remedy}"
        used = f"{self.budget.used} of {limit} writes are used"
        if self.state is BudgetState.EXHAUSTED:
            others = "kube-apiserver still does: ROTATE IT NOW" if is_primary else remedy
            return f"{names}: {used}; {where}. rewrap encrypts nothing more with it; {others}"
        if self.by_rate is not None:
            return f"{names}: {used}, and {self.by_rate.because}; {where}: {remedy}"
        return f"{names}: {used}; {where}: {remedy}"


def find_due_keys(
    budgets: Iterable[Budget], generation: GenerationRecord, gcm_limit: int, due_at: float, usage: Usage = NOTHING
) -> tuple[DueKey, ...]:
    """Return the configured keys that are due, exhausted or restored, the most used first.

    `gcm_limit` is in writes, `due_at` a share of it. `usage` names the keys that were found due by their rate.
    """
    configured = {key.fingerprint for _, chain in generation.resources for key in chain}
    found = []
    for budget in budgets:
        if budget.fingerprint not in configured:
            continue
        state, by_rate = judge_state(budget, generation, gcm_limit, due_at, usage)
        if state in _ALERTED:
            writes = (name for name, chain in generation.resources if chain[0].fingerprint == budget.fingerprint)
            found.append(DueKey(budget, state, tuple(writes), by_rate))
    return tuple(sorted(found, key=lambda due: -due.budget.used))


def judge_state(
    budget: Budget, generation: GenerationRecord, gcm_limit: int, due_at: float, usage: Usage
) -> tuple[BudgetState, DueByRate | None]:
    """Return a budget's state, and the reason if only its rate makes it due."""
    state = budget.state(gcm_limit, due_at)
    if state is not BudgetState.OK or budget.fingerprint not in writing(generation):
        return state, None
    by_rate = usage.why_due(budget.fingerprint, budget.limit(gcm_limit))
    return (BudgetState.DUE, by_rate) if by_rate is not None else (state, None)


def writing(generation: GenerationRecord) -> frozenset[str]:
    """Return the fingerprints of the primary keys."""
    return frozenset(chain[0].fingerprint for _, chain in generation.resources if chain)


def find_due_by_rate(budget: Budget, gcm_limit: int, usage: Usage, took: float, now: float) -> DueByRate | None:
    """Return why a primary key is newly due by its rate; None when it is not, or when `usage` names it already.

    `took` is the duration of a rotation in seconds, `now` in seconds since 1970.
    """
    left = budget.left(gcm_limit)
    if left is None or usage.why_due(budget.fingerprint, gcm_limit) is not None:
        return None
    return judge_rate(left, usage.rate(budget.fingerprint, now), took, gcm_limit)


def rotation_seconds(rotations: Iterable[Rotation]) -> float:
    """Return how long the last completed rotation took, in seconds; half an hour where none is on record.

    At most a day: a rotation that was held, or waited for an operator, does not predict the next one.
    """
    took = [seconds for one in rotations if one.step is RotationStep.DONE and (seconds := _took(one)) is not None]
    return min(_DAY, took[-1]) if took else _ROTATION_SECONDS


def _took(rotation: Rotation) -> float | None:
    """Return a rotation's duration in seconds, from the time in its id to its last step; None for an invalid record."""
    try:
        began, ended = rotation.began_at, rotation.step_began_at
        return None if began is None or ended is None else max(0.0, (ended - began).total_seconds())
    except (ValueError, TypeError):
        return None


def due_alerts(keys: Iterable[DueKey], logged: Mapping[str, LoggedAlert], now: float) -> tuple[DueKey, ...]:
    """Return the keys for which an alert has to be logged; `logged` holds the last alert by fingerprint.

    `now` is in seconds of the same clock as `LoggedAlert.at`.
    """
    return tuple(key for key in keys if _is_due(key, logged.get(key.budget.fingerprint), now))


def _is_due(key: DueKey, before: LoggedAlert | None, now: float) -> bool:
    if before is None or before.state is not key.state:
        return True
    return now - before.at >= (_HOUR if key.is_exhausted and key.resources else _DAY)


def choose_key_to_rotate(keys: Iterable[DueKey]) -> DueKey | None:
    """Return the first primary key; None when all of them only read. Rotations run one at a time."""
    return next((one for one in keys if one.resources), None)


def reached_at(budget: Budget, gcm_limit: int, since: int, now: float) -> float | None:
    """Return when a key will reach its limit if others continue to write at the present rate (seconds since 1970).

    `since` is when the watch began to count their writes (seconds since 1970), 0 = never. None: the key has no limit,
    no other process wrote under it, or the watch has run for less than a minute.
    """
    left, foreign = budget.left(gcm_limit), max(0, budget.observed - budget.committed)
    if left is None or not since or not foreign or now - since < _LEAST_WATCHED:
        return None
    return now + left * (now - since) / foreign
