"""`rewrap worker`: the daemon that rewrites batches.

The same as `celery -A kube_rewrap.worker.queue.app worker`, with our flags.
"""

from __future__ import annotations

import argparse
import os

from kube_rewrap.cli.options import read_configuration_path, read_settings
from kube_rewrap.config.settings.flags import variable
from kube_rewrap.worker.queue.app import build_app, from_environment, run_worker


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM; then finish the current slices. Returns 1 after a fault."""
    read_settings(args, os.environ)  # refused here, with a message, rather than in every child
    # A child reads its settings from the environment, so the flags go there.
    os.environ[variable("--encryption-config")] = read_configuration_path(args, os.environ)
    if args.allow_readable_config:
        os.environ[variable("--allow-readable-config")] = "1"
    if args.settings:
        os.environ[variable("--settings")] = args.settings
    for flag in args.flags:
        given = getattr(args, flag.name.removeprefix("--").replace("-", "_"))
        if given is not None:
            os.environ[flag.variable] = given

    return run_worker(build_app(from_environment()))
