"""Makes the line of the catalogue that adds a proven backup."""

from __future__ import annotations

from collections.abc import Iterable

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.scheduler.backups.catalogue import Backup, moment
from kube_rewrap.scheduler.engine import BackupReport
from kube_rewrap.worker.verdict import KeyRef, Reason


def backup_of(
    report: BackupReport, path: str, now: float, *, where: str = "", expires: float | None = None, prefix: str = ""
) -> Backup:
    """Return the line of a proven backup; `path` is absolute, `prefix` the etcd prefix below which it was proven."""
    missing = [one.key for one in (*report.missing, *report.missing_in_history)]
    if report.history.unknown:
        # Which configuration opens what was there, is not known. Newest objects there make the backup not readable.
        missing.append(KeyRef("", "unknown paths", ""))
    needed = {*report.needed, *(one.key for one in report.missing if one.key.fingerprint)}
    history = {*report.needed_by_history, *(one.key for one in report.missing_in_history if one.key.fingerprint)}
    history |= {key for tally in report.history.resources if _OPENED in tally.reasons for key in tally.claimed}
    return Backup(
        digest=report.sha256,
        made=moment(report.modified),
        added=moment(now),
        file=path,
        where=where,
        bytes=report.bytes,
        revision=report.revision,
        readable=report.is_readable,
        objects=report.newest.objects,
        unreadable=report.newest.unreadable,
        not_proven=report.newest.peeked,
        keys=_keys(needed),
        history_keys=_keys(history - needed),
        unknown_keys=_keys(one for one in missing if not one.fingerprint),
        prefix=prefix,
        outside=report.outside,
        expires=None if expires is None else moment(expires),
    )


_OPENED = Reason.NOT_KUBERNETES
"""A given key opened the value, which holds something else."""


def _keys(keys: Iterable[KeyRef]) -> tuple[KeyRef, ...]:
    """Return keys sorted, each once, without `identity`, which is no key."""
    return tuple(sorted({one.kek for one in keys if one.provider != ProviderType.IDENTITY}))
