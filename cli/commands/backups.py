"""`rewrap backups`: reads backups of etcd offline. `inspect` counts by key; `prove` opens every governed object."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from functools import partial

from kube_rewrap.cli.backup_reports import backup_json, print_inspection, print_proof
from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_configuration_path, read_settings
from kube_rewrap.cli.output import print_json, print_to_stderr, say
from kube_rewrap.cli.progress import open_byte_progress
from kube_rewrap.cli.running import run_async
from kube_rewrap.cli.side_by_side import Progress, do_side_by_side
from kube_rewrap.config.settings.flags import variable
from kube_rewrap.scheduler.backups.keys import read_generations
from kube_rewrap.scheduler.backups.reading import bytes_to_read, inspect_backup, prove_backup
from kube_rewrap.scheduler.engine import BackupReport
from kube_rewrap.worker.errors import BackupError

_PRESENT = variable("--encryption-config")


def run(args: argparse.Namespace) -> int:
    """Read every file and print what each holds. Exit 3 where one was refused, or a proof failed."""
    read_settings(args, os.environ)
    read_generations(_keys_of(args), allow_readable=args.allow_readable_config)
    with open_byte_progress(sum(map(bytes_to_read, args.files)), sys.stderr) as progress:
        read, processes = partial(_read, args), min(args.processes, len(args.files))
        if processes > 1:
            found = do_side_by_side(read, len(args.files), processes, progress)
        else:
            found = [read(number, progress) for number in range(len(args.files))]
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
    if args.verb == "prove" and args.keys and args.encryption_config is None and not os.environ.get(_PRESENT):
        return [*args.keys]
    return [read_configuration_path(args, os.environ), *(args.keys if args.verb == "prove" else ())]


def _read(args: argparse.Namespace, number: int, progress: Progress) -> BackupReport | str:
    """Return what a file holds, or why it was refused."""
    try:
        return run_async(lambda: _look(args, args.files[number], progress))
    except BackupError as error:
        return str(error)


async def _look(args: argparse.Namespace, file: str, progress: Progress) -> BackupReport:
    settings = read_settings(args, os.environ)
    generations = read_generations(_keys_of(args), allow_readable=args.allow_readable_config)
    if args.verb == "inspect":
        return await inspect_backup(file, settings, generations[0], progress)
    return await prove_backup(file, settings, generations, progress)
