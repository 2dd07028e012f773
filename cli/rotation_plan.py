"""What `rewrap rotate` looks at and shows before it asks."""

from __future__ import annotations

from dataclasses import dataclass, replace

from kube_rewrap.cli.output import print_json, print_table, say
from kube_rewrap.config.encryption.generation import load_generation
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Verdict
from kube_rewrap.scheduler.apiservers.probe import Convergence
from kube_rewrap.scheduler.campaigns.service import Service, open_service
from kube_rewrap.scheduler.rotation.driver import Blind, Books, ConfigurationFile, Order, Rotator
from kube_rewrap.scheduler.rotation.preflight import Ground, Scale, reasons_against, steps_of
from kube_rewrap.scheduler.rotation.preparation import Preparation
from kube_rewrap.worker.errors import RefusedError
from kube_rewrap.worker.records.ownership import UNNAMED, holder_in
from kube_rewrap.worker.records.rotation import Rotation
from kube_rewrap.worker.records.rotations import Rotations


@dataclass(frozen=True, slots=True)
class RotationPlan:
    """A rotation that is on no record yet, what was looked at, and the reasons not to begin it.

    `leader` names the scheduler that would drive it, "" = this process does.
    """

    rotation: Rotation
    file: ConfigurationFile
    verdict: Verdict
    scale: Scale
    reasons: tuple[str, ...]
    leader: str


async def plan_rotation(settings: Settings, file: ConfigurationFile, order: Order) -> RotationPlan:
    """Look at everything, write nothing. Raises SettingsError for what can't be rotated, ConfigError."""
    raw = file.read()
    generation = load_generation(raw, file.path)
    async with open_service(settings, generation, "rewrap rotate") as service:
        store, keyspace = service.engine.store, service.engine.keyspace
        convergence = Convergence(settings.apiservers, settings.keyspace, store, file.path)
        verdict = await convergence.look(generation.hash)

        async def converged(_generation: str) -> tuple[bool, str]:
            return verdict.converged, verdict.because

        leader = await _leader(service)
        rotations = Rotations(store, keyspace)
        rotator = Rotator(rotations, file, Blind(), Books(service.audit, service.engine.ledger))
        rotation = await rotator.plan(order, (await service.engine.ledger.all()).values(), service.is_idle)
        preparation = Preparation(settings, service, rotations, converged, None if leader else file)
        ground = await _scanned(await preparation.look(rotation), preparation, rotation)
    reasons = reasons_against(rotation, ground, settings.budget.gcm_limit)
    return RotationPlan(rotation, file, verdict, ground.scale or Scale(), reasons, leader)


async def _scanned(ground: Ground, preparation: Preparation, rotation: Rotation) -> Ground:
    try:
        return replace(ground, scale=await preparation.scan(rotation))
    except RefusedError as refusal:
        return replace(ground, registry=str(refusal))


async def _leader(service: Service) -> str:
    """Return who holds the leader's lock, "" when nobody does."""
    found = await service.engine.store.get(service.engine.keyspace.leader)
    if found is None:
        return ""
    holder = holder_in(found)
    return UNNAMED if holder is None else f"{holder.command} on {holder.host}"


def print_plan(plan: RotationPlan, *, as_json: bool, is_dry: bool) -> None:
    """Show what would be done, and what speaks against it."""
    if as_json:
        print_json(_json(plan))
        return
    rotation = plan.rotation
    new = f"{rotation.provider}:{rotation.key_name}"
    say(f"New key:    {new} for {', '.join(rotation.resources)}")
    say(f"Old keys:   {', '.join(map(str, rotation.retired))}; {_end_of_old(plan)}")
    say(f"Objects:    {plan.scale.objects:,} to rewrite")
    if plan.scale.unreadable:
        say(f"            {plan.scale.unreadable:,} can't be read, and it will wait for them; see `rewrap verify`")
    say(f"File:       {plan.file.path}, {_editor(plan)}")
    say()
    replicas = plan.verdict.replicas
    if replicas:
        rows = [(one.address or "-", one.name or one.id or "-", one.state.value) for one in replicas]
        print_table(("KUBE-APISERVER", "REPLICA", "STATE"), rows)
        say()
    print_table(("STEP", "WHAT HAPPENS"), steps_of(rotation))
    say()
    for reason in plan.reasons:
        say(f"Refused: {reason}")
    if is_dry:
        say("This is a plan: nothing was written.")


def _end_of_old(plan: RotationPlan) -> str:
    if plan.rotation.prune:
        kept = "keep a copy of the file" if plan.rotation.by_hand else "and kept in the archive"
        return f"removed at the end, {kept}"
    return "stays to read with; --prune would remove it at the end"


def _editor(plan: RotationPlan) -> str:
    if plan.rotation.by_hand:
        return "which you change at each step"
    if plan.leader:
        return f"edited on its own node by who leads: {plan.leader}"
    return f"edited by this process; what it held before is kept in {plan.file.archive}"


def _json(plan: RotationPlan) -> dict[str, object]:
    return {
        "dry_run": True,
        "rotation": plan.rotation.to_json(),
        "file": plan.file.path,
        "archive": plan.file.archive,
        "leader": plan.leader or None,
        "objects": plan.scale.objects,
        "unreadable": plan.scale.unreadable,
        "apiservers": [one.to_json() for one in plan.verdict.replicas],
        "converged": plan.verdict.converged,
        "steps": [{"step": step, "what": what} for step, what in steps_of(plan.rotation)],
        "prunes": [str(key) for key in plan.rotation.retired] if plan.rotation.prune else [],
        "refusals": list(plan.reasons),
    }
