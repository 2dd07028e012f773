"""`rewrap campaign`: requests, shows and controls campaigns of the service."""

from __future__ import annotations

import argparse
import asyncio
import math
import os
import shutil
import sys
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_settings
from kube_rewrap.cli.output import print_json, print_table, print_to_stderr, say
from kube_rewrap.cli.progress import open_progress
from kube_rewrap.cli.reports import SHOWN, print_left_alone
from kube_rewrap.cli.running import run_async
from kube_rewrap.config.encryption.resources import GroupResource, Layout
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.client import request_start, steer
from kube_rewrap.scheduler.campaigns.progress import Watcher
from kube_rewrap.scheduler.campaigns.status import Overview, look, look_at_all, peek
from kube_rewrap.worker.errors import RefusedError, UnavailableError
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.request import HostileArgumentError, RequestKind, RequestState, name_of

_TAKEN_UP_SECONDS = 30.0
"""How long `wait` waits for a worker to record a request that another program sent through the queue."""

_FOLLOW_SECONDS = 0.5
_LOOK_SECONDS = 1.5
_IDLE_SECONDS = 15.0
_FEW = 6
"""Most rows of a list that `show` prints without --namespaces, so that all fits a terminal."""

_SCREEN, _COLUMNS = 23, 80
"""Lines of a terminal above the prompt, and its columns."""

_LABEL = 15

_WIDE = 120
"""Columns of a terminal that has room for the reasons in `list`."""

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
    heads = ("ID", "STATE", "SCOPE", "ENDED", "TOOK", "BECAUSE")
    cells = [(row["id"], row["state"], _scope(row), row["ended_at"] or "", _took(row), row["because"]) for row in rows]
    if sys.stdout.isatty() and shutil.get_terminal_size().columns < _WIDE:
        print_table(heads[:-1], [row[:-1] for row in cells])
        say("`rewrap campaign show ID` gives the reason of a state.")
    else:
        print_table(heads, cells)
    return Exit.DONE


def _scope(row: Mapping[str, object]) -> str:
    """Return a campaign's scope in a few letters."""
    names: dict[str, tuple[str, ...]] = {
        what: tuple(listed) for what in ("resources", "namespaces") if isinstance(listed := row[what], list)
    }
    resources, namespaces = names["resources"], names["namespaces"]
    if not resources and not namespaces:
        return "everything" if row["kind"] == "request" else ""
    what = resources[0] if len(resources) == 1 else f"{len(resources)} resources" if resources else "everything"
    where = f" in {namespaces[0] if len(namespaces) == 1 else f'{len(namespaces)} namespaces'}" if namespaces else ""
    return f"{what}{where}"


def _took(row: Mapping[str, object]) -> str:
    return str(timedelta(seconds=row["seconds"])) if isinstance(row["seconds"], int) else ""


async def _show(args: argparse.Namespace) -> int:
    found = await _overview(args, read_settings(args, os.environ), look)
    if args.output == "json":
        print_json(found.to_json())
        return Exit.DONE
    if args.namespaces:
        _print_all(found)
    else:
        _print_screen(found, shutil.get_terminal_size().columns if sys.stdout.isatty() else 0)
    return Exit.DONE


def _print_all(found: Overview) -> None:
    for name, value in found.lines():
        say(f"{name + ':':<{_LABEL}}{value}")
    if found.quarantined_total:
        say()
        _print_quarantine(found, SHOWN)
    say()
    print_table(
        ("RESOURCE", "NAMESPACE", "OBJECTS", "STATE"),
        [(row["resource"], row["namespace"], row["objects"], row["state"]) for row in found.namespaces],
    )


def _print_screen(found: Overview, columns: int) -> None:
    """Print what fits a terminal of 24 lines and so many columns. 0: there is no terminal, and nothing is cut."""
    head = [(name, _cut(name, str(value), columns)) for name, value in found.lines(most=1)]
    for name, value in head:
        say(f"{name + ':':<{_LABEL}}{value}")
    resources, left_alone = found.resources, found.quarantined_total
    # Below the head: the table's head, the last line, and a blank one before each part.
    room = _SCREEN - 3 - sum(1 + (_LABEL + len(value) > max(columns, _COLUMNS)) for _, value in head)
    rows = min(len(resources), _FEW, max(1, room // 2 if left_alone else room))
    listed = min(_FEW, (room - rows - 2) // 2)  # a reason takes two lines, and one says how many are not shown
    if left_alone and listed > 0:
        say()
        _print_quarantine(found, listed)
    say()
    print_table(("RESOURCE", "OBJECTS", "PROCESSED", "BATCHES", "DONE"), resources[:rows])
    more = f"{len(resources) - rows:,} more resources, and " if len(resources) > rows else ""
    say(f"--namespaces shows {more}the state of each namespace.")


def _cut(name: str, value: str, columns: int) -> str:
    """Return a value that takes one line, and a reason two."""
    room = columns * (2 if name == "because" else 1) - _LABEL
    return value if not columns or len(value) <= room else f"{value[: max(0, room - 3)]}..."


def _print_quarantine(found: Overview, shown: int) -> None:
    remedy = f"-o json names {len(found.quarantined):,}"
    print_left_alone(found.quarantined, found.quarantined_total, remedy, shown)


async def _follow(args: argparse.Namespace, name: str) -> int:
    """Wait until a campaign ends, and print its end; show what it waits for. Exit 3 when it is not complete."""
    settings = read_settings(args, os.environ)
    loop = asyncio.get_running_loop()
    began = loop.time()
    with open_progress(None, sys.stderr) as watcher:
        waiting = _Waiting(settings, watcher, loop.time)
        while True:
            found = await _find(settings, name, peek)
            if found is None and loop.time() > began + _TAKEN_UP_SECONDS:
                raise _unknown(name)
            if found is not None and found.is_end:
                break
            if args.timeout and loop.time() > began + args.timeout:
                state = f"it is {found.state}, {found.because}" if found else "no worker has recorded the request yet"
                raise UnavailableError(f"{name} has not ended in time: {state}")
            await waiting.show(name, found)
            await asyncio.sleep(_FOLLOW_SECONDS)
    if args.output == "json":
        print_json((await _find(settings, name, look) or found).to_json())
    else:
        say(f"{found.name} is {found.state}: {found.because}")
    return Exit.DONE if found.is_complete else Exit.INCOMPLETE


class _Waiting:
    """Shows on stderr what a campaign waits for: a line when that changes, and a bar on a terminal."""

    def __init__(self, settings: Settings, watcher: Watcher, clock: Callable[[], float]) -> None:
        self._settings = settings
        self._look_at = 0.0
        self._watcher = watcher
        self._clock = clock
        self._shown = ""
        self._processed, self._moved_at = 0, clock()

    async def show(self, name: str, found: Overview | None) -> None:
        """Show the campaign, or the request that `name` is; None = it is not on record yet."""
        if found is None:
            self._line(f"{name}: no worker has recorded the request yet")
            return
        self._line(f"{found.name} is {found.state}: {found.because}")
        if self._clock() >= self._look_at:
            self._look_at = self._clock() + _LOOK_SECONDS  # it reads all batches
            whole = await look(self._settings, name)
            if whole is not None and whole.campaign is not None:
                self._watch(whole, whole.campaign)

    def _watch(self, whole: Overview, campaign: Campaign) -> None:
        self._watcher(campaign, whole.standing)
        processed = whole.standing.done
        if processed != self._processed or campaign.state is not CampaignState.RUNNING or whole.workers:
            self._processed, self._moved_at = processed, self._clock()
        elif self._clock() > self._moved_at + _IDLE_SECONDS:
            self._line(f"{whole.name} waits for a worker: none is at work on it. Is one up, with this configuration?")
            self._moved_at = math.inf

    def _line(self, line: str) -> None:
        if line != self._shown:
            self._shown = line
            print_to_stderr(line)
