"""How worn each aesgcm key is, and what is to be said and done about it. Pure.

1. From the share `due_at` of its limit a key is due for rotation; at the limit it is exhausted, and so
   is one whose budget was restored.
2. That is said when it begins, and again every day, for an exhausted key every hour.
3. A due key that writes in some entry is a reason to rotate; one that only reads is none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from worker.model.budget import Budget, BudgetState
from worker.model.generation import GenerationRecord

_DAY = 86_400.0
_HOUR = 3_600.0
_LEAST_WATCHED = 60.0
"""Seconds of watching below which a rate says nothing."""

_WORN = (BudgetState.DUE, BudgetState.EXHAUSTED, BudgetState.RESTORED)


@dataclass(frozen=True, slots=True)
class Said:
    """What was last said of a key, and when (seconds on any clock that only grows)."""

    state: BudgetState
    at: float


@dataclass(frozen=True, slots=True)
class Worn:
    """A key that wears, or is worn out, and the resources that are written with it, as the file names them."""

    budget: Budget
    state: BudgetState
    resources: tuple[str, ...]

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
        return f"{names}: {used}{where}: rotate it"


def judge_wear(
    budgets: Iterable[Budget], generation: GenerationRecord, gcm_limit: int, due_at: float
) -> tuple[Worn, ...]:
    """Return the configured keys that are due, exhausted or restored, the most used first."""
    configured = {key.fingerprint for _, chain in generation.resources for key in chain}
    found = []
    for budget in budgets:
        state = budget.state(gcm_limit, due_at)
        if state in _WORN and budget.fingerprint in configured:
            writes = (name for name, chain in generation.resources if chain[0].fingerprint == budget.fingerprint)
            found.append(Worn(budget, state, tuple(writes)))
    return tuple(sorted(found, key=lambda worn: -worn.budget.used))


def to_say(worn: Iterable[Worn], said: Mapping[str, Said], now: float) -> tuple[Worn, ...]:
    """Return what is to be said now: what is new or worse, and what was said long ago."""
    return tuple(one for one in worn if _is_to_say(one, said.get(one.budget.fingerprint), now))


def _is_to_say(worn: Worn, before: Said | None, now: float) -> bool:
    if before is None or before.state is not worn.state:
        return True
    return now - before.at >= (_HOUR if worn.is_exhausted and worn.resources else _DAY)


def to_rotate(worn: Iterable[Worn]) -> tuple[str, ...]:
    """Return the resources whose key should be rotated, all of one key at a time; () when none should."""
    return next((one.resources for one in worn if one.resources), ())


def reached_at(budget: Budget, gcm_limit: int, since: int, now: float) -> float | None:
    """Return when a key's limit will be reached if others go on to write as they did (seconds since 1970).

    `since` is when somebody began to watch their writes, 0 = nobody does. None: nobody can tell, there is no
    limit, or nobody else writes.
    """
    left, foreign = budget.left(gcm_limit), max(0, budget.observed - budget.committed)
    if left is None or not since or not foreign or now - since < _LEAST_WATCHED:
        return None
    return now + left * (now - since) / foreign
