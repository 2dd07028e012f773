"""What the catalogue of backups says, for a report: what is kept, and which keys it needs until when. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from math import isinf

from kube_rewrap.scheduler.backups.catalogue import Backup, Catalogue, newest
from kube_rewrap.worker.verdict import KeyRef


def needed(kept: Iterable[Backup]) -> dict[KeyRef, list[Backup]]:
    """Return the keys without which some backup can't be read, each with the backups that need it.

    Keys of older revisions in a file, which a restore does not read, are left out. The unknown keys of a backup that is
    readable whole are such.
    """
    found: defaultdict[KeyRef, list[Backup]] = defaultdict(list)
    for backup in kept:
        for key in dict.fromkeys((*backup.keys, *(() if backup.readable else backup.unknown_keys))):
            found[key].append(backup)
    return dict(sorted(found.items()))


def last_end(backups: Sequence[Backup]) -> str | None:
    """Return when the last of some backups expires (ISO 8601, UTC), None = never."""
    latest = max(one.expires_at for one in backups)
    return None if isinf(latest) else datetime.fromtimestamp(latest, UTC).isoformat(timespec="seconds")


def catalogue_json(catalogue: Catalogue, kept: Sequence[Backup]) -> dict[str, object]:
    """Return the counts of a catalogue, and its newest backup; no path and no place of a file."""
    latest = newest(kept)
    return {
        "total": len(kept),
        "readable": sum(one.readable for one in kept),
        "damaged_lines": len(catalogue.damaged),
        "newest": None if latest is None else _backup_json(latest),
    }


def _backup_json(one: Backup) -> dict[str, object]:
    return {
        "sha256": one.digest,
        "made_at": one.made,
        "added_at": one.added,
        "revision": one.revision,
        "objects": one.objects,
        "readable": one.readable,
        "expires_at": one.expires,
    }
