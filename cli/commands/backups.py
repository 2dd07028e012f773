"""`rewrap backups`: reads backups of etcd offline. `inspect` counts by key; `prove` opens every governed object.

`add` proves backups for the catalogue, which `forget`, `list` and `keys` work on; `configuration` writes the
EncryptionConfiguration that reads a backup.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

from kube_rewrap.cli import catalogue
from kube_rewrap.cli.backup_reports import backup_json, print_inspection, print_proof
from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_configuration_path, read_settings
from kube_rewrap.cli.output import print_json, print_to_stderr, say
from kube_rewrap.cli.progress import open_byte_progress
from kube_rewrap.cli.restored_configuration import require_output, write_configuration
from kube_rewrap.cli.running import run_async
from kube_rewrap.cli.side_by_side import Progress, do_side_by_side
from kube_rewrap.config.errors import SourceError
from kube_rewrap.config.settings.flags import variable
from kube_rewrap.scheduler.backups.keys import read_copies, read_generations
from kube_rewrap.scheduler.backups.reading import bytes_to_read, inspect_backup, prove_backup
from kube_rewrap.scheduler.engine import BackupReport
from kube_rewrap.worker.errors import BackupError

_PRESENT = variable("--encryption-config")


def run(args: argparse.Namespace) -> int:
    """Do what the verb says. Exit 3 where a file was refused, or a proof failed."""
    match args.verb:
        case "forget":
            return catalogue.forget(args)
        case "list":
            return catalogue.list_(args)
        case "keys":
            return _keys(args)
        case "add":
            catalogue.require_addable(args)
            return catalogue.add(args, _read_all(args))
        case "configuration":
            return _configuration(args)
    return _show(args, _read_all(args))


def _keys(args: argparse.Namespace) -> int:
    paths = _keys_of(args)
    has_present = args.encryption_config is not None or bool(os.environ.get(_PRESENT))
    present = read_generations(paths[:has_present], allow_readable=args.allow_readable_config)
    archived = read_copies(paths[has_present:], allow_readable=args.allow_readable_config)
    return catalogue.keys(args, present[0] if present else None, archived)


def _configuration(args: argparse.Namespace) -> int:
    require_output(args)
    [found] = _read_all(args)
    if isinstance(found, str):
        raise BackupError(found)
    generations = read_generations(_keys_of(args), allow_readable=args.allow_readable_config)
    return write_configuration(args, found, generations)


def _read_all(args: argparse.Namespace) -> list[BackupReport | str]:
    """Return what each file holds, or why it was refused."""
    read_settings(args, os.environ)
    read_generations(_keys_of(args), allow_readable=args.allow_readable_config)
    with open_byte_progress(sum(map(bytes_to_read, args.files)), sys.stderr) as progress:
        read, processes = partial(_read, args), min(args.processes, len(args.files))
        if processes > 1:
            return do_side_by_side(read, len(args.files), processes, progress)
        return [read(number, progress) for number in range(len(args.files))]


def _show(args: argparse.Namespace, found: Sequence[BackupReport | str]) -> int:
    is_good = [isinstance(one, BackupReport) and (args.verb == "inspect" or one.is_readable) for one in found]
    if args.output == "json":
        documents = [
            backup_json(one) if isinstance(one, BackupReport) else {"file": file, "readable": False, "error": one}
            for file, one in zip(args.files, found, strict=True)
        ]
        print_json({"backups": documents})
    else:
        _print(args.verb, found)
    return Exit.DONE if all(is_good) else Exit.INCOMPLETE


def _print(verb: str, found: Sequence[BackupReport | str]) -> None:
    for number, one in enumerate(found):
        if number:
            say()
        if isinstance(one, str):
            print_to_stderr(f"rewrap: {one}")
        elif verb == "inspect":
            print_inspection(one)
        else:
            print_proof(one)


def _keys_of(args: argparse.Namespace) -> Sequence[str]:
    """Return the paths of the configurations, the present one first. Raises SettingsError without any."""
    if args.verb != "inspect" and args.keys and args.encryption_config is None and not os.environ.get(_PRESENT):
        return [*args.keys]
    return [read_configuration_path(args, os.environ), *(args.keys if args.verb != "inspect" else ())]


def _read(args: argparse.Namespace, number: int, progress: Progress) -> BackupReport | str:
    """Return what a file holds, or why it was refused."""
    file = args.files[number]
    try:
        return run_async(lambda: _look(args, file, progress))
    except BackupError as error:
        return str(error)
    except SourceError as error:
        # Each file was there when the command began, and so were those of the keys.
        if error.file != file:
            raise
        return str(error)


async def _look(args: argparse.Namespace, file: str, progress: Progress) -> BackupReport:
    settings = read_settings(args, os.environ)
    generations = read_generations(_keys_of(args), allow_readable=args.allow_readable_config)
    if args.verb == "inspect":
        return await inspect_backup(file, settings, generations[0], progress)
    return await prove_backup(file, settings, generations, progress)
