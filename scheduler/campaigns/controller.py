"""Plans and drives the leader's campaigns, one at a time: the unfinished one, else one for the next request.

The controller holds the lock on campaigns meanwhile, as `rewrap run` does; while a run holds it, the controller waits.
It ends unfinished campaigns of other generations. If an operator had paused the last of these, the campaign that the
service requests in its place begins paused.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.logs import Repetition
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.apiservers.probe import ConvergenceProbe
from kube_rewrap.scheduler.campaigns.ending import alarm, report_end, sum_reports
from kube_rewrap.scheduler.campaigns.lock import Lock, hold_lock
from kube_rewrap.scheduler.campaigns.loop import Reconciler, Records
from kube_rewrap.scheduler.campaigns.pauses import PauseController
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.campaigns.progress import Progress
from kube_rewrap.scheduler.campaigns.proof import PartsProver
from kube_rewrap.scheduler.campaigns.take_up import supersede, take_up
from kube_rewrap.scheduler.campaigns.transition import Halt
from kube_rewrap.scheduler.dispatch.celery import QueueDispatcher, Sender
from kube_rewrap.scheduler.registry.budgets import begin_budgets
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scope import CampaignSpec, faults_by_field, spec_of
from kube_rewrap.scheduler.upkeep.backlog import RequestBacklog
from kube_rewrap.scheduler.upkeep.figures import Figures
from kube_rewrap.scheduler.upkeep.full_check import Schedule
from kube_rewrap.scheduler.upkeep.repairs import Repaired
from kube_rewrap.worker.errors import (
    BusyError,
    CompactedError,
    KmsTargetError,
    KmsUnavailableError,
    RefusedError,
    StoppedError,
)
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Pause
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.handbacks import Handbacks
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.request import Origin, Request, RequestState
from kube_rewrap.worker.records.table import Stored

_IDLE_SECONDS = 0.5
_PRESSURE_SECONDS = 2.0
_log = structlog.get_logger()


class _UnconvergedError(RefusedError):
    """Not all kube-apiservers are known to run the configuration."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaderContext:
    """What the leader's controllers share under one generation. `guard` is the leader's fencing token.

    `held` returns why no object may be written under a KMS provider, "" = objects may be.
    """

    settings: Settings
    cluster: Cluster
    guard: Expect
    campaigns: Campaigns
    backlog: RequestBacklog
    figures: Figures
    schedule: Schedule
    held: Callable[[], str]


class CampaignController:
    """See the module's docstring."""

    def __init__(
        self, leader: LeaderContext, brake: Brake, sender: Sender, apiservers: ConvergenceProbe, repaired: Repaired
    ) -> None:
        self._settings = leader.settings
        self._cluster = leader.cluster
        self._guard = leader.guard
        self._campaigns = leader.campaigns
        self._backlog = leader.backlog
        self._figures = leader.figures
        self._schedule = leader.schedule
        self._brake = brake
        self._sender = sender
        self._apiservers = apiservers
        self._repaired = repaired
        self._held = leader.held
        self._pauses = PauseController(leader.settings, leader.cluster, leader.campaigns, leader.held)
        self._outdated: set[str] = set()
        self._waiting = Repetition()

    async def run(self) -> None:
        """Work until the brake is pulled; raises its reason, or the WorkerError that ended the work."""
        while True:
            self._brake.check()
            if not await self._work_once():
                await asyncio.sleep(_IDLE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter

    async def _work_once(self) -> bool:
        """Do the next thing there is; False when there is nothing, or another process holds the lock."""
        unfinished = await self._campaigns.unfinished()
        request = None if unfinished else await self._backlog.next()
        if not unfinished and request is None:
            return False
        lock_brake = Brake()
        try:
            async with hold_lock(self._cluster, lock_brake, "rewrap scheduler") as lock:
                self._waiting.end()
                await self._under_lock(lock, lock_brake, request)
        except BusyError as busy:
            if self._waiting.begins(str(busy)):
                _log.info("campaign.waiting", because=str(busy))
            return False
        return True

    async def _under_lock(self, lock: Lock, lock_brake: Brake, request: Stored[Request] | None) -> None:
        # Read again: another process may have held the lock, and changed them, until now.
        unfinished = await self._campaigns.unfinished()
        mine = [one for one in unfinished if one.value.generation == self._cluster.generation.hash]
        others = [one for one in unfinished if one not in mine]
        await supersede(self._cluster, others, "the configuration changed; rewritten objects stay so", lock.guard)
        if mine:
            _log.info("campaign.resumed", **mine[0].value.log_context(), because=mine[0].value.because)
            await self._drive(mine[0], lock, lock_brake)
        elif request is not None and (stored := await self._plan_request(request, lock)) is not None:
            await self._drive(stored, lock, lock_brake)

    async def _plan_request(self, stored: Stored[Request], lock: Lock) -> Stored[Campaign] | None:
        """Plan what a request asks for; None when it is refused, or nothing is to be done."""
        request = stored.value
        options = await self._with_former_pause(request.options, request.origin)
        spec = CampaignSpec(request.resources, request.namespaces, options)
        try:
            convergence = await self._require_converged()
            plan = await self._brake.unless_pulled(plan_run(self._cluster, spec))
            plan = replace(plan, convergence=convergence)
            if spec.covers_everything and not plan.found.peeked:
                await self._figures.scanned(plan.found)
            # Even for a refused plan: observer and rotation controller need a budget on record for each key.
            await begin_budgets(self._cluster, plan.estimate)
            plan.require_safe()
        except (_UnconvergedError, KmsUnavailableError, KmsTargetError) as refusal:
            await self._backlog.put_off_until_converged(stored, str(refusal))
            return None
        except ConfigError as fault:
            # No retry can meet it, so that it must not stay ahead of other requests.
            await self._backlog.decide(stored, RequestState.REFUSED, faults_by_field(fault))
            return None
        except (RefusedError, CompactedError) as refusal:
            await self._backlog.put_off(stored, str(refusal))
            return None
        own = {Origin.DRIFT, Origin.FULL_CHECK, Origin.ROTATION}
        if request.origin in own and _finds_nothing(plan.found, request.origin):
            await self._backlog.decide(stored, RequestState.ACCEPTED, "the scan found nothing to rewrite")
            return None
        attended = request.origin is Origin.OPERATOR
        campaign = await take_up(self._cluster, plan, lock.guard, attended=attended)
        await self._backlog.decide(stored, RequestState.ACCEPTED, "a campaign was planned", campaign.value.id)
        return campaign

    async def _require_converged(self) -> str:
        """Raise _UnconvergedError while a kube-apiserver may be unable to read what would be rewritten.

        Returns what it found. Without addresses (--apiserver) it can't probe them, and trusts that the operator updated
        every kube-apiserver: "".
        """
        if held := self._held():
            raise _UnconvergedError(held)
        if not self._settings.apiservers.addresses:
            return ""
        generation = self._cluster.generation
        found = await self._apiservers.probe(generation.file_hash, generation.targets)
        if found.blocker:
            raise _UnconvergedError(found.blocker)
        return found.because

    async def _with_former_pause(self, options: CampaignOptions, origin: Origin) -> CampaignOptions:
        """Return the options; `paused` for the service's own request if an operator had paused the last campaign."""
        if origin is Origin.OPERATOR:
            return options
        campaigns = [stored.value for stored in await self._campaigns.all()]
        last = campaigns[-1] if campaigns else None
        if last is None or last.state is not CampaignState.SUPERSEDED or last.paused_for is not Pause.OPERATOR:
            return options
        return replace(options, paused=True)

    async def _drive(self, stored: Stored[Campaign], lock: Lock, lock_brake: Brake) -> None:
        """Take rounds until the campaign or another process ends it, or a brake is pulled."""
        name, engine = stored.value.id, self._cluster.engine
        dispatcher = QueueDispatcher(self._sender, time.monotonic)
        prover = PartsProver(self._cluster, dispatcher, lock.guard, spec_of(stored.value))
        progress = Progress(self._settings.service.progress, self._outdated)
        records = Records.of(engine.store, engine.keyspace, name, lock.guard)
        reconciler = Reconciler(records, dispatcher, prover, progress.watch)
        look_at = 0.0
        while True:
            self._brake.check()
            lock_brake.check()
            loop = asyncio.get_running_loop()
            if loop.time() >= look_at:
                look_at = loop.time() + _PRESSURE_SECONDS
                await self._pauses.reconcile(name, reconciler.checkpoints, prover.failing)
                progress.handed_back(await Handbacks(engine.store, engine.keyspace).all())
            try:
                done = await reconciler.round(name)
            except CompactedError as error:
                await self._give_up_proof(name, str(error), lock, prover)
                return
            except StoppedError as stopped:
                _log.info("campaign.stopped", campaign=name, because=str(stopped))
                await prover.forget(name)
                await self._cluster.audit.append("campaign.stopped", name, because=str(stopped))
                await self._figures.show_campaigns()
                return
            campaign, batches = done.stored.value, reconciler.checkpoints
            self._figures.show_campaign(campaign, batches, progress.rate, seconds_left=progress.seconds_left)
            if isinstance(done.step.action, Halt):
                await alarm(self._cluster.audit, campaign, done.step.because)
            if done.is_end:
                await self._ended(campaign, done.proof, prover)
                return
            if done.stored.value.state is CampaignState.PAUSED:
                await dispatcher.wait(_IDLE_SECONDS)
                look_at = 0.0  # a resumed campaign waits for this check

    async def _give_up_proof(self, name: str, because: str, lock: Lock, prover: PartsProver) -> None:
        """End a campaign as incomplete: each scan of its proof took longer than etcd kept the revision."""
        now = datetime.now(UTC).isoformat(timespec="seconds")

        def ended(campaign: Campaign) -> Campaign:
            if campaign.state.is_end:
                return campaign
            return replace(campaign.moved(CampaignState.INCOMPLETE, f"it is not proven: {because}"), ended_at=now)

        campaign = await self._cluster.campaigns(lock.guard).change(name, ended)
        if campaign is not None:
            await self._ended(campaign, None, prover)
            await self._figures.show_campaigns()

    async def _ended(self, campaign: Campaign, proof: Inventory | None, prover: PartsProver) -> None:
        checkpoints = Checkpoints(self._cluster.engine.store, self._cluster.engine.keyspace)
        report = await sum_reports(checkpoints, campaign.id)
        await prover.forget(campaign.id)
        if proof is not None and campaign.whole:
            await self._figures.scanned(proof)
        self._schedule.campaign_ended(
            is_complete=campaign.state is CampaignState.COMPLETE,
            has_stale=proof is not None and proof.stale > 0,
            whole=campaign.whole,
        )
        await report_end(self._cluster, campaign, report)
        await self._cluster.engine.load_proven_resources()
        if campaign.options.repair:
            self._repaired.add(campaign, report)


def _finds_nothing(found: Inventory, origin: Origin) -> bool:
    """Whether a plan's scan answers a request of the service's own: a campaign would find nothing to do.

    The watch counts drift by the keys that values name, as the plan's scan does. Any other request may come from a scan
    that opened the values, and found what does not show otherwise, such as AES-CBC under KMS v1.
    """
    return found.leaves_nothing if origin is Origin.DRIFT else found.is_clean
