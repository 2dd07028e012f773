"""`rewrap run`: bring everything under the primary keys with this process alone, and prove it."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import (
    add_configuration,
    add_output,
    add_settings,
    add_switch,
    read_generation,
    read_settings,
)
from kube_rewrap.config.settings.flags import APISERVERS, BUDGET, ETCD, PACE, SPACE, variable

if TYPE_CHECKING:
    from kube_rewrap.scheduler.campaigns.run import Order, RunPlan, RunResult
    from kube_rewrap.scheduler.keys.removal import KeyVerdict


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--resource", action="append", default=[], metavar="R", help="only this resource; may be repeated"
    )
    parser.add_argument(
        "--namespace", action="append", default=[], metavar="N", help="only this namespace; may be repeated"
    )
    add_switch(parser, "--dry-run", "show the plan; write nothing at all to etcd")
    add_switch(parser, "--allow-plaintext", "let an identity primary decrypt stored objects")
    add_switch(parser, "--allow-empty", "accept a --namespace or --resource that holds no object")
    add_switch(parser, "--wait", "wait for another run instead of refusing")
    add_configuration(parser)
    add_settings(parser, ETCD, PACE, SPACE, BUDGET, APISERVERS)
    add_output(parser)


def run(args: argparse.Namespace) -> int:
    """Plan, rewrap, prove. Exit 3 when the proof is not complete, 4 when it is not safe to go on."""
    from kube_rewrap.cli.running import run_async

    return run_async(lambda: _run(args))


async def _run(args: argparse.Namespace) -> int:
    from kube_rewrap.cli.output import print_json
    from kube_rewrap.cli.progress import open_progress
    from kube_rewrap.cli.running import brake_on_signals
    from kube_rewrap.scheduler.apiservers.probe import converged_by, not_converged
    from kube_rewrap.scheduler.campaigns.run import Order
    from kube_rewrap.scheduler.campaigns.service import open_service
    from kube_rewrap.scheduler.keys.removal import judge_keys
    from kube_rewrap.scheduler.rotation.probes import look_around
    from kube_rewrap.worker.errors import RefusedError
    from kube_rewrap.worker.records.campaign import Wish

    settings, generation = read_settings(args, os.environ), read_generation(args, os.environ)
    resources = args.resource or os.environ.get(variable("--resource"), "").replace(",", " ").split()
    namespaces = args.namespace or os.environ.get(variable("--namespace"), "").replace(",", " ").split()
    wish = Wish(allow_plaintext=args.allow_plaintext, allow_empty=args.allow_empty)
    order = Order(tuple(resources), tuple(namespaces), wish, args.wait)
    brake = brake_on_signals(" after the swaps in flight; run again to resume")
    as_json = args.output == "json"
    async with open_service(settings, generation) as service:
        converged = converged_by(settings, service.engine.store, generation.file)
        unconverged = await brake.unless_pulled(not_converged(converged, generation.hash))
        plan = await brake.unless_pulled(service.plan(order))
        if args.dry_run:
            return _show_plan(plan, settings.pace.rate, order, as_json=as_json)
        if not as_json:
            _print_plan(plan, settings.pace.rate, order)
        # Refused or not: what a restore concerns is marked while etcd still tells.
        await brake.unless_pulled(service.note_restore())
        plan.require_safe()
        if settings.apiservers.addresses and unconverged:
            raise RefusedError(
                f"{unconverged}. What is rewritten now, one of them may be unable to read; see `rewrap converged`"
            )
        async with service.owned(order, brake) as lock:
            if lock.waited:
                plan = await brake.unless_pulled(service.plan(order))
            with open_progress(plan.found.stale, sys.stderr) as watcher:
                result = await service.run(plan, order, lock, brake, watcher)
        around = await look_around(service, unconverged, whole=order.covers_everything)
    keys = judge_keys(result.proof, around)
    if as_json:
        print_json(_result_json(result, keys, order))
    else:
        _print_result(result, keys, order)
    return Exit.DONE if result.proof.is_clean else Exit.INCOMPLETE


def _show_plan(plan: RunPlan, rate: float, order: Order, *, as_json: bool) -> int:
    """Print a plan that is not carried out. Exit 4 when it would be refused."""
    from kube_rewrap.cli.output import print_json

    if as_json:
        print_json(_plan_json(plan))
    else:
        _print_plan(plan, rate, order)
    return Exit.REFUSED if plan.refusals else Exit.DONE


def _plan_json(plan: RunPlan) -> dict[str, object]:
    from kube_rewrap.cli.reports import status_json

    return {
        "dry_run": True,
        "resumes": plan.resumes.value.id if plan.resumes else None,
        "to_rewrite": plan.found.stale,
        "bytes": plan.found.stale_bytes,
        "projected_bytes": plan.room.projected,
        "quota_bytes": plan.room.quota,
        "refusals": [str(refusal) for refusal in plan.refusals],
        **status_json(plan.found),
    }


def _result_json(result: RunResult, keys: list[KeyVerdict], order: Order) -> dict[str, object]:
    from kube_rewrap.cli.reports import proof_json
    from kube_rewrap.worker.records.inventory import counts_json

    report = result.report
    return {
        "campaign": result.campaign.id,
        "state": result.campaign.state.value,
        "because": result.campaign.because,
        "scope": {
            "resources": list(result.campaign.scope.resources),
            "namespaces": list(result.campaign.scope.namespaces),
            "everything": order.covers_everything,
        },
        "rewritten": report.rewritten,
        "current": report.current,
        "conflicts": report.conflicts,
        "unknown": report.unknown,
        "gone": report.gone,
        "encryptions": report.encryptions,
        "bytes": report.bytes,
        "quarantined": [one.to_json() for one in result.quarantined],
        "quarantined_total": result.quarantined_total,
        "quarantined_by": counts_json(result.quarantined_by),
        "seconds": round(result.seconds, 3),
        "proof": proof_json(result.proof, keys),
    }


def _print_plan(plan: RunPlan, rate: float, order: Order) -> None:
    from kube_rewrap.cli.output import print_table, say

    print_table(
        ("RESOURCE", "OBJECTS", "TO REWRITE", "UNREADABLE", "PRIMARY"),
        [
            (tally.resource, tally.objects, tally.stale, tally.unreadable, tally.primary)
            for tally in plan.found.resources
        ],
    )
    say()
    pace = f"at most {rate:,.0f} a second, so at least {plan.found.stale / rate:,.0f} s" if rate else "no rate ceiling"
    where = f" in namespace {', '.join(order.namespaces)}" if order.namespaces else ""
    say(f"Plan: rewrite {plan.found.stale:,} of {plan.found.objects:,} objects{where}; {pace}.")
    if plan.room.quota:
        say(f"etcd would hold {plan.room.projected / 2**20:,.0f} MiB of {plan.room.quota / 2**20:,.0f} MiB.")
    if plan.resumes:
        say(f"Resumes the unfinished campaign {plan.resumes.value.id}.")
    for path in plan.found.unknown:
        say(f"Nobody knows whose objects lie under {path}: they are left alone, and the proof can't be complete.")
    for refusal in plan.refusals:
        say(f"Refused: {refusal}")
    say()


def _print_result(result: RunResult, keys: list[KeyVerdict], order: Order) -> None:
    from kube_rewrap.cli.output import say
    from kube_rewrap.cli.reports import SHOWN, print_counts, print_left_alone, print_proof

    report, quarantined = result.report, result.quarantined_total
    speed = result.rewritten_now / result.seconds if result.seconds else 0.0
    say(
        f"Campaign {result.campaign.id}: {report.rewritten:,} rewritten, {report.current:,} already current, "
        f"{report.conflicts:,} conflicts, {report.gone:,} gone, {quarantined:,} in quarantine; "
        f"{result.seconds:.1f} s, {speed:,.0f} a second"
    )
    print_left_alone(result.quarantined, quarantined, f"-o json names {len(result.quarantined):,}")
    if quarantined > SHOWN:
        print_counts(result.quarantined_by)
    say()
    if not order.covers_everything:
        scope = result.campaign.scope
        where = f" in namespace {', '.join(scope.namespaces)}" if scope.namespaces else ""
        say(f"Only {', '.join(scope.resources)}{where} was looked at; nothing is said about the rest.")
    print_proof(result.proof, keys)
