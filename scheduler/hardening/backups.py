"""The check of backups, by the catalogue: whether the newest one is recent and was proven readable. Pure."""

from __future__ import annotations

from kube_rewrap.scheduler.backups.catalogue import newest
from kube_rewrap.scheduler.hardening.facts import Check, HardeningFacts, State, days

_SKEW = 3_600.0
"""Seconds by which the clock of the machine that made a backup may be ahead."""


def backup_age(facts: HardeningFacts) -> Check:
    """Check that the newest backup is readable whole and recent, and that every line of the catalogue can be read."""
    name, catalogue = "backup-age", facts.catalogue
    if catalogue is None:
        return Check(name, State.UNKNOWN, "no catalogue of backups is given", "keep one: `rewrap backups add`")
    kept = [one for one in catalogue.kept(facts.now) if one.made_at <= facts.now + _SKEW]
    latest, proven = newest(kept), newest(one for one in kept if one.readable)
    if latest is not None and not latest.readable:
        reason = (
            f"the newest backup, {latest.digest[:12]} of {latest.made[:16]}, is not readable whole: "
            f"{latest.unreadable} objects are unreadable, {latest.not_proven} were not proven"
        )
        return Check(name, State.FAIL, reason, "`rewrap backups prove --keys` with the archive names the keys it needs")
    if proven is None:
        return Check(name, State.WARN, "the catalogue has no backup", "make one, and add it: `rewrap backups add`")
    age = facts.now - proven.made_at
    said = f"the newest backup was made {days(age)} ago and proven readable"
    if age > facts.ages.backup:
        remedy = "see why the job that makes backups, and adds them with `rewrap backups add`, does not"
        return Check(name, State.WARN, f"{said}, which is more than {days(facts.ages.backup)}", remedy)
    if catalogue.damaged:
        reason = f"{said}, but lines of the catalogue are damaged: {len(catalogue.damaged)}"
        return Check(name, State.WARN, reason, "`rewrap backups list` shows them; `rewrap backups forget` ends one")
    return Check(name, State.PASS, said)
