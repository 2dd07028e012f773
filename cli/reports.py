"""Results of scans, as JSON documents and as text. No decisions: `scheduler.keys.removal` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kube_rewrap.cli.output import print_items, print_sentence, print_table, say
from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.scheduler.keys.removal import BACKUPS, KEKS, KeyVerdict
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally, Unreadable, counts_json
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.verdict import KeyRef, Reason

SHOWN = 20
"""Objects that the text names; `-o json` names more."""


def status_json(found: Inventory) -> dict[str, object]:
    """Return the document of `status`."""
    return {
        "revision": found.revision,
        "objects": found.objects,
        "stale": found.stale - found.undetermined,
        "undetermined": found.undetermined,
        "unreadable": found.unreadable,
        "unreadable_by": counts_json(found.unreadable_by),
        "peeked": found.peeked,
        "resources": [_resource_json(tally) for tally in found.resources],
        "unknown_paths": list(found.unknown),
    }


def _resource_json(tally: ResourceTally) -> dict[str, object]:
    return {
        "resource": tally.resource,
        "objects": tally.objects,
        "stale": tally.stale - tally.undetermined,
        "undetermined": tally.undetermined,
        "unreadable": tally.unreadable,
        "keys": [
            {
                "provider": key.provider,
                "key": key.name,
                "fingerprint": key.fingerprint,
                "objects": under.objects,
                "primary": None if tally.is_undetermined(key) else key == tally.primary,
            }
            for key, under in sorted(tally.keys.items())
        ],
    }


def proof_json(proof: Inventory, keys: Sequence[KeyVerdict]) -> dict[str, object]:
    """Return the document of `verify`, which `run` holds as its `proof`."""
    return {
        "revision": proof.revision,
        "complete": proof.is_clean,
        "objects": proof.objects,
        "stale": proof.stale,
        "unreadable": [one.to_json() for tally in proof.resources for one in tally.listed],
        "unreadable_total": proof.unreadable,
        "unreadable_by": counts_json(proof.unreadable_by),
        "unknown_paths": list(proof.unknown),
        "keys": [key.to_json() for key in keys],
    }


def print_inventory(
    found: Inventory, opening: str = "`rewrap verify` opens them", *, lists: str = "verify -o json"
) -> None:
    """Print the number of objects by resource and key.

    `opening` says what opens values that were not opened; `lists`: the one that names more unreadable objects.
    """
    rows: list[Sequence[object]] = []
    for tally in found.resources:
        for key, under in sorted(tally.keys.items()):
            state = tally.state_of(key)
            rows.append((tally.resource, key.provider, key.name, key.fingerprint, under.objects, state))
        if tally.unreadable:
            rows.append((tally.resource, "?", "", "", tally.unreadable, "unreadable"))
        if not tally.objects:
            rows.append((tally.resource, tally.primary.provider, tally.primary.name, tally.primary.fingerprint, 0, ""))
    print_table(("RESOURCE", "PROVIDER", "KEY", "FINGERPRINT", "OBJECTS", "STATE"), rows)
    say()
    say(
        f"{found.objects:,} objects at revision {found.revision}: {found.stale - found.undetermined:,} stale, "
        f"{found.unreadable:,} unreadable"
    )
    if found.undetermined:
        say(
            f"{found.undetermined:,} under KMS are undetermined, that is stale or current: no plugin names the KEK "
            "that their provider writes under, and none is on record."
        )
    if found.peeked:
        say(f"{found.peeked:,} under KMS were not opened, and count by the key that they name: {opening}.")
    _print_unreadable(found, lists)
    _print_unknown(found.unknown)


def print_proof(proof: Inventory, keys: Sequence[KeyVerdict]) -> None:
    """Print the proof's verdict and the blockers of each key's removal."""
    verdict = "COMPLETE" if proof.is_clean else "NOT COMPLETE"
    print_sentence(
        f"{verdict}: {proof.objects:,} objects read at revision {proof.revision}, {proof.stale:,} stale, "
        f"{proof.unreadable:,} unreadable"
    )
    _print_unreadable(proof)
    _print_unknown(proof.unknown)
    say()
    print_table(
        ("PROVIDER", "KEY", "FINGERPRINT", "OBJECTS", "REMOVABLE"),
        [(one.key.provider, one.key.name, one.key.fingerprint, one.objects, _yes(one)) for one in keys],
    )
    say()
    print_blockers(keys)


def print_blockers(keys: Sequence[KeyVerdict]) -> None:
    """Print the blockers of each key's removal; where a key is removable, a reminder about backups."""
    blockers = list(dict.fromkeys(blocker for one in keys for blocker in one.blockers))
    if blockers:
        say("Not removable because:")
        having = {blocker: [_short(one.key) for one in keys if blocker in one.blockers] for blocker in blockers}
        print_items(f"{', '.join(names)}: {blocker}" for blocker, names in having.items())
    removable = [one for one in keys if one.removable]
    if removable:
        print_sentence(BACKUPS)
    if any(one.key.provider == ProviderType.KMS for one in removable):
        print_sentence(KEKS)


def _short(key: KeyRef) -> str:
    """Return a key's name; that of a KMS provider with its version or KEK, since it may have several rows."""
    return f"{key.name} ({key.fingerprint})" if key.provider == ProviderType.KMS else key.name or key.provider


def _yes(verdict: KeyVerdict) -> str:
    return "yes" if verdict.removable else "no"


def _print_unreadable(found: Inventory, lists: str = "verify -o json") -> None:
    listed = [one for tally in found.resources for one in tally.listed]
    if not listed:
        return
    say()
    print_left_alone(listed, found.unreadable, f"`{lists}` names up to 1,000 a resource")
    if found.unreadable > SHOWN:
        print_counts(found.unreadable_by)


def print_left_alone(
    listed: Sequence[Unreadable | QuarantinedObject], total: int, remedy: str, shown: int = SHOWN
) -> None:
    """Print up to `shown` quarantined objects, each with its reason, and the number of further ones."""
    for one in listed[:shown]:
        row = one.to_json()
        print_items([f"{row['key']}: {row['reason']}: {row['detail']}"])
    left = total - len(listed[:shown])
    if left > 0:
        say(f"  and {left:,} more ({remedy})")


def print_counts(counts: Mapping[tuple[str, Reason], int]) -> None:
    """Print the number of quarantined objects by resource and reason, including those listed above."""
    for (resource, reason), count in counts.items():
        say(f"  {count:,} of {resource} in all: {reason.value}")


def _print_unknown(unknown: Sequence[str]) -> None:
    if unknown:
        say()
        say(f"Not scanned, since no resource is known for the objects under: {', '.join(unknown)}")
        say("Name their resources with --path RESOURCE=PATH.")
