"""Checks of the keys: how often they encrypted, how old they are, which ones could be removed. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.scheduler.hardening.facts import Check, HardeningFacts, State, days, named
from kube_rewrap.scheduler.keys.removal import BACKUPS
from kube_rewrap.worker.records.budget import LIMITED_PROVIDER, BudgetState
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef

_OVER = {BudgetState.EXHAUSTED, BudgetState.RESTORED}


def write_budget(facts: HardeningFacts) -> Check:
    """Check that no aesgcm key that writes is due for rotation or exhausted.

    An exhausted key that only reads is a warning; a due one is none, for it makes no further writes.
    """
    name = "write-budget"
    writing = {key.fingerprint: key for key in facts.writers if key.provider == LIMITED_PROVIDER}
    states = {fingerprint: _state(facts, fingerprint) for fingerprint in _limited(facts)}
    over = [fingerprint for fingerprint, state in states.items() if state in _OVER]
    due = [fingerprint for fingerprint in writing if states[fingerprint] is BudgetState.DUE]
    rotate = "rotate it: `rewrap rotate`; of a restored one see also `rewrap keys --accept`"
    if worn := [_used(facts, one) for one in over if one in writing]:
        return Check(name, State.FAIL, f"no write is left to {named(worn)}", rotate)
    if due:
        return Check(name, State.WARN, f"due for rotation: {named(_used(facts, one) for one in due)}", rotate)
    if over:
        reason = f"exhausted, though it only reads: {named(_used(facts, one) for one in over)}"
        return Check(name, State.WARN, reason, "`rewrap run`, then remove it when `rewrap verify` calls it removable")
    return _uncounted(facts, writing) or _within(facts, writing)


def _uncounted(facts: HardeningFacts, writing: Mapping[str, KeyRef]) -> Check | None:
    """Return an unknown check if the use of a key that writes is not counted, else None."""
    name = "write-budget"
    if unrecorded := [str(key) for fingerprint, key in writing.items() if _state(facts, fingerprint) is None]:
        reason = f"no write budget is on record for {named(unrecorded)}"
        return Check(name, State.UNKNOWN, reason, "`rewrap run` begins one, and a scheduler keeps it up to date")
    if unwatched := [str(key) for fingerprint, key in writing.items() if fingerprint not in facts.watched]:
        reason = f"no scheduler counts kube-apiserver's writes with {named(unwatched)}; within its limit without them"
        return Check(name, State.UNKNOWN, reason, "run `rewrap scheduler`: it observes every writer")
    return None


def _within(facts: HardeningFacts, writing: Mapping[str, KeyRef]) -> Check:
    used = named(_used(facts, one) for one in writing)
    return Check("write-budget", State.PASS, f"within the limit: {used}" if used else "no primary key has a limit")


def key_age(facts: HardeningFacts) -> Check:
    """Check that no key that writes is too old. Without a rotation's record, its age has a lower bound only."""
    name, oldest = "key-age", facts.ages.key
    ages = {key: _age(facts, key) for key in facts.writers if key.fingerprint != PLAINTEXT_FINGERPRINT}
    old = [f"{key} ({days(age)} or more)" for key, (age, _) in ages.items() if age > oldest]
    if old:
        reason = f"older than {days(oldest)}: {named(old)}"
        return Check(name, State.WARN, reason, "rotate it: `rewrap rotate`")
    if untold := [_untold(key, age) for key, (age, is_whole) in ages.items() if not is_whole]:
        reason = f"no record shows its age: {named(untold)}"
        local = [key for key, (_, is_whole) in ages.items() if not is_whole and key.provider != ProviderType.KMS]
        known_by = "`rewrap rotate` records the age of the keys that it adds" if local else "look it up in the KMS"
        return Check(name, State.UNKNOWN, reason, known_by)
    if ages:
        told = (f"{key} ({days(age)})" for key, (age, _) in ages.items())
        return Check(name, State.PASS, f"no older than {days(oldest)}: {named(told)}")
    return Check(name, State.PASS, "nothing is written with a key")


def old_keys(facts: HardeningFacts) -> Check:
    """Check for keys that may be removed; another check (`identity-reads`) covers identity."""
    name = "old-keys"
    ours = [one for one in facts.keys if one.key.fingerprint != PLAINTEXT_FINGERPRINT]
    if free := [str(one.key) for one in ours if one.removable]:
        remedy = f"archive it, then remove it from the file on every node. {BACKUPS}"
        return Check(name, State.WARN, f"may be removed: {named(free)}", remedy)
    idle = [one for one in ours if not one.objects and not any(key.covers(one.key) for key in facts.writers)]
    if idle:
        waiting: dict[str, list[str]] = {}
        for one in idle:
            waiting.setdefault(one.blockers[0], []).append(str(one.key))
        held = named(f"{named(keys)}: {blocker}" for blocker, keys in waiting.items())
        return Check(name, State.PASS, f"no readable object is under these, which can't be removed yet: {held}")
    return Check(name, State.PASS, "every configured key is in use")


def _limited(facts: HardeningFacts) -> dict[str, KeyRef]:
    chains = (chain for _, chain in facts.generation.resources)
    return {key.fingerprint: key for chain in chains for key in chain if key.provider == LIMITED_PROVIDER}


def _state(facts: HardeningFacts, fingerprint: str) -> BudgetState | None:
    budget, limits = facts.budgets.get(fingerprint), facts.settings.budget
    return budget.state(limits.gcm_limit, limits.due_at) if budget else None


def _used(facts: HardeningFacts, fingerprint: str) -> str:
    budget, limit = facts.budgets[fingerprint], facts.settings.budget.gcm_limit
    of_it = "restored" if budget.restored else f"{budget.used} of {limit} writes"
    return f"{_limited(facts)[fingerprint]}: {of_it}"


def _age(facts: HardeningFacts, key: KeyRef) -> tuple[float, bool]:
    """Return the least age of a key in seconds, and whether a rotation's record makes it the exact one."""
    if key.provider == ProviderType.KMS:
        # The KMS may have made it long before a plugin named it.
        return facts.now - facts.keks.get((key.name, key.fingerprint), facts.now), False
    made = facts.made.get(key.fingerprint)
    # The file has held the key at least since it was last changed.
    seen = [facts.file.changed_at, *([facts.watched[key.fingerprint]] if key.fingerprint in facts.watched else [])]
    return facts.now - min([*seen, *([] if made is None else [made])]), made is not None


def _untold(key: KeyRef, age: float) -> str:
    return (
        f"{key} (only its KMS knows)"
        if key.provider == ProviderType.KMS and not age
        else f"{key} (at least {days(age)})"
    )
