"""Checks of the stored objects: plaintext, older keys, unreadable values, and the last proof's age. Pure."""

from __future__ import annotations

from kube_rewrap.scheduler.hardening.facts import PLUGIN_REMEDY, Check, HardeningFacts, State, days, named
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.records.inventory import ResourceTally
from kube_rewrap.worker.verdict import KMS_FINGERPRINT, PLAINTEXT_FINGERPRINT, KeyRef, Reason

_PLAINTEXT = (Reason.IDENTITY_MISSING, Reason.LATE_PLAINTEXT)
_REWRAP = "`rewrap run`"


def plaintext(facts: HardeningFacts) -> Check:
    """Check that nothing governed is stored in plaintext, whether or not identity may read it."""
    name = "plaintext"
    found = {tally.resource: _plain(tally) for tally in facts.proof.resources}
    if counts := [f"{resource} {count}" for resource, count in found.items() if count]:
        reason = f"{sum(found.values())} objects are stored in plaintext: {named(counts)}"
        remedy = "with a key before identity in their entries: `rewrap run`; old copies stay in backups and free pages"
        return Check(name, State.FAIL, reason, remedy)
    return _seen(facts, Check(name, State.PASS, f"none of {facts.proof.objects} objects is in plaintext"))


def identity_reads(facts: HardeningFacts) -> Check:
    """Check for superfluous identity: while it may read, anyone who can write to etcd can put in plaintext objects."""
    name = "identity-reads"
    allowed = [tally for tally in facts.proof.resources if any(map(_is_plain, tally.configured[1:]))]
    readers = [tally for tally in allowed if not _is_plain(tally.primary)]
    if idle := [tally.resource for tally in readers if not _plain(tally)]:
        reason = f"{named(idle)}: nothing is in plaintext, and identity may still read"
        remedy = "remove identity from these entries when `rewrap verify` calls it removable"
        return Check(name, State.WARN, reason, remedy)
    if readers:
        return Check(name, State.PASS, f"{named(one.resource for one in readers)}: identity still has to read")
    return Check(name, State.PASS, "identity reads nothing that it does not write")


def current(facts: HardeningFacts) -> Check:
    """Check that every encrypted object is under its primary key. Another check covers plaintext."""
    name = "current"
    stale = {tally.resource: _old(tally) for tally in facts.proof.resources}
    if counts := [f"{resource} {count}" for resource, count in stale.items() if count]:
        return Check(name, State.WARN, f"{sum(stale.values())} objects are under older keys: {named(counts)}", _REWRAP)
    return _opened(facts, Check(name, State.PASS, "nothing is under an older key"))


def readable(facts: HardeningFacts) -> Check:
    """Check that every object can be read, and that the last campaign left none unwritten."""
    name = "readable"
    lost = facts.proof.unreadable
    if lost or facts.stuck:
        listed = (one for tally in facts.proof.resources for one in tally.listed)
        examples = [f"{key_text(one.key)} ({one.reason.value})" for one in listed]
        examples += facts.quarantined
        which = f": {named(examples)}" if examples else ""
        reason = f"{lost} objects can't be read, {facts.stuck} more are in quarantine{which}"
        remedy = "docs/campaign-incomplete.md has a remedy for each reason; then `rewrap run`"
        return Check(name, State.FAIL, reason, remedy)
    return _opened(facts, Check(name, State.PASS, f"{facts.proof.objects} objects can be read"))


def proof_age(facts: HardeningFacts) -> Check:
    """Check that a campaign over everything was proven complete under this very configuration, recently."""
    name, oldest = "proof-age", facts.ages.proof
    if not facts.proof_revision:
        recorded = "no complete campaign over everything is on record under this configuration"
        if facts.missing:
            state = State.FAIL if facts.proof.unreadable or any(map(_old, facts.proof.resources)) else State.WARN
            return Check(name, state, f"{recorded}; this scan did not open what is under KMS", _REWRAP)
        state = State.WARN if facts.proof.is_clean else State.FAIL
        found = "this scan found" if facts.proof.is_clean else "this scan did not find"
        reason = f"{recorded}; {found} everything under its primary key"
        return Check(name, state, reason, _REWRAP)
    if facts.proven_at is None:
        reason = f"the campaign proven at revision {facts.proof_revision} does not say when it ended"
        return Check(name, State.UNKNOWN, reason, f"{_REWRAP} makes a new proof")
    age = facts.now - facts.proven_at
    said = f"everything was proven {days(age)} ago, at revision {facts.proof_revision}"
    if age > oldest:
        return Check(name, State.WARN, f"{said}, which is more than {days(oldest)}", f"{_REWRAP}, or a scheduler")
    return Check(name, State.PASS, said)


def _opened(facts: HardeningFacts, otherwise: Check) -> Check:
    """Return a passed check, or unknown if this scan did not open what is under KMS, or left out paths."""
    if facts.missing:
        return Check(otherwise.id, State.UNKNOWN, facts.missing, PLUGIN_REMEDY)
    return _seen(facts, otherwise)


def _seen(facts: HardeningFacts, otherwise: Check) -> Check:
    """Return a passed check, or unknown if this scan left out paths."""
    unknown = facts.proof.unknown
    if not unknown:
        return otherwise
    reason = f"{otherwise.reason}, but paths of unknown resources were not scanned: {named(unknown)}"
    return Check(otherwise.id, State.UNKNOWN, reason, "name them with --path RESOURCE=PATH")


def _plain(tally: ResourceTally) -> int:
    """Count plaintext objects, whether or not identity may read them."""
    readable_ones = sum(under.objects for key, under in tally.keys.items() if _is_plain(key))
    return readable_ones + sum(tally.reasons.get(reason, 0) for reason in _PLAINTEXT)


def _old(tally: ResourceTally) -> int:
    return sum(under.objects for key, under in tally.keys.items() if _is_older(key, tally.primary))


def _is_older(key: KeyRef, primary: KeyRef) -> bool:
    """Whether objects under a key are under an older one; of a KMS primary without a known KEK, none is."""
    if primary.fingerprint == KMS_FINGERPRINT and primary.covers(key):
        return False
    return key != primary and not _is_plain(key)


def _is_plain(key: KeyRef) -> bool:
    return key.fingerprint == PLAINTEXT_FINGERPRINT
