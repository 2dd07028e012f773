"""`rewrap audit`: the hardening checklist of encryption at rest. Read only."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence

from kube_rewrap.cli.exit_codes import Exit
from kube_rewrap.cli.options import generation_of, read_configuration_path, read_settings
from kube_rewrap.cli.output import print_items, print_json, print_sentence, print_table, say
from kube_rewrap.cli.running import brake_on_signals, run_async
from kube_rewrap.scheduler.hardening.checklist import judge, summarise
from kube_rewrap.scheduler.hardening.facts import Ages, Check, HardeningFacts
from kube_rewrap.scheduler.hardening.standards import REFERENCES, Severity, finding_json, reaches, severity_of
from kube_rewrap.scheduler.hardening.survey import gather
from kube_rewrap.scheduler.registry.cluster import open_cluster_to_look

_DAY = 86_400.0


def run(args: argparse.Namespace) -> int:
    """Gather the facts, judge and print them.

    Exit 3 when a finding is as severe as --fail-on says, else 5 when a KMS plugin does not serve.
    """
    return run_async(lambda: _audit(args))


async def _audit(args: argparse.Namespace) -> int:
    settings = read_settings(args, os.environ)
    # Accept any mode and owner: the checks report who can read or replace the file.
    path = read_configuration_path(args, os.environ)
    generation = generation_of(path, allow_readable=True, allow_foreign=True)
    ages = Ages(args.max_key_age * _DAY, args.max_proof_age * _DAY, args.max_backup_age * _DAY)
    brake = brake_on_signals()
    async with open_cluster_to_look(settings, generation) as cluster:
        facts = await brake.unless_pulled(gather(cluster, settings, ages))
    checks = judge(facts)
    summary = summarise(checks)
    if args.output == "json":
        document = {"generation": generation.hash, "revision": facts.proof.revision}
        listed = [finding_json(check) for check in checks]
        print_json({**document, "missing": facts.missing or None, "checks": listed, "summary": summary})
    else:
        _print_text(checks, generation.hash, facts)
    if any(reaches(check, Severity(args.fail_on)) for check in checks):
        return Exit.INCOMPLETE
    return Exit.UNREACHABLE if facts.missing else Exit.DONE


def _print_text(checks: Sequence[Check], generation: str, facts: HardeningFacts) -> None:
    print_table(
        ("STATE", "SEVERITY", "CHECK", "REASON"),
        [(one.state.value, severity_of(one) or "-", one.id, one.reason) for one in checks],
    )
    say()
    if any(one.remedy for one in checks):
        say("What to do:")
        print_items(f"{one.id}: {one.remedy}" for one in checks if one.remedy)
        say()
    if guides := [(one, named) for one in checks if severity_of(one) for named in REFERENCES.get(one.id, ())]:
        say("These findings speak to:")
        print_items(f"{one.id}: {named.guide} {named.version}, {named.item}" for one, named in guides)
        say()
    counts = ", ".join(f"{count} {state}" for state, count in summarise(checks).items())
    if facts.missing:
        say(f"Missing: {facts.missing}")
    print_sentence(f"{counts}; {generation} at revision {facts.proof.revision}")
