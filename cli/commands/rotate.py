"""`rewrap rotate`: replaces the primary key by a new one, step by step; may be interrupted and resumed at any step."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TextIO

from kube_rewrap.cli.arguments import is_on_by_variable, text_of_variable, texts_of_variable
from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_configuration_path, read_settings
from kube_rewrap.cli.output import (
    ask,
    print_file,
    print_json,
    print_table,
    print_to_stderr,
    say,
    stdout_for_files,
    with_short_hashes,
)
from kube_rewrap.cli.rotation_plan import RotationPlan, prepare_rotation, print_plan
from kube_rewrap.cli.running import brake_on_signals, run_async
from kube_rewrap.config.encryption.generation import content_hash
from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.rotation.file import ConfigurationFile, archive_of
from kube_rewrap.scheduler.rotation.request import RotationRequest
from kube_rewrap.scheduler.rotation.standalone import StandaloneRotation
from kube_rewrap.scheduler.rotation.transition import aborted, may_be_withdrawn, paused, resumed, withdrawing
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.rotation import Rotation, RotationStep
from kube_rewrap.worker.records.rotations import Rotations

_ENCRYPTING = set(ProviderType) - {ProviderType.IDENTITY}


def run(args: argparse.Namespace) -> int:
    """Run the verb. Exit 3 when the rotation was stopped before its end, 4 when it is held or refused."""
    _check_arguments(args)
    match args.verb:
        case "start":
            return _start(args)
        case "status":
            return run_async(lambda: _status(args))
        case "pause":
            return run_async(lambda: _steer(args))
        case "abort":
            is_wanted = args.remove_unused or _wants_removal(args)
            return run_async(lambda: _withdraw(args) if is_wanted else _steer(args))
    return run_async(lambda: _resume(args), "rotate")


def _check_arguments(args: argparse.Namespace) -> None:
    """Raise SettingsError for arguments that contradict each other or the verb."""
    # A value that only a variable gives is ignored where no rotation begins, but for a dry run of what writes.
    begins, is_dry = args.verb == "start", is_on_by_variable("--dry-run")
    if args.dry_run and not begins and not (is_dry and args.verb == "status"):
        raise _refused("--dry-run", f"shows what a new rotation would do, and {args.verb} begins none", "leave it out")
    if args.remove_unused and args.verb != "abort":
        raise _refused("--remove-unused", f"is not for {args.verb}", "use it with abort")
    for flag, given, by_variable in (
        ("--resource", args.resource, texts_of_variable("--resource")),
        ("--provider", args.provider, text_of_variable("--provider")),
        ("--prune", args.prune, is_on_by_variable("--prune")),
    ):
        if given != by_variable and not begins:
            raise _refused(flag, f"is for a new rotation, and {args.verb} begins none", "leave it out")
    if args.kms_file is not None and begins and args.provider != ProviderType.KMS:
        message = f"is for a rotation to kms, and this one is to {args.provider or 'the type of the present key'}"
        raise _refused("--kms-file", message, "give --provider kms with it, or leave it out")
    if args.write_to and args.verb == "start" and not args.manual:
        message = "needs --manual: without it, the rotation edits the configuration file itself"
        raise _refused("--write-to", message, "give both, or neither")
    drives = args.remove_unused or (args.verb in {"start", "resume"} and not args.dry_run)
    if drives and args.manual:
        _require_target(args)


def _require_target(args: argparse.Namespace) -> None:
    """Raise SettingsError for JSON output without --write-to, or where --write-to is the configuration itself."""
    if args.output == "json" and not args.write_to:
        raise _refused("--write-to", "is missing: JSON output is one document", "name a file for the file's content")
    if args.write_to and os.path.realpath(args.write_to) == os.path.realpath(_file(args).path):
        raise _refused("--write-to", "is the configuration itself, which --manual leaves alone", "name another file")


def _refused(place: str, message: str, remedy: str) -> SettingsError:
    return SettingsError("command line", (Fault(place, message, remedy),))


def _start(args: argparse.Namespace) -> int:
    """Show the plan, ask, begin. It writes nothing before the answer, and holds no connection while it waits."""
    with _content_stream(args, by_hand=args.manual and not args.dry_run) as out:
        _require_consent(args)
        plan = run_async(lambda: _plan(args))
        if args.dry_run or args.output == "text":
            print_plan(plan, as_json=args.output == "json", is_dry=args.dry_run)
        if args.dry_run:
            return Exit.REFUSED if plan.reasons else Exit.DONE
        if plan.reasons:
            raise RefusedError("; ".join(plan.reasons))
        if not args.yes and not _consents("Begin?"):
            raise RefusedError("not begun; nothing was written")
        return run_async(lambda: _drive(args, plan.rotation, out), "rotate")


@contextmanager
def _content_stream(args: argparse.Namespace, *, by_hand: bool) -> Iterator[TextIO]:
    """Yield the stream for the file's new content; if that is stdout, all messages go to stderr."""
    if by_hand and args.output == "text" and not args.write_to:
        with stdout_for_files() as stdout:
            yield stdout
    else:
        yield sys.stdout


def _consents(question: str) -> bool:
    try:
        return ask(f"{question} [y/N] ").strip().lower() in {"y", "yes"}
    except EOFError:
        say()
        return False


def _require_consent(args: argparse.Namespace) -> None:
    """Raise SettingsError where --yes is missing and the command can't ask for consent."""
    if args.yes or args.dry_run:
        return
    remedy = "give --yes to begin without asking for consent, or --dry-run to see the plan"
    if args.output == "json":
        raise _refused("--yes", "is missing: JSON output is one document and leaves no place for a question", remedy)
    if not _is_terminal():
        raise _refused("--yes", "is missing, and the command can't ask for consent: this is no terminal", remedy)


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stdout.isatty()


def _wants_removal(args: argparse.Namespace) -> bool:
    """Offer, on a terminal, to remove the new key again, as long as that is possible."""
    if args.yes or args.output == "json" or not _is_terminal():
        return False
    found = run_async(lambda: _newest(args))
    if found is None or not may_be_withdrawn(found):
        return False
    return _consents(f"Take the unused key {found.provider}:{found.key_name} out of the file again?")


async def _withdraw(args: argparse.Namespace) -> int:
    """Abort, and remove the new key again. Exit 4 when it stays, since an object may be under it."""
    file, now = content_hash(_file(args).read()), datetime.now(UTC).isoformat(timespec="seconds")
    settings = read_settings(args, os.environ)
    by_hand = await _is_by_hand(args)
    changed = await _change(settings, lambda rotation: withdrawing(rotation, file, now), "rotation.aborted")
    if changed.step.is_end:
        _print(changed, args)
        return Exit.DONE
    with _content_stream(args, by_hand=by_hand) as out:
        return await _drive(args, None, out)


async def _resume(args: argparse.Namespace) -> int:
    settings, file, by_hand = read_settings(args, os.environ), _file(args), await _is_by_hand(args)
    with _content_stream(args, by_hand=by_hand) as out:
        if await _release(settings, file) and args.output == "text":
            say(
                "Discard the file content that you were given before: it is not in place, and the next has another key."
            )
        return await _drive(args, None, out)


async def _plan(args: argparse.Namespace) -> RotationPlan:
    return await prepare_rotation(read_settings(args, os.environ), _file(args), _request(args))


def _file(args: argparse.Namespace) -> ConfigurationFile:
    path = read_configuration_path(args, os.environ)
    settings = read_settings(args, os.environ).rotation
    archive = settings.archive or archive_of(path)
    return ConfigurationFile(path, archive, allow_readable=args.allow_readable_config, kms_file=settings.kms_file)


async def _drive(args: argparse.Namespace, planned: Rotation | None, out: TextIO) -> int:
    """Begin a planned rotation, or continue the one that is under way (None). `out` as in `_content_stream`."""
    settings, file = read_settings(args, os.environ), _file(args)
    brake = brake_on_signals("; `rewrap rotate resume` continues the rotation")
    report = _progress_printer(args)
    rotation = await StandaloneRotation(settings, file, brake, report).run(
        planned, _content_writer(args, file.path, report, out)
    )
    return _show(rotation, args)


async def _is_by_hand(args: argparse.Namespace) -> bool:
    """Return whether an operator edits the file for the rotation that is under way.

    Raises SettingsError where --manual contradicts the record, or where the arguments name no place for the content.
    """
    found = await _newest(args)
    if found is None or found.step.is_end:
        return False
    if found.by_hand:
        _require_target(args)
    elif args.manual or args.write_to:
        message = f"the rotation {found.id} was begun without --manual: it edits the file itself"
        flag = "--manual" if args.manual else "--write-to"
        raise _refused(flag, message, "leave it out, or abort that rotation and begin one with --manual")
    return found.by_hand


def _request(args: argparse.Namespace) -> RotationRequest:
    """Return the rotation that the arguments describe. Raises SettingsError."""
    if args.provider and args.provider not in _ENCRYPTING:
        raise _refused("--provider", "is no provider that encrypts", "use secretbox, aesgcm, aescbc or kms")
    provider = ProviderType(args.provider) if args.provider else None
    stanza, stanza_hash = _file(args).stanza() if provider is ProviderType.KMS else (None, "")
    return RotationRequest(tuple(args.resource), provider, stanza, stanza_hash, args.prune, args.manual)


async def _release(settings: Settings, file: ConfigurationFile) -> bool:
    """Clear a pause, or the reason that held the rotation, from its record.

    Returns whether this invalidates file content with a new key that the operator received before.
    """
    now, handed = content_hash(file.read()), False

    def resume(rotation: Rotation) -> Rotation:
        nonlocal handed
        changed = resumed(rotation, now)
        handed = rotation.step is RotationStep.ADD and changed.edited != rotation.edited
        return changed

    await _change(settings, resume, "rotation.resumed")
    return handed


async def _change(settings: Settings, change: Callable[[Rotation], Rotation], event: str) -> Rotation:
    keyspace = Keyspace(settings.keyspace.state_prefix)
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        changed = await Rotations(store, keyspace).change(change)
        if changed is None:
            raise RefusedError("no rotation is under way; `rewrap rotate start` begins one")
        log = AuditLog(store, keyspace, "rewrap rotate")
        await log.append(
            event, "", rotation=changed.id, step=changed.step.value, because=changed.held or changed.because
        )
    return changed


async def _steer(args: argparse.Namespace) -> int:
    settings = read_settings(args, os.environ)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    if args.verb == "pause":
        _print(await _change(settings, paused, "rotation.paused"), args)
    else:
        _print(await _change(settings, lambda rotation: aborted(rotation, now), "rotation.aborted"), args)
    return Exit.DONE


async def _status(args: argparse.Namespace) -> int:
    found = await _newest(args)
    if found is None:
        raise RefusedError("no rotation is on record; `rewrap rotate start` begins one")
    _print(found, args)
    return Exit.DONE


async def _newest(args: argparse.Namespace) -> Rotation | None:
    settings = read_settings(args, os.environ)
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        found = await Rotations(store, Keyspace(settings.keyspace.state_prefix)).all()
    return found[-1].value if found else None


def _progress_printer(args: argparse.Namespace) -> Callable[[Rotation, str], None]:
    """Return the function that prints the progress; with JSON output it prints to stderr."""
    report = say if args.output == "text" else print_to_stderr
    return lambda rotation, because: report(f"{rotation.step.value:<8} {with_short_hashes(because)}")


def _content_writer(
    args: argparse.Namespace, file: str, report: Callable[[Rotation, str], None], out: TextIO
) -> Callable[[Rotation, bytes], None]:
    """Return the function that writes the file's new content for the operator, and prints what to do with it."""

    def write(rotation: Rotation, content: bytes) -> None:
        if args.write_to:
            _write(args.write_to, content)
        elif args.output == "json":
            raise RefusedError(
                "--write-to is missing: JSON output is one document; `rewrap rotate resume` continues the rotation"
            )
        else:
            print_file(content, f"{rotation.edited} for the step {rotation.step.value}", out)
        source = args.write_to or "stdout"
        report(rotation, f"waits for you: replace {file} with the content of {source}, on every control-plane node")

    return write


def _write(path: str, content: bytes) -> None:
    """Write the content that an operator puts in place. Raises SettingsError where that is not possible."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        message = f"{path} can't be written: {error.strerror}"
        raise _refused("--write-to", message, "name another file, and run `rewrap rotate resume`") from None
    with os.fdopen(descriptor, "wb") as stream:
        # An existing file may have a mode that lets others read.
        os.fchmod(stream.fileno(), 0o600)
        stream.truncate()
        stream.write(content)


def _show(rotation: Rotation, args: argparse.Namespace) -> int:
    _print(rotation, args)
    if rotation.step is RotationStep.DONE or rotation.is_withdrawn:
        return Exit.DONE
    return Exit.REFUSED


def _print(rotation: Rotation, args: argparse.Namespace) -> None:
    if args.output == "json":
        print_json({"rotation": rotation.to_json(), "step": rotation.step.value, "held": rotation.held})
        return
    say()
    say(f"rotation {rotation.id}: {rotation.provider}:{rotation.key_name} for {', '.join(rotation.resources)}")
    say(f"step:    {rotation.step.value}{' (held)' if rotation.held else ''}")
    say(f"because: {with_short_hashes(rotation.held or rotation.because)}")
    if rotation.waits and not rotation.step.is_end:
        say(f"waits:   {with_short_hashes(rotation.waits)}")
    if rotation.passed:
        say()
        print_table(
            ("PASSED", "AT", "BECAUSE"),
            [(passed.step.value, passed.at[:19], with_short_hashes(passed.because)) for passed in rotation.passed],
        )
