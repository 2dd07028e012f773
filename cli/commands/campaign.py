"""`rewrap campaign`: start, follow and steer the campaigns of the service."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import add_output, add_settings, read_settings
from kube_rewrap.config.settings.flags import BROKER, ETCD

if TYPE_CHECKING:
    from kube_rewrap.config.settings.schema import Settings
    from kube_rewrap.scheduler.campaigns.status import Overview

_TAKEN_UP_SECONDS = 30.0
"""How long `wait` gives a worker to take up the message that asked for a campaign."""

_FOLLOW_SECONDS = 0.5
_VERBS = ("pause", "resume", "cancel")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verbs and their arguments."""
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")
    start = _verb(verbs, "start", "ask the scheduler for a campaign")
    start.add_argument("--resource", action="append", default=[], metavar="R", help="only this resource; repeatable")
    start.add_argument("--namespace", action="append", default=[], metavar="N", help="only this namespace; repeatable")
    start.add_argument("--reason", default="", metavar="TEXT", help="why, for the record")
    start.add_argument(
        "--rate", default="0", metavar="N", help="its own ceiling in objects a second (0 = the service's)"
    )
    start.add_argument("--priority", default="0", metavar="N", help="-100 to 100; higher begins earlier")
    start.add_argument("--allow-plaintext", action="store_true", help="let an identity primary decrypt stored objects")
    start.add_argument("--allow-empty", action="store_true", help="accept a namespace or resource without an object")
    _add_sending(start)
    _verb(verbs, "list", "show campaigns and requests")
    _add_name(_verb(verbs, "show", "show one campaign, with its namespaces"))
    wait = _verb(verbs, "wait", "wait until a campaign ends; exit 0 when it is complete, 3 when it is not")
    _add_name(wait)
    wait.add_argument("--timeout", type=float, default=0, metavar="SECONDS", help="wait no longer (0 = for ever)")
    for verb in _VERBS:
        steering = _verb(verbs, verb, f"{verb} a campaign")
        _add_name(steering)
        _add_sending(steering)


def _verb(
    verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, summary: str
) -> argparse.ArgumentParser:
    parser = verbs.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", allow_abbrev=False
    )
    add_settings(parser, ETCD, BROKER)
    add_output(parser)
    return parser


def _add_name(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="ID", help="the id of the campaign, or of the request that it came from")


def _add_sending(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--direct", action="store_true", help="write the request to etcd, without Redis and a worker")


def run(args: argparse.Namespace) -> int:
    """Do what the verb says. Exit 2 for an unknown campaign, 4 for what can't be done with it now."""
    from kube_rewrap.cli.running import run_async

    match args.verb:
        case "start":
            return run_async(lambda: _start(args))
        case "list":
            return run_async(lambda: _list(args))
        case "show":
            return run_async(lambda: _show(args))
        case "wait":
            return run_async(lambda: _wait(args))
    return run_async(lambda: _steer(args))


async def _start(args: argparse.Namespace) -> int:
    from kube_rewrap.cli.output import print_json, say
    from kube_rewrap.config.errors import Fault, SettingsError
    from kube_rewrap.scheduler.campaigns.client import ask_to_start, new_name
    from kube_rewrap.worker.records.request import HostileArgumentError

    settings = read_settings(args, os.environ)
    try:
        arguments: Mapping[str, object] = {
            "id": new_name(),
            "resources": args.resource,
            "namespaces": args.namespace,
            "reason": args.reason,
            "rate": float(args.rate),
            "priority": int(args.priority),
            "allow_plaintext": args.allow_plaintext,
            "allow_empty": args.allow_empty,
        }
        _require_stored(settings, args.resource)
        name = await ask_to_start(settings, arguments, direct=args.direct)
    except (HostileArgumentError, ValueError) as error:
        message = str(error) if isinstance(error, HostileArgumentError) else "--rate and --priority must be numbers"
        raise SettingsError("command line", (Fault("campaign start", message, "see --help"),)) from None
    if args.output == "json":
        print_json({"request": name, "direct": args.direct})
    else:
        say(f"Asked for: {name}")
        say(f"Follow it with: rewrap campaign wait {name}")
    return Exit.DONE


def _require_stored(settings: Settings, resources: list[str]) -> None:
    """Raise SettingsError for a name that governs nothing whatever the configuration says."""
    from kube_rewrap.config.encryption.resources import GroupResource, Layout
    from kube_rewrap.config.errors import Fault, SettingsError

    layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
    idle = {name: why for name in resources if (why := layout.why_idle(GroupResource.parse(name))) is not None}
    faults = [Fault("--resource", f"{name} governs nothing: {why}", remedy) for name, (why, remedy) in idle.items()]
    if faults:
        raise SettingsError("command line", faults)


async def _steer(args: argparse.Namespace) -> int:
    from kube_rewrap.cli.output import print_json, say
    from kube_rewrap.scheduler.campaigns.client import ask_to_steer
    from kube_rewrap.worker.errors import RefusedError
    from kube_rewrap.worker.records.request import RequestKind, RequestState

    settings = read_settings(args, os.environ)
    done = await ask_to_steer(settings, RequestKind(args.verb), await _known(args, settings), direct=args.direct)
    if done.state is RequestState.REFUSED:
        raise RefusedError(f"{args.verb} {args.name}: {done.because}")
    if args.output == "json":
        print_json({"campaign": done.campaign, "request": done.id, "because": done.because})
    else:
        say(f"{done.campaign}: {done.because}")
    return Exit.DONE


async def _known(args: argparse.Namespace, settings: Settings) -> str:
    """Return the name if there is such a campaign or request; raises SettingsError otherwise."""
    return (await _overview(args, settings)).name


async def _overview(args: argparse.Namespace, settings: Settings) -> Overview:
    found = await _find(args, settings)
    if found is None:
        raise _unknown(args)
    return found


async def _find(args: argparse.Namespace, settings: Settings) -> Overview | None:
    from kube_rewrap.config.errors import Fault, SettingsError
    from kube_rewrap.scheduler.campaigns.status import look
    from kube_rewrap.worker.records.request import HostileArgumentError, name_of

    try:
        return await look(settings, name_of(args.name, "ID"))
    except HostileArgumentError as error:
        raise SettingsError("command line", (Fault("ID", str(error), "see `rewrap campaign list`"),)) from None


def _unknown(args: argparse.Namespace) -> Exception:
    from kube_rewrap.config.errors import Fault, SettingsError

    message = f"there is no campaign or request {args.name}; one that was just asked for waits for a worker to take it"
    return SettingsError("command line", (Fault("ID", message, "see `rewrap campaign list`"),))


async def _list(args: argparse.Namespace) -> int:
    from kube_rewrap.cli.output import print_json, print_table
    from kube_rewrap.scheduler.campaigns.status import look_at_all

    rows = await look_at_all(read_settings(args, os.environ))
    if args.output == "json":
        print_json({"campaigns": rows})
        return Exit.DONE
    heads = ("ID", "STATE", "BATCHES", "PLANNED", "BECAUSE")
    print_table(heads, [(row["id"], row["state"], row["batches"], row["at"], row["because"]) for row in rows])
    return Exit.DONE


async def _show(args: argparse.Namespace) -> int:
    from kube_rewrap.cli.output import print_json, print_table, say
    from kube_rewrap.cli.reports import print_left_alone

    found = await _overview(args, read_settings(args, os.environ))
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


async def _wait(args: argparse.Namespace) -> int:
    import asyncio
    import math

    from kube_rewrap.cli.output import print_json, say
    from kube_rewrap.config.errors import Fault, SettingsError
    from kube_rewrap.worker.errors import UnavailableError

    settings = read_settings(args, os.environ)
    if not 0 <= args.timeout < math.inf:
        fault = Fault("--timeout", "is no number of seconds from 0 on", "0 waits for ever")
        raise SettingsError("command line", (fault,))
    loop = asyncio.get_running_loop()
    began = loop.time()
    while True:
        found = await _find(args, settings)
        if found is None and loop.time() > began + _TAKEN_UP_SECONDS:
            raise _unknown(args)
        if found is not None and found.is_end:
            break
        if args.timeout and loop.time() > began + args.timeout:
            state = f"it is {found.state}, {found.because}" if found else "no worker has taken up the message yet"
            raise UnavailableError(f"{args.name} has not ended in time: {state}")
        await asyncio.sleep(_FOLLOW_SECONDS)
    if args.output == "json":
        print_json(found.to_json())
    else:
        say(f"{found.name} is {found.state}: {found.because}")
    return Exit.DONE if found.is_complete else Exit.INCOMPLETE
