"""Inventories of small registries, for tests of campaigns and of removal."""

from __future__ import annotations

from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.verdict import PLAINTEXT_FINGERPRINT, KeyRef, Quarantine, Reason

NEW = KeyRef("aesgcm", "new", "1" * 16)
OLD = KeyRef("aescbc", "old", "2" * 16)
RENAMED = KeyRef("aescbc", "renamed", "2" * 16)
PLAIN = KeyRef("identity", "", PLAINTEXT_FINGERPRINT)


def tally(
    under: dict[KeyRef, int],
    unreadable: dict[KeyRef, int] | None = None,
    *,
    resource: str = "secrets",
    primary: KeyRef = NEW,
    configured: tuple[KeyRef, ...] = (NEW, OLD, PLAIN),
) -> ResourceTally:
    found = ResourceTally(resource, primary, configured)
    for key, count in under.items():
        for number in range(count):
            found.add_readable(key, 100, number + 1)
    for key, count in (unreadable or {}).items():
        for number in range(count):
            found.add_unreadable(b"/%d" % number, Quarantine(Reason.AUTHENTICATION_FAILED, "no", (key,)))
    return found


def proof(*tallies: ResourceTally, unknown: tuple[str, ...] = ()) -> Inventory:
    return Inventory(77, tallies, unknown)


CLEAN = proof(tally({NEW: 5}))
ONE_STALE = proof(tally({NEW: 4, OLD: 1}))
ONE_UNREADABLE = proof(tally({NEW: 4}, {OLD: 1}))
