"""`rewrap scheduler`: the daemon that notices changes, plans campaigns and follows them to their proof."""

from __future__ import annotations

import argparse
import os

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_configuration_path, read_settings, read_sources
from kube_rewrap.cli.running import brake_on_signals, run_async
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.broker import parse_broker
from kube_rewrap.config.settings.logs import log_start
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.daemon.process import Daemon
from kube_rewrap.worker.queue.app import warn_of_clear_text


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM or SIGINT. Several schedulers may run at once: one leads, the others wait."""
    settings = read_settings(args, os.environ)
    return run_async(lambda: _run(args, settings), "scheduler", settings.log)


async def _run(args: argparse.Namespace, settings: Settings) -> int:
    if settings.rotation.auto and not settings.apiservers.addresses:
        message = "needs the addresses of all kube-apiservers: each must report the new file before its key may write"
        raise SettingsError("settings", (Fault("rotation.auto", message, "give --apiserver, or turn it off"),))
    warn_of_clear_text(parse_broker(settings.broker))  # refused now: later it would look like an unavailable Redis
    file = read_configuration_path(args, os.environ)
    log_start(settings, read_sources(args, os.environ), file)
    brake = brake_on_signals("; another scheduler, or this one after a restart, continues")
    await Daemon(settings, file, brake, allow_readable=args.allow_readable_config).run()
    return Exit.DONE
