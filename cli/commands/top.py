"""`rewrap top`: one live screen of campaigns, workers, keys, kube-apiservers, etcd and the last events. Read only."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from shutil import get_terminal_size

from rich.console import Console

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_settings
from kube_rewrap.cli.output import print_json
from kube_rewrap.cli.running import run_async
from kube_rewrap.cli.top.screen import Form, draw
from kube_rewrap.cli.top.terminal import Terminal, require_terminal
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.logs import configure_logs
from kube_rewrap.config.settings.schema import LogSettings, Settings
from kube_rewrap.scheduler.top.gather import follow, look_once
from kube_rewrap.scheduler.top.snapshot import Snapshot
from kube_rewrap.worker.background import cancel_all

_LONGEST_INTERVAL = 3_600


def run(args: argparse.Namespace) -> int:
    """Show the screen until q, Ctrl-C or a signal, or one snapshot. Exit 2 where there is no terminal to show it."""
    if not 1 <= args.interval <= _LONGEST_INTERVAL:
        fault = Fault("--interval", "is out of range", f"give 1 to {_LONGEST_INTERVAL} seconds")
        raise SettingsError("command line", (fault,))
    settings = read_settings(args, os.environ)
    if args.output == "json" or args.once:
        return run_async(lambda: _once(settings, as_json=args.output == "json"))
    require_terminal()
    return run_async(lambda: _live(settings, args.interval))


async def _once(settings: Settings, *, as_json: bool) -> int:
    shown = await look_once(settings)
    if as_json:
        print_json(shown.to_json())
        return Exit.DONE
    console = Console(file=sys.stdout, highlight=False, markup=False, emoji=False)
    size = get_terminal_size()
    console.size = (size.columns, size.lines)
    for line in draw(shown, "", Form(size.columns, size.lines, ascii_only=console.options.ascii_only)):
        console.print(line, soft_wrap=True)
    return Exit.DONE


async def _live(settings: Settings, interval: int) -> int:
    if sys.stderr.isatty():
        # A line of the log would tear the screen; what can't be read is on it.
        configure_logs(LogSettings(level="critical"), "top")
    terminal, ended = Terminal(), asyncio.Event()
    last: tuple[Snapshot | None, str] = (None, "")

    def redraw() -> None:
        form = terminal.form
        terminal.draw(draw(*last, form), form)

    def show(shown: Snapshot | None, trouble: str) -> None:
        nonlocal last
        last = (shown or last[0], trouble)
        redraw()

    terminal.follow_keys(redraw, ended.set)
    with terminal.taken():
        redraw()
        following = asyncio.create_task(follow(settings, show, interval), name="top: looks")
        ending = asyncio.create_task(ended.wait(), name="top: keys")
        try:
            await asyncio.wait({following, ending}, return_when=asyncio.FIRST_COMPLETED)
            if not ending.done():
                await following  # it ends by an error only
        finally:
            await cancel_all(following, ending)
    return Exit.DONE
