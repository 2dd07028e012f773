"""The plan that `rewrap rotate` shows before it asks for consent: the rotation, its preflight, and its steps."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kube_rewrap.cli.output import print_json, print_sentence, print_table, say
from kube_rewrap.config.encryption.generation import load_generation
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.apiservers.probe import ApiserverProbe
from kube_rewrap.scheduler.registry.cluster import Cluster, open_cluster
from kube_rewrap.scheduler.rotation.file import ConfigurationFile
from kube_rewrap.scheduler.rotation.preflight import Workload, reasons_against, steps_of
from kube_rewrap.scheduler.rotation.preparation import Preparation, require_request
from kube_rewrap.scheduler.rotation.request import RotationRequest
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.records.holder import UNNAMED
from kube_rewrap.worker.records.ownership import holder_in
from kube_rewrap.worker.records.rotation import Rotation


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """A rotation that is not recorded yet, the facts of its preflight, and the reasons not to begin it.

    `leader` names the scheduler that would drive it, "" = this process would.
    """

    rotation: Rotation
    file: ConfigurationFile
    convergence: Convergence
    workload: Workload
    reasons: tuple[str, ...]
    leader: str


async def prepare_rotation(settings: Settings, file: ConfigurationFile, request: RotationRequest) -> RotationPlan:
    """Plan a rotation and gather all facts; write nothing. Raises SettingsError for a request that can't be met."""
    raw = file.read()
    generation = load_generation(raw, file.path)
    require_request(raw, file.path, request, settings.keyspace)
    async with open_cluster(settings, generation, "rewrap rotate") as cluster:
        leader = await _leader(cluster)
        apiservers = ApiserverProbe(settings, cluster.engine.store, file.path)
        preparation = Preparation(settings.space, cluster, apiservers, file)
        rotation = await preparation.plan(request)
        facts = await preparation.gather(rotation, replaces_file=not leader)
        try:
            facts = await preparation.with_workload(facts, rotation)
        except RefusedError as refusal:
            facts = replace(facts, registry=str(refusal))
    reasons = reasons_against(rotation, facts, settings.budget.gcm_limit)
    return RotationPlan(rotation, file, facts.convergence, facts.workload or Workload(), reasons, leader)


async def _leader(cluster: Cluster) -> str:
    """Return the holder of the leader's lock, "" when it is free."""
    found = await cluster.engine.store.get(cluster.engine.keyspace.leader)
    if found is None:
        return ""
    holder = holder_in(found)
    return UNNAMED if holder is None else f"{holder.command} on {holder.host}"


def print_plan(plan: RotationPlan, *, as_json: bool, is_dry: bool) -> None:
    """Show the plan and the reasons against it."""
    if as_json:
        print_json(_json(plan))
        return
    rotation = plan.rotation
    new = f"{rotation.provider}:{rotation.key_name}"
    say(f"New key:    {new} for {', '.join(rotation.resources)}")
    say(f"Old keys:   {', '.join(map(str, rotation.retired))}; {_end_of_old(plan)}")
    say(f"Objects:    {plan.workload.objects:,} to rewrite")
    if plan.workload.unreadable:
        say(f"            {plan.workload.unreadable:,} unreadable, for which it will wait; see `rewrap verify`")
    say(f"File:       {plan.file.path}, {_editor(plan)}")
    say()
    replicas = plan.convergence.replicas
    if replicas:
        rows = [(one.address or "-", one.name or one.id or "-", one.state.value) for one in replicas]
        print_table(("KUBE-APISERVER", "REPLICA", "STATE"), rows)
        say()
    print_table(("STEP", "WHAT HAPPENS"), steps_of(rotation))
    say()
    for reason in plan.reasons:
        print_sentence(f"Refused: {reason}")
    if is_dry:
        say("This is a plan: nothing was written.")


def _end_of_old(plan: RotationPlan) -> str:
    if plan.rotation.prune:
        kept = "so keep a copy of the file" if plan.rotation.by_hand else "and kept in the archive"
        return f"removed at the end, {kept}"
    return "kept in the file for reading; --prune would remove it at the end"


def _editor(plan: RotationPlan) -> str:
    if plan.rotation.by_hand:
        return "edited by you at each step"
    if plan.leader:
        return f"edited on its own node by the leader: {plan.leader}"
    return f"edited by this process, which keeps the old content in {plan.file.archive}"


def _json(plan: RotationPlan) -> dict[str, object]:
    return {
        "dry_run": True,
        "rotation": plan.rotation.to_json(),
        "file": plan.file.path,
        "archive": plan.file.archive,
        "leader": plan.leader or None,
        "objects": plan.workload.objects,
        "unreadable": plan.workload.unreadable,
        "apiservers": [one.to_json() for one in plan.convergence.replicas],
        "converged": plan.convergence.is_converged,
        "steps": [{"step": step, "what": what} for step, what in steps_of(plan.rotation)],
        "prunes": [str(key) for key in plan.rotation.retired] if plan.rotation.prune else [],
        "refusals": list(plan.reasons),
    }
