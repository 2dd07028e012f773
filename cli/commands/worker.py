"""`rewrap worker`: the daemon that rewrites batches.

The same as `celery -A kube_rewrap.worker.queue.app worker`, with our flags.
"""

from __future__ import annotations

import argparse
import os

from kube_rewrap.cli.options import environment_of, read_settings
from kube_rewrap.worker.queue.app import build_app, from_environment, run_worker


def run(args: argparse.Namespace) -> int:
    """Run until SIGTERM; then finish the current slices. Returns 1 after a fault."""
    read_settings(args, os.environ)  # refused here, with a message, rather than in every child
    os.environ.update(environment_of(args, os.environ))  # a child reads its settings there
    return run_worker(build_app(from_environment()))
