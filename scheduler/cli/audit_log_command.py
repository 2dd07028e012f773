"""`rewrap audit-log`: shows the audit log, and checks that nobody changed it."""

from __future__ import annotations

import argparse
import os

from config.flags import ETCD
from scheduler.cli.exits import Exit
from scheduler.cli.options import add_output, add_settings, read_settings


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their arguments."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    for name, summary in (("verify", "check the chain of hashes"), ("list", "show the entries")):
        verb = verbs.add_parser(name, help=summary, description=f"{summary.capitalize()}.", allow_abbrev=False)
        if name == "list":
            verb.add_argument("--campaign", metavar="ID", help="only the entries of this campaign")
            verb.add_argument("--limit", type=int, default=50, metavar="N", help="the newest so many (50, 0 = all)")
        add_settings(verb, ETCD)
        add_output(verb)


def run(args: argparse.Namespace) -> int:
    """Show or check. Exit 3 when the log is not whole."""
    from scheduler.cli.running import run_async

    return run_async(lambda: _list(args) if args.verb == "list" else _verify(args))


async def _verify(args: argparse.Namespace) -> int:
    from scheduler.cli.output import print_json, say
    from worker.etcd.client import open_store
    from worker.model.audit import find_faults
    from worker.state.audit import AuditLog
    from worker.state.keyspace import Keyspace

    settings = read_settings(args, os.environ)
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        log = AuditLog(store, Keyspace(settings.keyspace.state_prefix), "rewrap audit-log")
        # The head first: what is appended while we read lies behind it.
        head = await log.head()
        entries = [entry async for entry in log.entries() if entry.number <= head.number]
    faults = find_faults(entries, head)
    if args.output == "json":
        print_json({"whole": not faults, "entries": len(entries), "head": head.to_json(), "faults": faults})
    elif faults:
        say(f"NOT WHOLE: {len(faults)} faults in {len(entries)} entries")
        for fault in faults:
            say(f"  {fault}")
    elif not entries:
        say("There is nothing in the audit log yet.")
    else:
        say(f"WHOLE: entries {entries[0].number} to {head.number}, the last with the hash {head.hash}")
        say("Compare that hash with the log lines `audit` that are kept elsewhere: who can write to etcd can write it.")
    return Exit.INCOMPLETE if faults else Exit.DONE


async def _list(args: argparse.Namespace) -> int:
    from scheduler.cli.output import print_json, print_table
    from worker.etcd.client import open_store
    from worker.state.audit import AuditLog
    from worker.state.keyspace import Keyspace

    settings = read_settings(args, os.environ)
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        log = AuditLog(store, Keyspace(settings.keyspace.state_prefix), "rewrap audit-log")
        entries = [entry async for entry in log.entries() if args.campaign in {None, entry.campaign}]
    shown = entries[-args.limit :] if args.limit > 0 else entries
    if args.output == "json":
        print_json({"entries": [entry.to_json() for entry in shown]})
        return Exit.DONE
    rows = [
        (
            entry.number,
            entry.at[:19],
            entry.event,
            entry.campaign,
            ", ".join(f"{k}={v}" for k, v in entry.detail.items()),
        )
        for entry in shown
    ]
    print_table(("NUMBER", "AT", "EVENT", "CAMPAIGN", "DETAIL"), rows)
    return Exit.DONE
