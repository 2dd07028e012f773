"""`rewrap audit-log`: shows the audit log, and checks its chain of hashes. Read only."""

from __future__ import annotations

import argparse
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_settings
from kube_rewrap.cli.output import print_json, print_table, say
from kube_rewrap.cli.running import run_async
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.records.audit import AuditLog, Verdict
from kube_rewrap.worker.records.audit_chain import Entry, is_anchored
from kube_rewrap.worker.records.keyspace import Keyspace

_ADVICE = (
    "Compare the last hash with the log lines `audit` that are kept elsewhere: "
    "anyone who can write to etcd can write a whole new chain."
)


def run(args: argparse.Namespace) -> int:
    """Show or check. `verify` ends with 3 when the log is not whole."""
    return run_async(lambda: _list(args) if args.verb == "list" else _verify(args))


@asynccontextmanager
async def _opened(args: argparse.Namespace) -> AsyncIterator[AuditLog]:
    settings = read_settings(args, os.environ)
    async with open_store(settings.etcd, settings.keyspace.state_prefix) as store:
        yield AuditLog(store, Keyspace(settings.keyspace.state_prefix), "rewrap audit-log")


async def _verify(args: argparse.Namespace) -> int:
    async with _opened(args) as log:
        found = await log.verify()
    if args.output == "json":
        document = {
            "whole": not found.faults,
            "anchored": is_anchored(found.head),
            "entries": found.entries,
            "first": _end(found.first),
            "last": _end(found.last),
            "head": found.head.to_json(),
            "faults": list(found.faults),
        }
        print_json(document)
    else:
        _print_verdict(found)
    return Exit.INCOMPLETE if found.faults else Exit.DONE


def _end(entry: Entry | None) -> dict[str, object] | None:
    return None if entry is None else {"number": entry.number, "at": entry.at, "hash": entry.hash}


def _print_verdict(found: Verdict) -> None:
    if found.faults:
        say(f"NOT WHOLE: faults: {len(found.faults)}, entries: {found.entries}")
        for fault in found.faults:
            say(f"  {fault}")
        return
    first, last = found.first, found.last
    if first is None or last is None:
        say("The audit log has no entries yet.")
        return
    say(f"WHOLE: {found.entries} entries, {first.number} to {last.number}")
    say(f"first hash: {first.hash}")
    say(f"last hash:  {last.hash}")
    if not is_anchored(found.head):
        say(f"Older entries were deleted: the hash in entry {first.number} of the entry before it can't be checked.")
    say(_ADVICE)


async def _list(args: argparse.Namespace) -> int:
    if args.limit < 0:
        raise SettingsError("command line", (Fault("--limit", "is below 0", "0 shows all entries"),))
    async with _opened(args) as log:
        found = await log.snapshot(args.limit or None, args.campaign)
    if args.output == "json":
        print_json({"entries": [entry.to_json() for entry in found.entries], "damaged": list(found.damaged)})
        return Exit.DONE
    rows = [
        (entry.number, entry.at[:19], entry.event, entry.campaign or "-", entry.actor, _details(entry))
        for entry in found.entries
    ]
    print_table(("NUMBER", "AT", "EVENT", "CAMPAIGN", "BY", "DETAIL"), rows)
    for sentence in found.damaged:
        say(sentence)
    return Exit.DONE


def _details(entry: Entry) -> str:
    return ", ".join(f"{name}={value}" for name, value in entry.detail.items())
