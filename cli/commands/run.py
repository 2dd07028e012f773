"""`rewrap run`: rewraps every object in scope with this process alone, and proves it."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import environment_of, read_generation, read_settings
from kube_rewrap.cli.output import print_json, print_sentence, print_table, say
from kube_rewrap.cli.parser import MANY_OBJECTS
from kube_rewrap.cli.progress import open_progress
from kube_rewrap.cli.reports import SHOWN, print_counts, print_left_alone, print_proof, proof_json, status_json
from kube_rewrap.cli.running import brake_on_signals, run_async
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.scheduler.campaigns.embedded import run_embedded
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.planning import foresee_run, plan_run
from kube_rewrap.scheduler.campaigns.run import RunPlan, RunResult
from kube_rewrap.scheduler.dispatch.processes import ChildCommand
from kube_rewrap.scheduler.keys.removal import KeyVerdict
from kube_rewrap.scheduler.keys.removal_facts import ask_apiservers, judge_removal
from kube_rewrap.scheduler.registry.arguments import require_spec
from kube_rewrap.scheduler.registry.budgets import note_restore
from kube_rewrap.scheduler.registry.cluster import open_cluster
from kube_rewrap.scheduler.registry.keks import note_keks
from kube_rewrap.scheduler.registry.scope import CampaignSpec
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.records.campaign import CampaignOptions
from kube_rewrap.worker.records.inventory import counts_json

_MOST_PROCESSES = 64

# -P: without it, a child would import modules from the working directory, which may be anyone's.
CHILD = (sys.executable, "-P", "-m", "kube_rewrap.cli.child")
"""The program of a child process."""


def run(args: argparse.Namespace) -> int:
    """Plan, rewrap, prove. Exit 3 when the proof is not complete, 4 when the run is refused for safety."""
    return run_async(lambda: _run(args), "run")


async def _run(args: argparse.Namespace) -> int:
    settings, generation = read_settings(args, os.environ), read_generation(args, os.environ)
    options = CampaignOptions(allow_plaintext=args.allow_plaintext, allow_empty=args.allow_empty, since=args.since)
    if not 0 <= args.processes <= _MOST_PROCESSES:
        fault = Fault("--processes", "is out of range", f"give 1 to {_MOST_PROCESSES}, or 0 for the default")
        raise SettingsError("command line", (fault,))
    spec = CampaignSpec(tuple(args.resource), tuple(args.namespace), options)
    brake = brake_on_signals()
    as_json = args.output == "json"
    if not spec.covers_everything:
        await brake.unless_pulled(require_spec(settings, generation, spec))
    async with open_cluster(settings, generation) as cluster:
        convergence = await brake.unless_pulled(ask_apiservers(cluster, settings))
        if args.dry_run:
            plan = await brake.unless_pulled(foresee_run(cluster, spec))
            return _show_plan(plan, settings.pace.rate, spec, as_json=as_json)
        plan = await brake.unless_pulled(plan_run(cluster, spec))
        if not as_json:
            _print_plan(plan, settings.pace.rate, spec)
        # Even if the run is refused: mark the budgets of a restored etcd while the restore can still be detected.
        await brake.unless_pulled(note_restore(cluster))
        await brake.unless_pulled(note_keks(cluster))
        plan.require_safe()
        if settings.apiservers.addresses and not convergence.is_converged:
            raise RefusedError(
                f"{convergence.blocker}. One of them may be unable to read objects that are rewritten now; "
                "see `rewrap converged`"
            )
        async with hold_lock(cluster, brake, wait=args.wait) as lock:
            if lock.waited:
                plan = await brake.unless_pulled(plan_run(cluster, spec))
            plan = replace(plan, convergence=convergence.blocker or convergence.because)
            with open_progress(plan.found.stale, sys.stderr) as watcher:
                children = _children(args, plan)
                result = await run_embedded(cluster, plan, lock, brake, watcher, children=children)
        keys = (await judge_removal(cluster, convergence, result.proof, whole=spec.covers_everything)).keys
    if as_json:
        print_json(_result_json(result, keys, spec))
    else:
        _print_result(result, keys, spec)
    return Exit.DONE if result.proof.is_clean else Exit.INCOMPLETE


def _children(args: argparse.Namespace, plan: RunPlan) -> list[ChildCommand]:
    """Return how to start the child processes; none for a run in this process alone."""
    count = args.processes or (max(2, len(os.sched_getaffinity(0)) - 1) if plan.found.stale >= MANY_OBJECTS else 1)
    if count == 1:
        return []
    return [ChildCommand(CHILD, {**os.environ, **environment_of(args, os.environ)})] * count


def _show_plan(plan: RunPlan, rate: float, spec: CampaignSpec, *, as_json: bool) -> int:
    """Print the plan of `--dry-run`. Exit 4 when the run would be refused."""
    if as_json:
        print_json(_plan_json(plan))
    else:
        _print_plan(plan, rate, spec)
    return Exit.REFUSED if plan.refusals else Exit.DONE


def _plan_json(plan: RunPlan) -> dict[str, object]:
    return {
        "dry_run": True,
        "resumes": plan.resumes.value.id if plan.resumes else None,
        "to_rewrite": plan.found.stale,
        "outdated": plan.found.outdated,
        "since": plan.options.since or None,
        "bytes": plan.found.stale_bytes,
        "growth_bytes": plan.growth,
        "projected_bytes": plan.room.projected,
        "quota_bytes": plan.room.quota,
        "kms_calls": [one.to_json() for one in plan.calls],
        "warnings": list(plan.warnings),
        "refusals": [str(refusal) for refusal in plan.refusals],
        **status_json(plan.found),
    }


def _result_json(result: RunResult, keys: Sequence[KeyVerdict], spec: CampaignSpec) -> dict[str, object]:
    report = result.report
    return {
        "campaign": result.campaign.id,
        "state": result.campaign.state.value,
        "because": result.campaign.because,
        "scope": {
            "resources": list(result.campaign.scope.resources),
            "namespaces": list(result.campaign.scope.namespaces),
            "everything": spec.covers_everything,
        },
        "since": result.campaign.options.since or None,
        "rewritten": report.rewritten,
        "rewritten_by_this_run": result.rewritten_now,
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


def _print_plan(plan: RunPlan, rate: float, spec: CampaignSpec) -> None:
    print_table(
        ("RESOURCE", "OBJECTS", "TO REWRITE", "UNREADABLE", "PRIMARY"),
        [
            (tally.resource, tally.objects, tally.stale, tally.unreadable, tally.primary)
            for tally in plan.found.resources
        ],
    )
    say()
    pace = f"at most {rate:,.0f} a second, so at least {plan.found.stale / rate:,.0f} s" if rate else "no rate ceiling"
    where = f" in namespace {', '.join(spec.namespaces)}" if spec.namespaces else ""
    say(f"Plan: rewrite {plan.found.stale:,} of {plan.found.objects:,} objects{where}; {pace}.")
    for one in plan.calls:
        say(f"{one}.")
    if plan.options.since:
        say(
            f"{plan.found.outdated:,} of these are under their primary, and were last written at or before revision "
            f"{plan.options.since}."
        )
    if plan.growth:
        say(f"The KMS provider makes the objects {_size(plan.growth)} larger in all.")
    if plan.room.quota:
        say(f"etcd would hold {plan.room.projected / 2**20:,.0f} MiB of {plan.room.quota / 2**20:,.0f} MiB.")
    if plan.resumes:
        say(f"Resumes the unfinished campaign {plan.resumes.value.id}.")
    for path in plan.found.unknown:
        say(f"No resource is known for the objects under {path}: they are left alone, and the proof can't be complete.")
    for warning in plan.warnings:
        print_sentence(f"Warning: {warning}")
    for refusal in plan.refusals:
        print_sentence(f"Refused: {refusal}")
    say()


def _size(number: int) -> str:
    return f"{number / 2**20:,.1f} MiB" if number >= 2**20 else f"{number / 2**10:,.1f} KiB"


def _print_result(result: RunResult, keys: Sequence[KeyVerdict], spec: CampaignSpec) -> None:
    report, quarantined = result.report, result.quarantined_total
    speed = result.rewritten_now / result.seconds if result.seconds else 0.0
    pace = f"{result.seconds:.1f} s, {speed:,.0f} a second"
    if result.is_resumed:
        say(f"This run resumed the campaign: {result.rewritten_now:,} rewritten; {pace}")
    say(
        f"Campaign {result.campaign.id}: {report.rewritten:,} rewritten, {report.current:,} already current, "
        f"{report.conflicts:,} conflicts, {report.gone:,} gone, {quarantined:,} in quarantine; "
        + (f"with the runs before, in {timedelta(seconds=result.campaign.seconds or 0)}" if result.is_resumed else pace)
    )
    print_left_alone(result.quarantined, quarantined, f"-o json names {len(result.quarantined):,}")
    if quarantined > SHOWN:
        print_counts(result.quarantined_by)
    say()
    if not spec.covers_everything:
        scope = result.campaign.scope
        where = f" in namespace {', '.join(scope.namespaces)}" if scope.namespaces else ""
        say(f"This run covered only {', '.join(scope.resources)}{where}; its result says nothing about other objects.")
    if since := result.campaign.options.since:
        say(
            f"This run also rewrote objects under their primary that were last written at or before revision {since}: "
            f"{result.proof.outdated:,} of them are left."
        )
    print_proof(result.proof, keys)
