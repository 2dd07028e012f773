"""The hardening checklist of encryption at rest: facts in, one line for each point out. Pure.

1. A line has one state: fail (data is open, lost, or about to be), warn (weak, old or superfluous), unknown (the facts
   do not show it), pass. Where a check finds more than one, it reports the first of fail, warn, unknown, pass.
2. A check passes only on known facts.
3. Ids, states and the order are stable; words may change.

Not handled: backups that no catalogue has, disks, peers' certificates, endpoints that were not given, kube-apiserver's
own flags; docs/hardening.md lists these for a person to check.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from kube_rewrap.scheduler.hardening import backups, choices, keys, objects, surroundings
from kube_rewrap.scheduler.hardening.facts import Check, HardeningFacts, State

CHECKS: tuple[Callable[[HardeningFacts], Check], ...] = (
    choices.primary_encrypts,
    choices.secrets_covered,
    choices.configmaps_covered,
    objects.plaintext,
    objects.readable,
    objects.current,
    objects.proof_age,
    choices.aescbc,
    choices.aesgcm_rotation,
    choices.kms_v1,
    choices.kms_endpoint,
    surroundings.kms_socket,
    choices.kms_unused,
    objects.identity_reads,
    keys.write_budget,
    keys.key_age,
    choices.key_material,
    choices.key_names,
    keys.old_keys,
    surroundings.file_mode,
    surroundings.file_owner,
    surroundings.directory_mode,
    surroundings.etcd_tls,
    surroundings.etcd_access,
    surroundings.converged,
    surroundings.space,
    backups.backup_age,
)


def judge(facts: HardeningFacts) -> tuple[Check, ...]:
    """Run every check, in the order of `CHECKS`; that of backups only if a catalogue is given."""
    return tuple(check(facts) for check in CHECKS if facts.catalogue is not None or check is not backups.backup_age)


def summarise(checks: Iterable[Check]) -> dict[str, int]:
    """Count the checks by state; every state is a key."""
    counts = Counter(check.state for check in checks)
    return {state.value: counts[state] for state in State}
