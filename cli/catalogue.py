"""What `rewrap backups` does with the catalogue: `add`, `forget`, `list`, `keys`."""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from kube_rewrap.cli.destruction_reports import destruction_json, print_destruction
from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_settings
from kube_rewrap.cli.output import print_json, print_table, print_to_stderr, say
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.scheduler.backups.catalogue import Backup, forget_line, line_of
from kube_rewrap.scheduler.backups.catalogue_file import append_lines, read_catalogue
from kube_rewrap.scheduler.backups.cataloguing import backup_of
from kube_rewrap.scheduler.engine import BackupReport
from kube_rewrap.scheduler.keys.destruction import judge_destruction
from kube_rewrap.scheduler.keys.destruction_facts import candidates
from kube_rewrap.worker.etcd.ranges import key_text

_STILL_THERE = "a file of this backup is still there: its keys may be called destroyable now, and it can't be read then"
_DAYS = re.compile(r"(\d{1,5})d")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")


def catalogue_path(args: argparse.Namespace) -> str:
    """Return the path of the catalogue. Raises SettingsError without one."""
    path = read_settings(args, os.environ).backups.catalogue
    if path is None:
        raise _refused("--catalogue", "is missing", "name the catalogue of the backups; `add` makes it")
    return path


def expiry(text: str | None, now: float) -> float | None:
    """Return when a backup expires, in seconds since 1970: after `30d`, or at a time; a date ends with its day, UTC.

    Raises SettingsError.
    """
    if text is None:
        return None
    try:
        if days := _DAYS.fullmatch(text):
            return _future(now + timedelta(days=int(days[1])).total_seconds(), now)
        moment = datetime.fromisoformat(text)
        if _DATE.fullmatch(text):
            moment = moment.replace(tzinfo=UTC) + timedelta(days=1)
        if moment.tzinfo is not None and moment.year < _LAST_YEAR:
            return _future(moment.timestamp(), now)
    except (ValueError, OverflowError):
        pass
    raise _refused("--expires", "is no time", "write 30d, 2027-01-31 or 2027-01-31T04:00:00Z")


_LAST_YEAR = 9_999


def _future(expires: float, now: float) -> float:
    """Return a time, which for a slip of the pen would let a backup count as gone. Raises SettingsError."""
    if expires <= now:
        raise _refused("--expires", "is not in the future", "`rewrap backups forget` notes that a backup is deleted")
    return expires


def require_addable(args: argparse.Namespace) -> None:
    """Raise SettingsError or SourceError where `add` could not add a backup, before it proves one."""
    expiry(args.expires, time.time())
    append_lines(catalogue_path(args), ())


def add(args: argparse.Namespace, found: Sequence[BackupReport | str]) -> int:
    """Add proven backups. Exit 3 where a file was refused, which adds no line, or a backup is not readable whole."""
    now = time.time()
    path, expires, prefix = catalogue_path(args), expiry(args.expires, now), _prefix(args)
    backups = [
        backup_of(one, str(Path(one.file).absolute()), now, where=args.where, expires=expires, prefix=prefix)
        for one in found
        if isinstance(one, BackupReport)
    ]
    append_lines(path, [line_of(one) for one in backups])
    errors = [{"file": file, "error": one} for file, one in zip(args.files, found, strict=True) if isinstance(one, str)]
    if args.output == "json":
        print_json({"added": [one.to_json() for one in backups], "refused": errors})
    else:
        for one in backups:
            verdict = "readable" if one.readable else "NOT READABLE WHOLE"
            say(f"added {one.digest}: {verdict}, {one.objects:,} objects at revision {one.revision}, {one.file}")
        for error in errors:
            print_to_stderr(f"rewrap: {error['error']}")
    return Exit.INCOMPLETE if errors or not all(one.readable for one in backups) else Exit.DONE


def _prefix(args: argparse.Namespace) -> str:
    keyspace = read_settings(args, os.environ).keyspace
    return key_text(Layout.from_texts(keyspace.etcd_prefix, keyspace.paths).root)


def forget(args: argparse.Namespace) -> int:
    """Forget a backup, or a damaged line. Exit 2 when no line of the catalogue, or more than one, has the digest."""
    path = catalogue_path(args)
    found = read_catalogue(path)
    try:
        digest = found.digest_of(args.digest)
    except ValueError as error:
        raise _refused("DIGEST", str(error), "`rewrap backups list` shows them; give at least 8 digits") from None
    append_lines(path, [forget_line(digest, time.time())])
    if digest in found.present:
        print_to_stderr(f"rewrap: warning: {_STILL_THERE}")
    if args.output == "json":
        print_json({"forgotten": digest})
    else:
        say(f"forgot {digest}")
    return Exit.DONE


def list_(args: argparse.Namespace) -> int:
    """Show the backups in the catalogue, and its damaged lines."""
    found, now = read_catalogue(catalogue_path(args)), time.time()
    kept = {one.digest for one in found.kept(now)}
    if args.output == "json":
        backups = [
            {**one.to_json(), "expired": one.is_expired(now), "present": one.digest in found.present}
            for one in found.backups
        ]
        damaged = [one.to_json() for one in found.damaged]
        print_json({"backups": backups, "damaged": damaged, "forgotten": found.forgotten})
        return Exit.DONE
    heads = ("DIGEST", "MADE", "REVISION", "OBJECTS", "READABLE", "KEYS", "EXPIRES", "WHERE")
    print_table(heads, [_row(one, is_kept=one.digest in kept, now=now) for one in found.backups])
    for line in found.damaged:
        say(f"damaged line {line.number} ({line.digest[:12]}): {line.because}")
    if found.damaged:
        say("It may have named a backup: add that again, then `rewrap backups forget` the damaged line's digest.")
    if found.distrust:
        say(f"Another user could have written the catalogue: {found.distrust}")
    return Exit.DONE


def _row(one: Backup, *, is_kept: bool, now: float) -> Sequence[object]:
    expires = one.expires[:16] if one.expires else "never"
    if one.is_expired(now):
        expires += " (and is still there)" if is_kept else " (expired)"
    readable = "yes" if one.readable else "no"
    count = len({*one.keys, *one.history_keys})
    where = one.where or one.file
    return (one.digest[:12], one.made[:16], one.revision, one.objects, readable, count, expires, where)


def keys(args: argparse.Namespace, present: Generation | None, archived: Sequence[Generation]) -> int:
    """Show which backups need each key. No key is destroyable, as the cluster is not scanned."""
    catalogue = read_catalogue(catalogue_path(args))
    judged = judge_destruction(candidates(present, archived, None, catalogue), catalogue, time.time())
    if args.output == "json":
        print_json({"keys": destruction_json(judged)})
    else:
        print_destruction(judged)
    return Exit.DONE


def _refused(place: str, message: str, remedy: str) -> SettingsError:
    return SettingsError("command line", (Fault(place, message, remedy),))
