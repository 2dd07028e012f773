"""The whole command line for argparse: every command with its verbs and flags.

`--help` imports this module, so it imports no slow module: of `config`, the tables of flags only.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from kube_rewrap.cli.arguments import (
    Parser,
    UsageError,
    actions_of,
    add_configuration,
    add_configuration_path,
    add_days,
    add_many,
    add_number,
    add_output,
    add_settings,
    add_switch,
    add_text,
    did_you_mean,
    revision,
    variable_of,
)
from kube_rewrap.cli.habits import advice_on
from kube_rewrap.config.settings.flags import (
    APISERVERS,
    BACKUPS,
    BROKER,
    BUDGET,
    ETCD,
    KEYSPACE,
    LOG,
    METRICS,
    PACE,
    PATHS,
    READS,
    ROTATION,
    SCHEDULER,
    SPACE,
    WINDOW,
    WORKER,
)
from kube_rewrap.config.settings.schema import SETTINGS

_DEMO_OBJECTS = 6_000
_OTHER_VARIABLES = {"REWRAP_LOG_LEVEL", "REWRAP_LOG_FORMAT", "REWRAP_TRACEBACK", "REWRAP_NO_ENSUREPIP"}
_OF_A_SERVICE = re.compile(r"REWRAP_(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_\w+)?)?)")
MANY_OBJECTS = 50_000
"""Objects to rewrite from which a run starts several processes by itself."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of one command, which `command` names. Raises UsageError; `--help` raises SystemExit."""
    parser = build_parser()
    if not argv:
        parser.print_help(sys.stderr)
        parser.error("no command is given")
    line = _command_first(argv)
    if line[0].startswith("-") and line[0] not in parser.own_flags:
        parser.error(f"{line[0].partition('=')[0]} is before the command; write {parser.prog} COMMAND [FLAGS]")
    args, unknown = parser.parse_known_args(line)
    if unknown:
        flags = {one: _flags_of(parser.command(one)) for one in COMMANDS}
        advice = advice_on(unknown[0], args.command, flags)
        parts = (f"unrecognized arguments: {' '.join(unknown)}", advice, f"see {parser.prog} {args.command} --help")
        raise UsageError("; ".join(filter(None, parts)))
    if getattr(args, "output", "text") not in getattr(args, "forms", ("text", "json")):
        parser.error("REWRAP_OUTPUT must be text or json")
    return args


def _flags_of(command: argparse.ArgumentParser) -> frozenset[str]:
    return frozenset(name for action in actions_of(command) for name in action.option_strings)


def _command_first(argv: Sequence[str]) -> Sequence[str]:
    """Move `-o json` from before the command to the end, where every command takes it; read `help` as `--help`."""
    match argv:
        case ["help", *rest]:
            return [*rest, "--help"]
        case ["-o" | "--output" as flag, form, command, *rest]:
            return [command, *rest, flag, form]
        case [str(flag), command, *rest] if flag.startswith(("-o", "--output=")) and flag != "--output":
            return [command, *rest, flag]
    return argv


def unknown_variables(environment: Iterable[str]) -> Iterator[str]:
    """Yield a warning for each name that begins with REWRAP_ and sets nothing.

    Kubernetes gives every pod variables such as REWRAP_PORT for a Service `rewrap`: no operator set those.
    """
    given = [name for name in sorted(environment) if name.startswith("REWRAP_") and not _OF_A_SERVICE.fullmatch(name)]
    if not given:
        return
    known = {own for action in actions_of(build_parser()) if (own := variable_of(action))}
    known |= {one.variable for one in SETTINGS if one.variable} | _OTHER_VARIABLES
    for name in given:
        if name not in known:
            yield f"the variable {name} sets nothing{did_you_mean(name, sorted(known))}"


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="kubectl rewrap" if Path(sys.argv[0]).name == "kubectl-rewrap" else "rewrap",
        description="Re-encrypts Kubernetes objects in etcd after the EncryptionConfiguration changed, and proves it.",
        epilog="exit codes: 0 done, 1 unexpected, 2 usage or configuration, 3 not complete, 4 refused, 5 unreachable",
    )
    parser.add_argument("-V", "--version", action=_Version, nargs=0, help="show the version; rewrap version shows more")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, (summary, configure) in COMMANDS.items():
        configure(_add(commands, name, summary))
    return parser


class _Version(argparse.Action):
    """argparse's own action would want the version before anyone asks, and reading it takes time."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version  # noqa: PLC0415 - takes a third of the time of --help

        parser.exit(message=f"rewrap {version('kube-rewrap')}\n")


def _check(parser: Parser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="the file; default: --encryption-config")
    add_configuration(parser)
    add_settings(parser, PATHS)
    add_output(parser)


def _status(parser: Parser) -> None:
    add_configuration(parser)
    add_settings(parser, ETCD, READS)
    add_output(parser)


def _inspect(parser: Parser) -> None:
    parser.add_argument("object", metavar="ETCD_KEY", help="such as /registry/secrets/default/token")
    add_configuration(parser)
    add_settings(parser, ETCD)
    add_output(parser)


def _run(parser: Parser) -> None:
    add_many(parser, "--resource", "R", "only this resource; may be repeated")
    add_many(parser, "--namespace", "N", "only this namespace; may be repeated")
    add_switch(parser, "--dry-run", "show the plan; write nothing at all to etcd")
    add_switch(parser, "--allow-plaintext", "let an identity primary decrypt stored objects")
    add_switch(parser, "--allow-empty", "accept a --namespace or --resource that holds no object")
    _add_since(parser)
    add_switch(parser, "--wait", "wait for another run instead of refusing")
    summary = f"processes that rewrap; default: 1 below {MANY_OBJECTS:,} objects, else a core less than there are"
    add_number(parser, "--processes", 0, "N", summary)
    add_configuration(parser)
    add_settings(parser, ETCD, PACE, READS, SPACE, BUDGET, APISERVERS)
    add_output(parser)


def _verify(parser: Parser) -> None:
    add_configuration(parser)
    add_settings(parser, ETCD, READS, APISERVERS)
    add_output(parser)


def _converged(parser: Parser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="the file; default: --encryption-config")
    add_switch(parser, "--wait", "repeat the check until all run it, for at most --converge-timeout")
    # A statement holds for one file: an environment variable would repeat it for each.
    parser.add_argument(
        "--assume-converged", metavar="REASON", help="record that you know, for REASON, that all kube-apiservers run it"
    )
    add_configuration(parser)
    add_settings(parser, ETCD, APISERVERS)
    add_output(parser)


def _keys(parser: Parser) -> None:
    add_text(parser, "--accept", "FINGERPRINT", "accept the budget of a restored key as it is")
    add_switch(parser, "--no-scan", "don't judge which keys are removable: that takes the same scan as verify")
    add_many(parser, "--keys", "PATH", "with --catalogue: an archived EncryptionConfiguration, or a directory of them")
    add_configuration(parser)
    add_settings(parser, ETCD, READS, BUDGET, APISERVERS, BACKUPS)
    add_output(parser)


def _rotate(parser: Parser) -> None:
    parser.add_argument(
        "verb",
        nargs="?",
        choices=("start", "resume", "status", "pause", "abort"),
        default="start",
        help="start (the default), resume one that is under way or was paused, show its status, pause it, or "
        "abort it, which leaves the file as it is (but see --remove-unused)",
    )
    add_many(parser, "--resource", "R", "only the configuration's entries that name this resource; may be repeated")
    add_text(parser, "--provider", "TYPE", "type of the new key: secretbox, aesgcm, aescbc; kms with --kms-file")
    add_switch(parser, "--prune", "remove the old key at the end; the archive keeps it")
    add_switch(parser, "--manual", "don't edit the file; write out its new content, for you to put in place")
    add_switch(parser, "--yes", "begin without asking for consent")
    add_switch(parser, "--dry-run", "show the plan; write nothing at all")
    # Without an environment variable: it is an order about the rotation that is under way.
    parser.add_argument(
        "--remove-unused",
        action="store_true",
        help="with abort: remove the new key from the file, as long as kube-apiserver does not write with it",
    )
    add_text(parser, "--write-to", "FILE", "with --manual: write the content to FILE, not to stdout")
    add_configuration(parser)
    add_settings(parser, ETCD, PACE, READS, SPACE, BUDGET, APISERVERS, ROTATION)
    add_output(parser)


def _audit(parser: Parser) -> None:
    # Without --allow-readable-config: the checks report who can read or replace the file.
    add_configuration_path(parser)
    add_days(parser, "--max-key-age", "90", "age in days from which a key that writes is old (90)")
    add_days(parser, "--max-proof-age", "7", "age in days from which the last proof is old (7)")
    add_days(parser, "--max-backup-age", "2", "age in days from which the newest proven backup is old (2)")
    parser.add_argument(
        "--fail-on",
        choices=("low", "medium", "high", "critical"),
        default="high",
        help="least severity of a finding with which the command ends with 3 (high)",
    )
    add_settings(parser, ETCD, READS, BUDGET, SPACE, APISERVERS, BACKUPS)
    add_output(parser)


def _report(parser: Parser) -> None:
    # Without environment variables: they describe one report.
    subjects = parser.add_mutually_exclusive_group()
    subjects.add_argument("--campaign", metavar="ID", help="on this campaign (default: the newest that ended)")
    subjects.add_argument("--rotation", metavar="ID", help="on this rotation")
    subjects.add_argument("--now", action="store_true", help="on the present state, proven by a scan as verify does")
    parser.add_argument("--names", action="store_true", help="name the objects in quarantine, and namespaces")
    parser.add_argument("--no-scan", action="store_true", help="leave out the checklist and what else takes a scan")
    parser.add_argument("--write-to", metavar="FILE", help="write to FILE (mode 0600), not to stdout")
    parser.add_argument("--overwrite", action="store_true", help="replace FILE if it exists")
    add_configuration(parser)
    add_days(parser, "--max-key-age", "90", "age in days from which a key that writes is old (90)")
    add_days(parser, "--max-proof-age", "7", "age in days from which the last proof is old (7)")
    add_days(parser, "--max-backup-age", "2", "age in days from which the newest proven backup is old (2)")
    add_settings(parser, ETCD, READS, BUDGET, SPACE, APISERVERS, BACKUPS)
    add_output(parser, "html")


def _backups(parser: Parser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    inspect = _add(verbs, "inspect", "show what backups hold, and which key encrypts what")
    prove = _add(verbs, "prove", "open every governed object; exit 3 unless all can be read")
    add = _add(verbs, "add", "prove backups, and add them to the catalogue; exit 3 unless all can be read")
    # Without environment variables: they are about these files.
    add.add_argument("--expires", metavar="TIME", help="when you delete them: 30d, a date, or a time with its zone")
    add.add_argument("--where", metavar="TEXT", default="", help="where you keep them")
    configuration = _add(verbs, "configuration", "write the smallest EncryptionConfiguration that reads a backup")
    add_text(configuration, "--write-to", "OUT", "write it to OUT (mode 0600), not to stdout")
    configuration.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    keys = _add(verbs, "keys", "show for each key which backups in the catalogue need it, and until when")
    for verb in (prove, add, configuration, keys):
        add_many(
            verb,
            "--keys",
            "PATH",
            "a further EncryptionConfiguration, or a directory of them such as the archive of rotations; may be "
            "repeated",
        )
    for verb in (inspect, prove, add):
        verb.add_argument("files", nargs="+", metavar="FILE", help="of `etcdctl snapshot save`, or a member/snap/db")
        verb.add_argument("--processes", type=int, default=1, metavar="N", help="files that are read side by side (1)")
    configuration.add_argument("files", nargs=1, metavar="FILE", help="of `etcdctl snapshot save`, or a member/snap/db")
    configuration.set_defaults(processes=1)
    forget = _add(verbs, "forget", "forget a backup in the catalogue, or a damaged line of it")
    forget.add_argument("digest", metavar="DIGEST", help="its SHA-256, or at least the first 8 digits")
    listing = _add(verbs, "list", "show the backups in the catalogue")
    for verb in (inspect, prove, configuration):
        add_settings(verb, KEYSPACE)
    add_settings(add, KEYSPACE, BACKUPS)
    for verb in (forget, listing, keys):
        add_settings(verb, BACKUPS)
    for verb in (inspect, prove, add, configuration, keys):
        add_configuration(verb)
    for verb in (inspect, prove, add, configuration, keys, forget, listing):
        add_output(verb)


def _campaign(parser: Parser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    start = _add_verb(verbs, "start", "ask the scheduler for a campaign")
    add_many(start, "--resource", "R", "only this resource; repeatable")
    add_many(start, "--namespace", "N", "only this namespace; repeatable")
    # Without environment variables: they describe one campaign, and REWRAP_RATE is the service's ceiling.
    start.add_argument("--reason", default="", metavar="TEXT", help="why you start it; kept in the campaign's record")
    start.add_argument(
        "--rate", default="0", metavar="N", help="its own ceiling in objects a second (0 = the service's)"
    )
    start.add_argument("--priority", default="0", metavar="N", help="-100 to 100; higher begins earlier")
    add_switch(start, "--allow-plaintext", "let an identity primary decrypt stored objects")
    add_switch(start, "--allow-empty", "accept a namespace or resource without an object")
    _add_since(start)
    add_switch(start, "--wait", "wait until the campaign ends, as `campaign wait` does")
    _add_verb(verbs, "list", "show campaigns and requests")
    show = _add_verb(verbs, "show", "show one campaign")
    _add_name(show)
    show.add_argument("--namespaces", action="store_true", help="show each namespace, and more of the quarantine")
    wait = _add_verb(verbs, "wait", "wait until a campaign ends; exit 0 when it is complete, 3 when it is not")
    _add_name(wait)
    for waiting in (start, wait):
        waiting.add_argument("--timeout", type=float, default=0, metavar="SECONDS", help="longest wait (0 = for ever)")
    for verb in ("pause", "resume", "cancel"):
        _add_name(_add_verb(verbs, verb, f"{verb} a campaign"))


def _add_since(parser: Parser) -> None:
    # Without an environment variable: a revision belongs to one rotation of a KEK.
    parser.add_argument(
        "--since",
        type=revision,
        default=0,
        metavar="REVISION",
        help="KMS plugins have wrapped with the present KEK since this revision of etcd: rewrite what is older, too "
        "(default: only what is under other keys)",
    )


def _add_verb(verbs: argparse._SubParsersAction[Parser], name: str, summary: str) -> Parser:
    parser = _add(verbs, name, summary)
    add_settings(parser, ETCD)
    add_output(parser)
    return parser


def _add_name(parser: Parser) -> None:
    parser.add_argument("name", metavar="ID", help="the id of the campaign, or of the request that it came from")


def _audit_log(parser: Parser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    _add_verb(verbs, "verify", "check the chain of hashes")
    listing = _add_verb(verbs, "list", "show the entries")
    listing.add_argument("--campaign", metavar="ID", help="only the entries of this campaign")
    listing.add_argument(
        "--limit", type=int, default=50, metavar="N", help="number of entries, the newest (50; 0 = all)"
    )


def _top(parser: Parser) -> None:
    add_switch(parser, "--once", "print one screen and end; needs no terminal")
    add_number(parser, "--interval", 1, "SECONDS", "seconds between two looks at etcd (1)")
    add_settings(parser, ETCD, SPACE, BUDGET, APISERVERS)
    add_output(parser)


def _scheduler(parser: Parser) -> None:
    add_configuration(parser)
    add_settings(
        parser, ETCD, READS, SPACE, WINDOW, BUDGET, BROKER, METRICS, LOG, SCHEDULER, APISERVERS, ROTATION, BACKUPS
    )


def _worker(parser: Parser) -> None:
    add_configuration(parser)
    add_settings(parser, ETCD, PACE, READS, SPACE, BUDGET, BROKER, METRICS, LOG, WORKER)


def _keygen(parser: Parser) -> None:
    parser.add_argument(
        "provider",
        nargs="?",
        choices=("aescbc", "aesgcm", "secretbox"),
        help="print a provider block instead of a bare key",
    )
    parser.add_argument("--name", default="key1", help="name of the key in the block (key1)")
    parser.add_argument("--bytes", type=int, default=32, choices=(16, 24, 32), help="length of the key (32)")
    add_output(parser)


def _version(parser: Parser) -> None:
    add_output(parser)


def _completion(parser: Parser) -> None:
    parser.add_argument("shell", choices=("bash", "zsh", "fish"), help="the shell that reads the script")


def _demo(parser: Parser) -> None:
    objects = f"number of objects to generate ({_DEMO_OBJECTS})"
    parser.add_argument("--objects", type=int, default=_DEMO_OBJECTS, metavar="N", help=objects)
    parser.add_argument("--rate", default="0", metavar="N", help="most objects rewritten a second (0 = no ceiling)")
    parser.add_argument("--etcd", metavar="PATH", help="the etcd binary")
    parser.add_argument("--service", action="store_true", help="show the service: scheduler, workers and Redis")
    parser.add_argument("--redis", metavar="PATH", help="the redis-server binary, for --service")
    parser.add_argument("--seed-only", metavar="URL", help="only fill the empty etcd at URL, and write --file")
    parser.add_argument("--file", metavar="FILE", help="the EncryptionConfiguration that --seed-only writes")
    parser.add_argument("--next-key", metavar="FILE", help="only put a new key first in the file of --seed-only")


COMMANDS: dict[str, tuple[str, Callable[[Parser], None]]] = {
    "check": ("validate an EncryptionConfiguration file", _check),
    "status": ("show which key encrypts what", _status),
    "inspect": ("show how one object is stored, never its plaintext", _inspect),
    "run": ("rewrap everything under the primary keys, and prove it", _run),
    "verify": ("prove by a scan that everything is under its primary key", _verify),
    "converged": ("check whether all kube-apiservers run this EncryptionConfiguration", _converged),
    "keys": ("show the write budgets of the keys, and which keys are removable", _keys),
    "rotate": ("replace the primary key by a new one, step by step", _rotate),
    "audit": ("judge the cluster by the hardening checklist for encryption at rest", _audit),
    "report": ("write one page of evidence for an auditor, as HTML or JSON", _report),
    "backups": ("read backups of etcd offline, and prove that they can be read", _backups),
    "campaign": ("start, follow and steer the campaigns of the service", _campaign),
    "top": ("show campaigns, workers, keys, kube-apiservers, etcd and events on one live screen", _top),
    "audit-log": ("check and show the audit log", _audit_log),
    "scheduler": ("run the daemon that notices changes and plans campaigns", _scheduler),
    "worker": ("run the daemon that rewrites batches", _worker),
    "keygen": ("make a key, or a ready provider block", _keygen),
    "demo": ("rewrap generated objects in a throw-away etcd", _demo),
    "version": ("show the version, the commit, and those of Python and the libraries", _version),
    "completion": ("print the completions of a shell", _completion),
}
"""Summary and arguments by command. `cli/commands/` holds a module of each name, `-` written `_`."""


def _add(parsers: argparse._SubParsersAction[Parser], name: str, summary: str) -> Parser:
    return parsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
