"""`rewrap verify`: the proof scan, and which keys could go. Read only."""

from __future__ import annotations

import argparse
import os

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import add_configuration, add_output, add_settings, read_generation, read_settings
from kube_rewrap.config.settings.flags import APISERVERS, ETCD


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_configuration(parser)
    add_settings(parser, ETCD, APISERVERS)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Scan, judge and print. Exit 3 when anything is stale or unreadable."""
    from kube_rewrap.cli.running import run_async

    return run_async(lambda: _verify(args))


async def _verify(args: argparse.Namespace) -> int:
    from kube_rewrap.cli.output import print_json
    from kube_rewrap.cli.reports import print_proof, proof_json
    from kube_rewrap.cli.running import brake_on_signals
    from kube_rewrap.scheduler.apiservers.probe import converged_by, not_converged
    from kube_rewrap.scheduler.campaigns.service import open_service
    from kube_rewrap.scheduler.keys.removal import judge_keys
    from kube_rewrap.scheduler.rotation.probes import look_around

    settings, generation = read_settings(args, os.environ), read_generation(args, os.environ)
    brake = brake_on_signals()
    async with open_service(settings, generation) as service:
        # Asked before the scan: what a kube-apiserver that lags behind writes until then, the scan sees.
        converged = converged_by(settings, service.engine.store, generation.file)
        unconverged = await brake.unless_pulled(not_converged(converged, generation.hash))
        _, proof = await brake.unless_pulled(service.inventory())
        keys = judge_keys(proof, await look_around(service, unconverged, whole=True))
    if args.output == "json":
        print_json(proof_json(proof, keys))
    else:
        print_proof(proof, keys)
    return Exit.DONE if proof.is_clean else Exit.INCOMPLETE
