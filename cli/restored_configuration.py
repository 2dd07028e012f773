"""`rewrap backups configuration`: writes the EncryptionConfiguration that reads a backup."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from kube_rewrap.cli.backup_reports import backup_json, print_proof
from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_settings
from kube_rewrap.cli.output import print_file, print_json, print_to_stderr, say, stdout_for_files
from kube_rewrap.cli.running import run_async
from kube_rewrap.config.encryption.generation import Generation, load_generation
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.scheduler.backups.configuration import doubtful_names
from kube_rewrap.scheduler.backups.reading import configuration_for
from kube_rewrap.scheduler.engine import BackupReport, describe

_MODE = 0o600
_DOUBT = (
    "values of another aescbc key begin as those of {!r}: kube-apiserver may read a few objects with the wrong one, as "
    "garbage. After the restore, list every resource, then rewrap everything"
)


def require_output(args: argparse.Namespace) -> None:
    """Raise SettingsError where the result has no place."""
    if args.output == "json" and args.write_to is None:
        raise _refused("is missing: JSON output is one document", "name the file to write")
    if args.write_to is not None and not args.overwrite and os.path.lexists(args.write_to):
        raise _refused("names a file that exists", "name another one, or give --overwrite")


def write_configuration(args: argparse.Namespace, found: BackupReport, generations: Sequence[Generation]) -> int:
    """Write the configuration that reads a proven backup. Exit 3 if the given keys do not read it whole."""
    if not found.is_readable:
        if args.output == "json":
            print_json({"written": None, "backup": backup_json(found)})
        else:
            print_proof(found)
            print_to_stderr("rewrap: nothing was written: the given keys do not read this backup whole")
        return Exit.INCOMPLETE
    settings = read_settings(args, os.environ)
    content = run_async(lambda: configuration_for(found, settings, generations))
    made = load_generation(content, args.write_to or "stdout")
    for name in doubtful_names(made.configuration):
        print_to_stderr(f"rewrap: warning: {_DOUBT.format(name)}")
    if args.write_to is None:
        with stdout_for_files() as stdout:
            print_file(content, f"the EncryptionConfiguration for {found.file}", stdout)
        return Exit.DONE
    _write(args.write_to, content, overwrite=args.overwrite)
    record = describe(made)
    if args.output == "json":
        rows = [{"resource": name, "keys": [key.to_json() for key in chain]} for name, chain in record.resources]
        print_json({"written": args.write_to, "hash": record.hash, "sha256": found.sha256, "resources": rows})
        return Exit.DONE
    say(f"wrote {args.write_to}: {found.newest.objects:,} objects at revision {found.revision} are readable with it")
    for name, chain in record.resources:
        say(f"  {name}: {', '.join(map(str, chain))}")
    return Exit.DONE


def _write(path: str, content: bytes, *, overwrite: bool) -> None:
    """Write a file that appears whole or not at all. Raises SettingsError."""
    target = Path(path)
    temporary = target.parent / f".{target.name}.rewrap-{os.getpid()}"
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, _MODE)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(descriptor)
            if overwrite:
                temporary.replace(target)
            else:
                # A link, unlike a rename, fails when the name is taken.
                target.hardlink_to(temporary)
        finally:
            with suppress(FileNotFoundError):
                temporary.unlink()
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        raise _refused(f"can't be written: {error.strerror}", "name another file") from None


def _refused(message: str, remedy: str) -> SettingsError:
    return SettingsError("command line", (Fault("--write-to", message, remedy),))
