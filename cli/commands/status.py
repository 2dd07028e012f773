"""`rewrap status`: counts every governed object by its key. Read only.

It decrypts all but values under KMS, which it counts by the key that they name, so that no plugin is needed: `verify`
opens them.
"""

from __future__ import annotations

import argparse
import os

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_generation, read_settings
from kube_rewrap.cli.output import print_json, say
from kube_rewrap.cli.reports import print_inventory, status_json
from kube_rewrap.cli.running import brake_on_signals, run_async
from kube_rewrap.scheduler.campaigns.plugin_calls import calls_to_read
from kube_rewrap.scheduler.registry.cluster import open_cluster_to_look
from kube_rewrap.scheduler.registry.scan import scan_cluster


def run(args: argparse.Namespace) -> int:
    """Scan and print. Exit 0 regardless of the counts: `verify` judges them."""
    return run_async(lambda: _status(args))


async def _status(args: argparse.Namespace) -> int:
    settings, generation = read_settings(args, os.environ), read_generation(args, os.environ)
    brake = brake_on_signals()
    async with open_cluster_to_look(settings, generation) as cluster:
        _, found = await brake.unless_pulled(scan_cluster(cluster, peeks=True))
    calls = calls_to_read(found, settings.kms)
    if args.output == "json":
        print_json({**status_json(found), "kms_calls": [one.to_json() for one in calls]})
    else:
        print_inventory(found)
        for one in calls:
            say(f"To open what is under KMS takes {one}.")
    return Exit.DONE
