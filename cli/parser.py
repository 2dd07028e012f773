"""The whole command line for argparse: every command with its verbs and flags.

`--help` imports this module, so it imports no slow module: of `config`, the tables of flags only.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence

from kube_rewrap.cli.arguments import (
    Parser,
    UsageError,
    add_configuration,
    add_configuration_path,
    add_days,
    add_many,
    add_output,
    add_settings,
    add_switch,
    add_text,
)
from kube_rewrap.config.settings.flags import (
    APISERVERS,
    BROKER,
    BUDGET,
    ETCD,
    KEYSPACE,
    METRICS,
    PACE,
    PATHS,
    ROTATION,
    SCHEDULER,
    SPACE,
    WINDOW,
    WORKER,
    variable,
)

_DEMO_OBJECTS = 6_000
MANY_OBJECTS = 50_000
"""Objects to rewrite from which a run starts several processes by itself."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of one command, which `command` names. Raises UsageError; `--help` raises SystemExit."""
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv)
    if unknown:
        raise UsageError(f"unrecognized arguments: {' '.join(unknown)}; see rewrap {args.command} --help")
    if getattr(args, "output", "text") not in {"text", "json"}:
        parser.error("REWRAP_OUTPUT must be text or json")
    return args


def build_parser() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(
        prog="rewrap",
        description="Re-encrypts Kubernetes objects in etcd after the EncryptionConfiguration changed, and proves it.",
        epilog="exit codes: 0 done, 1 unexpected, 2 usage or configuration, 3 not complete, 4 refused, 5 unreachable",
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, (summary, configure) in COMMANDS.items():
        configure(_add(commands, name, summary))
    return parser


def _check(parser: Parser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="the file; default: --encryption-config")
    add_configuration(parser)
    add_settings(parser, PATHS)
    add_output(parser)


def _status(parser: Parser) -> None:
    add_configuration(parser)
    add_settings(parser, ETCD)
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
    processes = os.environ.get(variable("--processes"), "0")
    parser.add_argument(
        "--processes",
        type=int,
        default=processes,
        metavar="N",
        help=f"processes that rewrap; default: 1 below {MANY_OBJECTS:,} objects, else a core less than there are",
    )
    add_configuration(parser)
    add_settings(parser, ETCD, PACE, SPACE, BUDGET, APISERVERS)
    add_output(parser)


def _verify(parser: Parser) -> None:
    add_configuration(parser)
    add_settings(parser, ETCD, APISERVERS)
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
    accept = os.environ.get(variable("--accept"))
    parser.add_argument(
        "--accept", default=accept, metavar="FINGERPRINT", help="accept the budget of a restored key as it is"
    )
    add_switch(parser, "--no-scan", "don't judge which keys are removable: that takes the same scan as verify")
    add_configuration(parser)
    add_settings(parser, ETCD, BUDGET, APISERVERS)
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
    add_settings(parser, ETCD, PACE, SPACE, BUDGET, APISERVERS, ROTATION)
    add_output(parser)


def _audit(parser: Parser) -> None:
    # Without --allow-readable-config: the checks report who can read or replace the file.
    add_configuration_path(parser)
    add_days(parser, "--max-key-age", "90", "age in days from which a key that writes is old (90)")
    add_days(parser, "--max-proof-age", "7", "age in days from which the last proof is old (7)")
    add_settings(parser, ETCD, BUDGET, SPACE, APISERVERS)
    add_output(parser)


def _backups(parser: Parser) -> None:
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    inspect = _add(verbs, "inspect", "show what backups hold, and which key encrypts what")
    prove = _add(verbs, "prove", "open every governed object; exit 3 unless all can be read")
    add_many(
        prove,
        "--keys",
        "PATH",
        "a further EncryptionConfiguration, or a directory of them such as the archive of rotations; may be repeated",
    )
    for verb in (inspect, prove):
        verb.add_argument("files", nargs="+", metavar="FILE", help="of `etcdctl snapshot save`, or a member/snap/db")
        verb.add_argument("--processes", type=int, default=1, metavar="N", help="files that are read side by side (1)")
        add_configuration(verb)
        add_settings(verb, KEYSPACE)
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
    _add_name(_add_verb(verbs, "show", "show one campaign, with the state of each namespace"))
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
        type=int,
        default=0,
        metavar="REVISION",
        help="KMS plugins have wrapped with the present KEK since this revision of etcd: rewrite what is older, too "
        "(default 0: only what is under other keys)",
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


def _scheduler(parser: Parser) -> None:
    add_configuration(parser)
    add_settings(parser, ETCD, SPACE, WINDOW, BUDGET, BROKER, METRICS, SCHEDULER, APISERVERS, ROTATION)


def _worker(parser: Parser) -> None:
    add_configuration(parser)
    add_settings(parser, ETCD, PACE, SPACE, BUDGET, BROKER, METRICS, WORKER)


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


def _demo(parser: Parser) -> None:
    objects = f"number of objects to generate ({_DEMO_OBJECTS})"
    parser.add_argument("--objects", type=int, default=_DEMO_OBJECTS, metavar="N", help=objects)
    parser.add_argument("--rate", default="0", metavar="N", help="most objects rewritten a second (0 = no ceiling)")
    parser.add_argument("--etcd", metavar="PATH", help="the etcd binary")
    parser.add_argument("--service", action="store_true", help="show the service: scheduler, workers and Redis")
    parser.add_argument("--redis", metavar="PATH", help="the redis-server binary, for --service")
    parser.add_argument("--seed-only", metavar="URL", help="only fill the empty etcd at URL, and write --file")
    parser.add_argument("--file", metavar="FILE", help="the EncryptionConfiguration that --seed-only writes")


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
    "backups": ("read backups of etcd offline, and prove that they can be read", _backups),
    "campaign": ("start, follow and steer the campaigns of the service", _campaign),
    "audit-log": ("check and show the audit log", _audit_log),
    "scheduler": ("run the daemon that notices changes and plans campaigns", _scheduler),
    "worker": ("run the daemon that rewrites batches", _worker),
    "keygen": ("make a key, or a ready provider block", _keygen),
    "demo": ("rewrap generated objects in a throw-away etcd", _demo),
}
"""Summary and arguments by command. `cli/commands/` holds a module of each name, `-` written `_`."""


def _add(parsers: argparse._SubParsersAction[Parser], name: str, summary: str) -> Parser:
    return parsers.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
