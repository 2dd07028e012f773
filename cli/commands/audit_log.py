"""`rewrap audit-log`: shows the audit log, and checks its chain of hashes. Read only."""

from __future__ import annotations

import argparse
import os

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_settings
from kube_rewrap.cli.output import print_json, print_table, say
from kube_rewrap.cli.running import run_async
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.records.audit import AuditLog, Snapshot
from kube_rewrap.worker.records.audit_chain import Entry, find_faults, is_anchored
from kube_rewrap.worker.records.keyspace import Keyspace

_ADVICE = (
    "Compare the last hash with the log lines `audit` that are kept elsewhere: "
    "anyone who can write to etcd can write a whole new chain."
)


def run(args: argparse.Namespace) -> int:
    """Show or check. `verify` ends with 3 when the log is not whole."""
    return run_async(lambda: _list(args) if args.verb == "list" else _verify(args))


async def _read(args: argparse.Namespace) -> Snapshot:
    settings = read_settings(args, os.environ)
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        return await AuditLog(store, Keyspace(settings.keyspace.state_prefix), "rewrap audit-log").snapshot()


async def _verify(args: argparse.Namespace) -> int:
    found = await _read(args)
    faults = [*found.damaged, *find_faults(found.entries, found.head)]
    if args.output == "json":
        document = {
            "whole": not faults,
            "anchored": is_anchored(found.head),
            "entries": len(found.entries),
            "first": _ends(found.entries[:1]),
            "last": _ends(found.entries[-1:]),
            "head": found.head.to_json(),
            "faults": faults,
        }
        print_json(document)
    else:
        _print_verdict(found, faults)
    return Exit.INCOMPLETE if faults else Exit.DONE


def _ends(entries: tuple[Entry, ...]) -> dict[str, object] | None:
    return next(({"number": entry.number, "at": entry.at, "hash": entry.hash} for entry in entries), None)


def _print_verdict(found: Snapshot, faults: list[str]) -> None:
    if faults:
        say(f"NOT WHOLE: faults: {len(faults)}, entries: {len(found.entries)}")
        for fault in faults:
            say(f"  {fault}")
        return
    if not found.entries:
        say("The audit log has no entries yet.")
        return
    first, last = found.entries[0], found.entries[-1]
    say(f"WHOLE: {len(found.entries)} entries, {first.number} to {last.number}")
    say(f"first hash: {first.hash}")
    say(f"last hash:  {last.hash}")
    if not is_anchored(found.head):
        say(f"Older entries were deleted: the hash in entry {first.number} of the entry before it can't be checked.")
    say(_ADVICE)


async def _list(args: argparse.Namespace) -> int:
    if args.limit < 0:
        raise SettingsError("command line", (Fault("--limit", "is below 0", "0 shows all entries"),))
    found = await _read(args)
    entries = [entry for entry in found.entries if args.campaign in {None, entry.campaign}]
    shown = entries[-args.limit :] if args.limit else entries
    if args.output == "json":
        print_json({"entries": [entry.to_json() for entry in shown], "damaged": list(found.damaged)})
        return Exit.DONE
    rows = [(entry.number, entry.at, entry.event, entry.campaign or "-", _details(entry)) for entry in shown]
    print_table(("NUMBER", "AT", "EVENT", "CAMPAIGN", "DETAIL"), rows)
    for sentence in found.damaged:
        say(sentence)
    return Exit.DONE


def _details(entry: Entry) -> str:
    return ", ".join(f"{name}={value}" for name, value in entry.detail.items())
