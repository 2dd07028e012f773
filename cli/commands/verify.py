"""`rewrap verify`: the proof scan, and which keys are removable. Read only."""

from __future__ import annotations

import argparse
import os

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import read_generation, read_settings
from kube_rewrap.cli.output import print_json
from kube_rewrap.cli.reports import print_proof, proof_json
from kube_rewrap.cli.running import brake_on_signals, run_async
from kube_rewrap.scheduler.keys.removal_facts import removal_verdicts
from kube_rewrap.scheduler.registry.cluster import open_cluster


def run(args: argparse.Namespace) -> int:
    """Scan, judge and print. Exit 3 when an object is stale or unreadable, or a path's resource is unknown."""
    return run_async(lambda: _verify(args))


async def _verify(args: argparse.Namespace) -> int:
    settings, generation = read_settings(args, os.environ), read_generation(args, os.environ)
    brake = brake_on_signals()
    async with open_cluster(settings, generation) as cluster:
        judged = await brake.unless_pulled(removal_verdicts(cluster, settings))
    if args.output == "json":
        print_json(proof_json(judged.proof, judged.keys))
    else:
        print_proof(judged.proof, judged.keys)
    return Exit.DONE if judged.proof.is_clean else Exit.INCOMPLETE
