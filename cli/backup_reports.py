"""What backups hold, as JSON documents and as text. No decisions: `worker.backups` makes them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from kube_rewrap.cli.output import print_table, say
from kube_rewrap.cli.reports import print_inventory, status_json
from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.scheduler.engine import BackupReport
from kube_rewrap.worker.backups.missing import MissingKey
from kube_rewrap.worker.verdict import KeyRef

_OPENING = "`rewrap backups prove` opens them"


def backup_json(found: BackupReport) -> dict[str, object]:
    """Return the document of one file."""
    history = status_json(found.history)
    return {
        "file": found.file,
        "bytes": found.bytes,
        "modified": datetime.fromtimestamp(found.modified, UTC).isoformat(timespec="seconds"),
        "sha256": found.sha256,
        "hash_verified": found.has_hash,
        "compacted": found.compacted,
        "compaction_finished": not found.is_compacting,
        "keys": found.keys,
        "cluster_version": found.cluster_version,
        "members": [one.to_json() for one in found.members],
        "alarms": [one.to_json() for one in found.alarms],
        **status_json(found.newest),
        "readable": found.is_readable,
        "unreadable_objects": [one.to_json() for tally in found.newest.resources for one in tally.listed],
        "missing_keys": [one.to_json() for one in found.missing],
        "needed_keys": _keys_json(found.needed),
        "not_proven": _keys_json(found.unproven),
        "plugins_away": list(found.away),
        "history": {
            **{name: history[name] for name in ("objects", "stale", "unreadable", "unreadable_by", "resources")},
            "deletions": found.tombstones,
            "missing_keys": [one.to_json() for one in found.missing_in_history],
            "needed_keys": _keys_json(found.needed_by_history),
        },
    }


def _keys_json(keys: Mapping[KeyRef, int]) -> list[dict[str, object]]:
    return [
        {"provider": key.provider, "key": key.name, "fingerprint": key.fingerprint, "objects": objects}
        for key, objects in keys.items()
    ]


def print_inspection(found: BackupReport) -> None:
    """Print what a backup is, and its objects by resource and key."""
    _print_file(found)
    say()
    print_inventory(found.newest, _OPENING, lists="backups inspect -o json")
    _print_missing(found.missing)
    if found.history.objects:
        say()
        say("Older revisions that are still in the file:")
        print_inventory(found.history, "nothing asks a plugin for older revisions", lists="backups inspect -o json")
        _print_missing(found.missing_in_history)


def print_proof(found: BackupReport) -> None:
    """Print whether a backup is readable whole, and what it needs that is not given."""
    _print_file(found)
    say()
    newest = found.newest
    verdict = "READABLE" if found.is_readable else "NOT READABLE"
    say(
        f"{verdict}: {newest.objects:,} objects at revision {newest.revision}, {newest.unreadable:,} unreadable, "
        f"{newest.peeked:,} not proven"
    )
    if not found.keys:
        say("No key of the backup is below the etcd prefix: give that of its kube-apiservers with --etcd-prefix.")
    say()
    print_inventory(newest, "no plugin answered", lists="backups prove -o json")
    _print_missing(found.missing)
    for because in found.away:
        say(f"Not proven: {because}")
    if found.history.objects:
        say()
        say(
            f"{found.history.objects:,} older revisions are still in the file: `rewrap backups inspect` shows the keys "
            "that they need. No kube-apiserver reads them."
        )


def _print_file(found: BackupReport) -> None:
    say(f"{found.file}: sha256 {found.sha256}")
    if found.has_hash:
        say("  The SHA-256 that `etcdctl snapshot save` appended is right.")
    else:
        say("  No SHA-256 is appended: a copy of a database. Its pages fit together; only a snapshot proves more.")
    compacted = f"{found.compacted} (begun, not finished)" if found.is_compacting else str(found.compacted)
    say(f"  Revision {found.revision}, compacted up to {compacted}; etcd {found.cluster_version or 'unknown'}")
    say(f"  Members: {', '.join(one.name or one.id for one in found.members) or 'none on record'}")
    for alarm in found.alarms:
        say(f"  Alarm {alarm.alarm} of member {alarm.member}")


def _print_missing(missing: Sequence[MissingKey]) -> None:
    if not missing:
        return
    say()
    say("Keys that are needed and not given:")
    print_table(("PROVIDER", "KEY", "FINGERPRINT", "OBJECTS", "SUCH AS"), [_row(one) for one in missing])


def _row(missing: MissingKey) -> Sequence[object]:
    row = missing.to_json()
    key = missing.key
    name = key.name or ("plaintext" if key.provider == ProviderType.IDENTITY else "?")
    first = missing.examples[0].decode("utf-8", "surrogateescape") if missing.examples else ""
    return (key.provider or "?", name, row["fingerprint"] or "?", missing.objects, first)
