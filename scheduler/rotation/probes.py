"""What a rotation has to know of the cluster, as a leader and as `rewrap rotate` alone find it out."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.convergence import Verdict
from kube_rewrap.scheduler.apiservers.probe import Converged, Convergence, unconverged
from kube_rewrap.scheduler.campaigns.requests import Inbox
from kube_rewrap.scheduler.campaigns.service import Service
from kube_rewrap.scheduler.keys.removal import KeyVerdict, Surroundings, judge_keys
from kube_rewrap.scheduler.rotation.transition import Campaigned, Scanned
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaign import CampaignState
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.observations import load
from kube_rewrap.worker.records.rotation import Rotation, RotationStep

_SCAN_SECONDS = 5.0
"""Least time between two scans for one rotation: what a scan could not say, the next one seldom can at once."""

_LOOKED = {RotationStep.PROVE, RotationStep.COMPACT, RotationStep.PRUNE}
"""Steps whose scan may lead back to the rewrap."""

Campaigner = Callable[[Rotation], Awaitable[Campaigned]]
"""Sees to it that everything is rewritten, and says how far that is."""


class ClusterSenses:
    """See rotating.Senses."""

    def __init__(self, service: Service, converged: Converged, campaigner: Campaigner, brake: Brake) -> None:
        self._service = service
        self._brake = brake
        self._converged = converged
        self._campaigner = campaigner
        self._scan_at = 0.0

    async def converged(self, rotation: Rotation) -> tuple[bool, str]:
        """See Senses."""
        return await self._converged(rotation.file)

    async def campaign(self, rotation: Rotation) -> Campaigned:
        """See Senses."""
        return await self._campaigner(rotation)

    async def scan(self, rotation: Rotation) -> Scanned:
        """See Senses."""
        loop = asyncio.get_running_loop()
        await self._brake.unless_pulled(asyncio.sleep(max(0.0, self._scan_at - loop.time())))
        _, found = await self._brake.unless_pulled(self._service.inventory())
        self._scan_at = loop.time() + _SCAN_SECONDS
        budget = (await self._service.engine.ledger.all()).get(rotation.fingerprint)
        # What nobody knows counts as use.
        used = 1 if budget is None or budget.restored else budget.used
        under_retired, under_new = _under_retired(found, rotation), _under_new(found, rotation)
        return Scanned(found.revision, found.stale, under_retired, found.unreadable, under_new, used)

    async def compacted(self, revision: int) -> bool:
        """See Senses."""
        return await self._service.engine.is_compacted(revision - 1)


@dataclass(frozen=True, slots=True)
class RemovalVerdicts:
    """May each configured key be removed: the verdicts, in configured order, and the facts that they rest on.

    `proof` is the scan; `proof_revision` that of the newest complete campaign over everything, 0 = there is none.
    """

    keys: tuple[KeyVerdict, ...]
    proof: Inventory
    convergence: Verdict
    proof_revision: int


async def removal_verdicts(service: Service, settings: Settings) -> RemovalVerdicts:
    """Ask the kube-apiservers, scan everything, and judge every configured key. Read only.

    Raises what a scan raises, and SettingsError for credentials that can't be read.
    """
    convergence = await ask_apiservers(service, settings)
    _, proof = await service.inventory()
    return await judge_removal(service, convergence, proof, whole=True)


async def ask_apiservers(service: Service, settings: Settings) -> Verdict:
    """Return what the kube-apiservers run. Ask before a scan: what a lagging one writes until then, the scan sees."""
    generation = service.generation
    probe = Convergence(settings.apiservers, settings.keyspace, service.engine.store, generation.file)
    return await probe.look(generation.hash)


async def judge_removal(service: Service, convergence: Verdict, proof: Inventory, *, whole: bool) -> RemovalVerdicts:
    """Judge every configured key by a scan that was made after `convergence`; `whole` as in Surroundings."""
    around = await look_around(service, unconverged(convergence), whole=whole)
    return RemovalVerdicts(tuple(judge_keys(proof, around)), proof, convergence, around.proof_revision)


async def look_around(service: Service, unconverged: str, *, whole: bool) -> Surroundings:
    """Return what is known beside a scan. `unconverged` and `whole` as in Surroundings."""
    store, keyspace = service.engine.store, service.engine.keyspace
    proof = await service.last_proof()
    revision = proof.proof_revision if proof is not None else 0
    return Surroundings(
        unconverged,
        campaign_unfinished=bool(await service.unfinished()),
        whole=whole,
        proof_revision=revision,
        compacted=bool(revision) and await service.engine.is_compacted(revision - 1),
        last_written=(await load(store, keyspace)).last,
        chains=service.chains if whole else (),
    )


def _under_retired(found: Inventory, rotation: Rotation) -> int:
    """Count objects of the rotation's resources under the old keys, and unreadable ones that may be."""
    retired = {key.fingerprint for key in rotation.retired}
    count = 0
    for tally in found.resources:
        if tally.primary.fingerprint in retired:
            continue  # an entry that is not rotated may go on with the key
        count += sum(under.objects for key, under in tally.keys.items() if key.fingerprint in retired)
        count += sum(objects for key, objects in tally.claimed.items() if key.fingerprint in retired)
    return count


def _under_new(found: Inventory, rotation: Rotation) -> int:
    """Count objects under the new key, and unreadable ones that may be."""
    counts = [(key, under.objects) for tally in found.resources for key, under in tally.keys.items()]
    counts += [item for tally in found.resources for item in tally.claimed.items()]
    return sum(count for key, count in counts if key.fingerprint == rotation.fingerprint)


def leaders_campaigner(campaigns: Campaigns, inbox: Inbox) -> Campaigner:
    """Return how a leader sees to campaigns: they come by themselves when the file changes, and have to be over."""

    async def campaigner(rotation: Rotation) -> Campaigned:
        came_back = bool(rotation.passed) and rotation.passed[-1].step in _LOOKED
        if came_back:
            # Once for each time that it came back.
            at = datetime.fromisoformat(_entered(rotation))
            await inbox.ask_for_rotation(f"rotation-{rotation.id}-{at:%Y%m%d%H%M%S}")
        unfinished = await campaigns.unfinished()
        if unfinished:
            one = unfinished[0].value
            return Campaigned(None, f"the campaign {one.id} is {one.state.value}: {one.because}")
        if (waiting := await inbox.waiting_for_us()) is not None:
            return Campaigned(None, f"the request {waiting.id} waits: {waiting.because or waiting.options.reason}")
        mine = [one.value for one in await campaigns.all() if one.value.generation == rotation.file]
        if not mine:
            await inbox.ask_for_resync("a rotation needs everything under the new key")
            return Campaigned(None, "a campaign was asked for")
        last = mine[-1]
        if last.state is CampaignState.INCOMPLETE and last.ended_at > _entered(rotation):
            return Campaigned(None, f"the campaign {last.id} is incomplete: {last.because}")
        return Campaigned(True, f"the campaign {last.id} is {last.state.value}: {last.because}")

    return campaigner


def _entered(rotation: Rotation) -> str:
    """Return when the rotation came to its present step."""
    return rotation.passed[-1].at if rotation.passed else ""
