"""`rewrap report`: one page of evidence, as HTML or JSON. Read only."""

from __future__ import annotations

import argparse
import json
import os

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_generation, read_settings
from kube_rewrap.cli.output import print_page, print_to_stderr
from kube_rewrap.cli.report_page import page_of
from kube_rewrap.cli.running import brake_on_signals, run_async
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.scheduler.hardening.facts import DAY, Ages
from kube_rewrap.scheduler.registry.cluster import open_cluster_to_look
from kube_rewrap.scheduler.report.document import is_proven, report_document
from kube_rewrap.scheduler.report.facts import Subject, SubjectKind
from kube_rewrap.scheduler.report.gathering import gather
from kube_rewrap.worker.records.request import HostileArgumentError, name_of


def run(args: argparse.Namespace) -> int:
    """Gather once, and write the page or the document. Exit 3 when its verdict is no proof."""
    if args.no_scan and args.now:
        raise _refused("--no-scan", "contradicts --now, which reports what a scan finds", "leave one of them out")
    return run_async(lambda: _report(args))


async def _report(args: argparse.Namespace) -> int:
    from importlib.metadata import version  # noqa: PLC0415 - beside the scan its time is nothing, at start it is

    settings, generation = read_settings(args, os.environ), read_generation(args, os.environ)
    ages = Ages(args.max_key_age * DAY, args.max_proof_age * DAY, args.max_backup_age * DAY)
    brake = brake_on_signals()
    async with open_cluster_to_look(settings, generation) as cluster:
        facts = await brake.unless_pulled(
            gather(
                cluster,
                settings,
                _subject(args),
                ages,
                version("kube-rewrap"),
                scans=not args.no_scan,
                names=args.names,
            )
        )
    document = report_document(facts)
    content = json.dumps(document, indent=2) + "\n" if args.output == "json" else page_of(document)
    if args.write_to is None:
        print_page(content)
    else:
        _write(args.write_to, content)
        print_to_stderr(f"Wrote {args.write_to}")
    return Exit.DONE if is_proven(document) else Exit.INCOMPLETE


def _subject(args: argparse.Namespace) -> Subject | None:
    """Return the subject that the flags name, None for none: the newest campaign."""
    if args.now:
        return Subject(SubjectKind.NOW)
    for kind, given in ((SubjectKind.CAMPAIGN, args.campaign), (SubjectKind.ROTATION, args.rotation)):
        if given is not None:
            try:
                return Subject(kind, name_of(given, "ID"))
            except HostileArgumentError as error:
                raise _refused(
                    f"--{kind.value}", str(error), "see `rewrap campaign list`, `rewrap rotate status`"
                ) from None
    return None


def _write(path: str, content: str) -> None:
    """Write the report so that only this user can read it. Raises SettingsError where that is not possible."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "w", encoding="ascii") as stream:
            os.fchmod(descriptor, 0o600)
            stream.write(content)
    except OSError as error:
        raise _refused("--write-to", f"{path} can't be written: {error.strerror}", "name another file") from None


def _refused(flag: str, message: str, remedy: str) -> SettingsError:
    return SettingsError("command line", (Fault(flag, message, remedy),))
