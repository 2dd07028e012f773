"""The check of backups, by the catalogue: whether the newest one is recent and was proven readable. Pure."""

from __future__ import annotations

from kube_rewrap.scheduler.backups.catalogue import Backup, newest
from kube_rewrap.scheduler.hardening.facts import Check, HardeningFacts, State, days

_NAME = "backup-age"
_SKEW = 3_600.0
"""Seconds by which the clock of the machine that made a backup may be ahead."""


def backup_age(facts: HardeningFacts) -> Check:
    """Check that the newest backup is readable whole and recent, and that every line of the catalogue can be read."""
    catalogue = facts.catalogue
    if catalogue is None:
        return Check(_NAME, State.UNKNOWN, "no catalogue of backups is given", "keep one: `rewrap backups add`")
    if catalogue.distrust:
        reason = f"another user could have written the catalogue: {catalogue.distrust}"
        return Check(_NAME, State.FAIL, reason, "correct owner and mode of the file and its directories")
    kept = catalogue.kept(facts.now)
    latest, proven = newest(kept), newest(one for one in kept if one.readable)
    if latest is not None and not latest.readable:
        reason = (
            f"the newest backup, {latest.digest[:12]} of {latest.made[:16]}, is not readable whole: "
            f"{latest.unreadable} objects are unreadable, {latest.not_proven} were not proven"
        )
        return Check(
            _NAME, State.FAIL, reason, "`rewrap backups prove --keys` with the archive names the keys it needs"
        )
    if proven is None:
        return Check(_NAME, State.WARN, "the catalogue has no backup", "make one, and add it: `rewrap backups add`")
    return _age(proven, len(catalogue.damaged), facts)


def _age(proven: Backup, damaged: int, facts: HardeningFacts) -> Check:
    age = facts.now - proven.made_at
    if age < -_SKEW:
        reason = f"the newest backup, {proven.digest[:12]}, says that it was made at {proven.made[:16]}, in the future"
        return Check(_NAME, State.WARN, reason, "correct the clock, or the time of the file, and add it again")
    said = f"the newest backup was made {days(max(0.0, age))} ago and proven readable"
    if age > facts.ages.backup:
        remedy = "see why the job that makes backups, and adds them with `rewrap backups add`, does not"
        return Check(_NAME, State.WARN, f"{said}, which is more than {days(facts.ages.backup)}", remedy)
    if damaged:
        reason = f"{said}, but lines of the catalogue are damaged: {damaged}"
        return Check(_NAME, State.WARN, reason, "`rewrap backups list` shows them; `rewrap backups forget` ends one")
    return Check(_NAME, State.PASS, said)
