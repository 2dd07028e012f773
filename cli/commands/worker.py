"""`rewrap worker`: the daemon that rewrites batches.

The same as `celery -A kube_rewrap.worker.queue.app worker`, with our flags.
"""

from __future__ import annotations

import argparse
import os

from kube_rewrap.cli.options import environment_of, read_configuration_path, read_settings, read_sources
from kube_rewrap.config.settings.logs import configure_logs, log_start
from kube_rewrap.worker.queue.app import build_app, from_environment, run_worker


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM; then finish the current slices. Returns 1 after a fault."""
    settings = read_settings(args, os.environ)  # refused here, with a message, rather than in every child
    sources = read_sources(args, os.environ)
    os.environ.update(environment_of(args, os.environ))  # a child reads its settings there
    app = build_app(from_environment())
    configure_logs(settings.log, "worker")
    log_start(settings, sources, read_configuration_path(args, os.environ))
    return run_worker(app)
