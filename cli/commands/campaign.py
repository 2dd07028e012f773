"""`rewrap campaign`: requests, shows and controls campaigns of the service."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
from collections.abc import Awaitable, Callable, Mapping

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_settings
from kube_rewrap.cli.output import print_json, print_table, say
from kube_rewrap.cli.reports import print_left_alone
from kube_rewrap.cli.running import run_async
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.client import request_start, steer
from kube_rewrap.scheduler.campaigns.status import Overview, look, look_at_all, peek
from kube_rewrap.worker.errors import RefusedError, UnavailableError
from kube_rewrap.worker.records.request import HostileArgumentError, RequestKind, RequestState, name_of

_TAKEN_UP_SECONDS = 30.0
"""How long `wait` waits for a worker to record a request that another program sent through the queue."""

_FOLLOW_SECONDS = 0.5

Look = Callable[[Settings, str], Awaitable[Overview | None]]
"""Reads the status of the campaign or request of a name."""


def run(args: argparse.Namespace) -> int:
    """Run the verb. Exit 2 for an unknown campaign, 4 when the campaign's state does not allow the verb."""
    if args.verb in {"start", "wait"} and not 0 <= args.timeout < math.inf:
        fault = Fault("--timeout", "is not a number of seconds, 0 or more", "0 waits for ever")
        raise SettingsError("command line", (fault,))
    match args.verb:
        case "start":
            return run_async(lambda: _start(args))
        case "list":
            return run_async(lambda: _list(args))
        case "show":
            return run_async(lambda: _show(args))
        case "wait":
            return run_async(lambda: _follow(args, args.name))
    return run_async(lambda: _steer(args))


async def _start(args: argparse.Namespace) -> int:
    settings = read_settings(args, os.environ)
    try:
        arguments: Mapping[str, object] = {
            "resources": args.resource,
            "namespaces": args.namespace,
            "reason": args.reason,
            "rate": float(args.rate),
            "priority": int(args.priority),
            "allow_plaintext": args.allow_plaintext,
            "allow_empty": args.allow_empty,
            "since": args.since,
        }
        _require_stored(settings, args.resource)
        name = await request_start(settings, arguments)
    except (HostileArgumentError, ValueError) as error:
        message = str(error) if isinstance(error, HostileArgumentError) else "--rate and --priority must be numbers"
        raise SettingsError("command line", (Fault("campaign start", message, "see --help"),)) from None
    if args.output == "text":
        say(f"Requested: {name}")
    if args.wait:
        return await _follow(args, name)
    if args.output == "json":
        print_json({"request": name})
    else:
        say(f"Follow it with: rewrap campaign wait {name}")
    return Exit.DONE


def _require_stored(settings: Settings, resources: list[str]) -> None:
    """Raise SettingsError for a name that governs no resource under any configuration."""
    layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
    idle = {name: why for name in resources if (why := layout.why_idle(GroupResource.parse(name))) is not None}
    faults = [Fault("--resource", f"{name} governs nothing: {why}", remedy) for name, (why, remedy) in idle.items()]
    if faults:
        raise SettingsError("command line", faults)


async def _steer(args: argparse.Namespace) -> int:
    settings = read_settings(args, os.environ)
    done = await steer(settings, RequestKind(args.verb), (await _overview(args, settings, peek)).name)
    if done.state is RequestState.REFUSED:
        raise RefusedError(f"{args.verb} {args.name}: {done.because}")
    if args.output == "json":
        print_json({"campaign": done.campaign, "request": done.id, "because": done.because})
    else:
        say(f"{done.campaign}: {done.because}")
    return Exit.DONE


async def _overview(args: argparse.Namespace, settings: Settings, look_at: Look) -> Overview:
    """Return the records of the campaign or request that ID names. Raises SettingsError where there is none."""
    found = await _find(settings, args.name, look_at)
    if found is None:
        raise _unknown(args.name)
    return found


async def _find(settings: Settings, name: str, look_at: Look) -> Overview | None:
    try:
        return await look_at(settings, name_of(name, "ID"))
    except HostileArgumentError as error:
        raise SettingsError("command line", (Fault("ID", str(error), "see `rewrap campaign list`"),)) from None


def _unknown(name: str) -> SettingsError:
    message = f"there is no campaign or request {name}; a worker has to record those that come through the queue first"
    return SettingsError("command line", (Fault("ID", message, "see `rewrap campaign list`"),))


async def _list(args: argparse.Namespace) -> int:
    rows = await look_at_all(read_settings(args, os.environ))
    if args.output == "json":
        print_json({"campaigns": rows})
        return Exit.DONE
    heads = ("ID", "STATE", "BATCHES", "PLANNED", "BECAUSE")
    print_table(heads, [(row["id"], row["state"], row["batches"], row["at"], row["because"]) for row in rows])
    return Exit.DONE


async def _show(args: argparse.Namespace) -> int:
    found = await _overview(args, read_settings(args, os.environ), look)
    if args.output == "json":
        print_json(found.to_json())
        return Exit.DONE
    for name, value in found.lines():
        say(f"{name + ':':<15}{value}")
    if found.quarantined_total:
        say()
        print_left_alone(found.quarantined, found.quarantined_total, f"-o json names {len(found.quarantined):,}")
    say()
    print_table(
        ("RESOURCE", "NAMESPACE", "OBJECTS", "STATE"),
        [(row["resource"], row["namespace"], row["objects"], row["state"]) for row in found.namespaces],
    )
    return Exit.DONE


async def _follow(args: argparse.Namespace, name: str) -> int:
    """Wait until a campaign ends and print its end. Exit 3 when it is not complete."""
    settings = read_settings(args, os.environ)
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        found = await _find(settings, name, peek)
        if found is None and loop.time() > began + _TAKEN_UP_SECONDS:
            raise _unknown(name)
        if found is not None and found.is_end:
            break
        if args.timeout and loop.time() > began + args.timeout:
            state = f"it is {found.state}, {found.because}" if found else "no worker has recorded the request yet"
            raise UnavailableError(f"{name} has not ended in time: {state}")
        await asyncio.sleep(_FOLLOW_SECONDS)
    if args.output == "json":
        print_json((await _find(settings, name, look) or found).to_json())
    else:
        say(f"{found.name} is {found.state}: {found.because}")
    return Exit.DONE if found.is_complete else Exit.INCOMPLETE
