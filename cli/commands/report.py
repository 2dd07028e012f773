"""`rewrap report`: one page of evidence, as HTML or JSON. Read only."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import mkstemp

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
    subject, made = _subject(args), version("kube-rewrap")
    brake = brake_on_signals()
    with ExitStack() as stack:
        # Before the scan, which may take long.
        begun = None if args.write_to is None else stack.enter_context(_begun(args.write_to, overwrite=args.overwrite))
        async with open_cluster_to_look(settings, generation) as cluster:
            gathering = gather(cluster, settings, subject, ages, made, scans=not args.no_scan, names=args.names)
            facts = await brake.unless_pulled(gathering)
        document = report_document(facts)
        content = json.dumps(document, indent=2) + "\n" if args.output == "json" else page_of(document)
        if begun is None:
            print_page(content)
        else:
            _write(begun, args.write_to, content)
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


@contextmanager
def _begun(path: str, *, overwrite: bool) -> Iterator[Path]:
    """Yield an empty file of mode 0600 beside `path`, which takes its name once it is written.

    Raises SettingsError where it can't be written, or may not be replaced.
    """
    target = Path(path)
    if os.path.lexists(target) and not overwrite:
        raise _refused("--write-to", f"{path} exists", "name another file, or give --overwrite")
    if os.path.lexists(target) and (target.is_symlink() or not target.is_file()):
        raise _refused("--write-to", f"{path} is no regular file", "name another file")
    try:
        descriptor, name = mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise _unwritable(path, error) from None
    os.close(descriptor)
    try:
        yield Path(name)
    finally:
        Path(name).unlink(missing_ok=True)


def _write(begun: Path, path: str, content: str) -> None:
    """Write the report, and give it its name. Raises SettingsError where that is not possible."""
    try:
        begun.write_text(content, encoding="ascii")
        begun.replace(path)
    except OSError as error:
        raise _unwritable(path, error) from None


def _unwritable(path: str, error: OSError) -> SettingsError:
    return _refused("--write-to", f"{path} can't be written: {error.strerror}", "name another file")


def _refused(flag: str, message: str, remedy: str) -> SettingsError:
    return SettingsError("command line", (Fault(flag, message, remedy),))
