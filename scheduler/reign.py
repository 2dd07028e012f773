"""What the leading scheduler does under one generation of the configuration.

1. Compare the generation with the one on record; what changed asks for a campaign. Without a change,
   compare the cluster with it all the same: things happen while no scheduler runs. An old copy of the
   file is not a change: see `_require_current`.
2. A file of the same meaning takes over what is at work. Campaigns of other generations end; one that
   an operator paused is followed by one that is paused, too.
3. One campaign at a time: the unfinished one first, else the request of the highest priority.
4. Beside it, the observer watches every write; what it finds under another key becomes a request.

A leader works on campaigns under the same lock as `rewrap run`, and waits while that has it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Coroutine, Iterable
from dataclasses import dataclass, replace
from datetime import datetime

import structlog

from config.errors import ConfigError
from config.settings import Settings
from scheduler.census import Territory
from scheduler.detect import detect
from scheduler.dispatch.local import describe
from scheduler.dispatch.queue import QueueDispatcher, Sender
from scheduler.inbox import Inbox
from scheduler.keeper import Keeper, Outlets
from scheduler.observer import Listeners, Observer
from scheduler.progress import Progress
from scheduler.proving import QueueProver
from scheduler.reconcile import Reconciler, Round
from scheduler.rotating import Books, ConfigurationFile, Rotator
from scheduler.run import EVERYTHING, Lock, Order
from scheduler.safety import Safety
from scheduler.senses import ClusterSenses, Converged, leaders_campaigner, not_converged
from scheduler.service import Service, total
from worker.errors import BusyError, OutdatedError, RefusedError, StoppedError, WorkerError
from worker.etcd.store import Expect
from worker.model.campaign import CampaignState, Pause, Wish
from worker.model.generation import GenerationRecord
from worker.model.request import Origin, RequestState
from worker.pace.brake import Brake
from worker.state.campaigns import Campaigns, StoredCampaign
from worker.state.generations import Generations, StoredGeneration
from worker.state.requests import Requests, StoredRequest
from worker.state.rotations import Rotations

_IDLE_SECONDS = 0.5
_PRESSURE_SECONDS = 2.0
_TIDY_SECONDS = 60.0
_RETRY_INCOMPLETE = 600.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Term:
    """What a leader has while it leads: its fencing token, a brake that ends the reign, and where it tells things.

    `before` is the hash of the generation under which it reigned until a moment ago, "" at first. `file`
    and `converged` are what a rotation needs.
    """

    guard: Expect
    brake: Brake
    outlets: Outlets
    file: ConfigurationFile
    converged: Converged
    before: str = ""


class Reign:
    """See the module's docstring."""

    def __init__(self, settings: Settings, service: Service, sender: Sender, term: Term) -> None:
        self._settings = settings
        self._service = service
        self._sender = sender
        self._term = term
        self._guard = guard = term.guard
        self._brake = term.brake
        self._metrics = term.outlets.metrics
        store, keyspace = service.engine.store, service.engine.keyspace
        self._campaigns = Campaigns(store, keyspace, [guard])
        self._inbox = Inbox(Requests(store, keyspace, [guard]), service.audit)
        self._safety = Safety(settings, service, self._campaigns)
        self._drifted: set[tuple[str, str]] = set()
        self._outdated: set[str] = set()
        self._full_check_at = 0.0
        self._retry_incomplete = _RETRY_INCOMPLETE
        self._tidy_at = 0.0
        self._said_busy = ""

    def drifted(self, resource: str, namespace: str) -> None:
        """Note that something was written under another key than the primary."""
        self._drifted.add((resource, namespace))
        self._metrics.drifted()

    def check_now(self) -> None:
        """Let the next full check be soon: something may have been missed."""
        self._full_check_at = 0.0

    async def run(self) -> None:
        """Work until the brake is pulled; raises its reason, or what makes going on impossible."""
        now = describe(self._service.generation)
        stored = await self._require_current(now)
        await self._brake.unless_pulled(self._service.note_restore())
        listeners = Listeners(self.drifted, self.check_now)
        observer = Observer(self._service, self._guard, listeners)
        beside = [self._begin_beside("observer", observer.run())]
        try:
            await self._compare(stored, now)
            beside.append(self._begin_beside("keeper", self._keeper().run()))
            await self._show_last_proof()
            while True:
                self._brake.check()
                self._metrics.lags(observer.lag)
                if not await self._work_once():
                    await asyncio.sleep(_IDLE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
        finally:
            for task in beside:
                task.cancel()
            await asyncio.gather(*beside, return_exceptions=True)

    def _begin_beside(self, name: str, work: Coroutine[object, object, None]) -> asyncio.Task[None]:
        """Begin what goes on beside campaigns; its end is the reign's end, in the middle of a campaign too."""
        task = asyncio.create_task(work, name=name)
        task.add_done_callback(self._end_with)
        return task

    def _end_with(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if isinstance(error, WorkerError):
            self._brake.pull(error)
        elif error is not None:
            self._brake.pull(WorkerError(f"the {task.get_name()} failed: {type(error).__name__}"))

    def _keeper(self) -> Keeper:
        engine, term = self._service.engine, self._term
        rotations = Rotations(engine.store, engine.keyspace, [self._guard])
        campaigner = leaders_campaigner(self._campaigns, self._inbox)
        senses = ClusterSenses(self._service, term.converged, campaigner, self._brake)
        rotator = Rotator(rotations, term.file, senses, Books(self._service.audit, engine.ledger))
        return Keeper(self._settings, self._service, rotations, rotator, term.outlets)

    # What is to be done.

    def _generations(self) -> Generations:
        return Generations(self._service.engine.store, self._service.engine.keyspace, [self._guard])

    async def _require_current(self, now: GenerationRecord) -> StoredGeneration | None:
        """Return the generation on record. Raises OutdatedError when this one was in force before that.

        A scheduler on another node that comes to lead may hold a copy of the file that nobody renewed.
        Whoever held the newer one until a moment ago saw the file go back with its own eyes: that is a
        change as any other.
        """
        stored = await self._generations().load()
        if stored is None or now.hash not in stored.former or self._term.before == stored.generation.hash:
            return stored
        raise OutdatedError(
            f"the file is {now.hash}, which was in force before {stored.generation.hash} took its place: it is taken "
            "for an old copy, and nothing is written under it. Bring it up to date; to really go back to it, change "
            "anything in it, a comment will do"
        )

    async def _compare(self, stored: StoredGeneration | None, now: GenerationRecord) -> None:
        """Compare the generation with the one on record, and ask for a campaign if it takes one."""
        changes = detect(stored.generation if stored else None, now)
        for change in changes:
            level = _log.warning if change.danger else _log.info
            level("configuration.changed", generation=now.hash, **change.log_context())
        wanted = [change for change in changes if change.needs_campaign]
        if wanted:
            reason = f"{len(wanted)} changes, the first: {wanted[0].because}"
            await self._inbox.ask_for_change(stored.revision if stored else 0, reason)
            self._put_off_full_check()
        if stored is not None and stored.generation == now:
            return
        if stored is not None and not changes:
            await self._adopt(stored.generation.hash, now.hash)
        # Recorded last: a crash before this compares again, and asks by the same name.
        fresh = stored.followed_by(now) if stored else StoredGeneration(now, 0)
        await self._generations().save(fresh)
        await self._service.audit.append("configuration.accepted", "", generation=now.hash, changes=len(changes))

    async def _adopt(self, before: str, now: str) -> None:
        """Go on with what was begun under another file of the same meaning."""
        for stored in await self._campaigns.unfinished():
            if stored.campaign.generation == before:
                adopted = await self._campaigns.change(
                    stored.campaign.id, lambda campaign: replace(campaign, generation=now)
                )
                if adopted is not None:
                    because = "the file changed and its meaning did not"
                    _log.info("campaign.adopted", **adopted.log_context(), because=because)

    async def _show_last_proof(self) -> None:
        """Show how old the last proof of everything is, whoever made it."""
        proof = await self._service.last_proof()
        if proof is not None:
            self._metrics.proven(datetime.fromisoformat(proof.ended_at).timestamp())

    async def _work_once(self) -> bool:
        """Do the next thing there is; False when there is nothing."""
        await self._tidy()
        unfinished = await self._campaigns.unfinished()
        request = None if unfinished else await self._inbox.next()
        if not unfinished and request is None:
            return await self._full_check()
        lock_brake = Brake()
        try:
            async with self._service.owned(EVERYTHING, lock_brake, "rewrap scheduler") as lock:
                self._said_busy = ""
                await self._under_lock(lock, lock_brake, request)
        except BusyError as busy:
            if str(busy) != self._said_busy:
                self._said_busy = str(busy)
                _log.info("campaign.waiting", because=str(busy))
            return False
        return True

    async def _tidy(self) -> None:
        """Do what is to be done now and then, whatever else is going on."""
        drifted, self._drifted = self._drifted, set()
        if drifted:
            await self._inbox.ask_for_repairs(drifted)
        now = asyncio.get_running_loop().time()
        if now < self._tidy_at:
            return
        self._tidy_at = now + _TIDY_SECONDS
        await self._inbox.forget_old()

    async def _under_lock(self, lock: Lock, lock_brake: Brake, request: StoredRequest | None) -> None:
        # Looked at again: somebody else may have had the lock until now.
        unfinished = await self._campaigns.unfinished()
        mine = [one for one in unfinished if one.campaign.generation == self._service.generation.hash]
        others = [one for one in unfinished if one not in mine]
        await self._service.supersede(others, "the configuration changed; what was rewritten stays", lock.guard)
        if mine:
            _log.info("campaign.resumed", **mine[0].campaign.log_context(), because=mine[0].campaign.because)
            await self._drive(mine[0], lock, lock_brake)
        elif request is not None and (stored := await self._meet(request, lock)) is not None:
            await self._drive(stored, lock, lock_brake)

    async def _meet(self, stored: StoredRequest, lock: Lock) -> StoredCampaign | None:
        """Plan what a request asks for; None when it is refused, or nothing is to be done."""
        request = stored.request
        wish = await self._with_former_pause(request.wish, request.origin)
        order = Order(request.resources, request.namespaces, wish)
        try:
            await self._require_converged()
            plan = await self._brake.unless_pulled(self._service.plan(order))
            # Refused or not: a key is watched, and rotated when that is due, once it is on record.
            await self._service.begin_budgets(plan.look)
            plan.require_safe()
        except (ConfigError, RefusedError) as refusal:
            await self._inbox.put_off(stored, str(refusal))
            return None
        if plan.found.is_clean and request.origin in {Origin.DRIFT, Origin.RESYNC}:
            await self._inbox.decide(stored, RequestState.ACCEPTED, "nothing was left to do")
            return None
        campaign = await self._service.take_up(plan, wish, lock.guard)
        await self._inbox.decide(stored, RequestState.ACCEPTED, "a campaign was planned", campaign.campaign.id)
        return campaign

    async def _require_converged(self) -> None:
        """Raise RefusedError while a kube-apiserver may be unable to read what would be rewritten.

        Where no address of one is known, nobody can tell, and whoever changed the file is trusted.
        """
        if self._settings.apiservers.addresses:
            unconverged = await not_converged(self._term.converged, self._service.generation.hash)
            if unconverged:
                raise RefusedError(unconverged)

    async def _with_former_pause(self, wish: Wish, origin: Origin) -> Wish:
        """Let what nobody asked for begin at rest if an operator had paused the campaign before it."""
        if origin is Origin.OPERATOR:
            return wish
        campaigns = [stored.campaign for stored in await self._campaigns.all()]
        last = campaigns[-1] if campaigns else None
        if last is None or last.state is not CampaignState.SUPERSEDED or last.paused_for is not Pause.OPERATOR:
            return wish
        return replace(wish, paused=True)

    # One campaign.

    async def _drive(self, stored: StoredCampaign, lock: Lock, lock_brake: Brake) -> None:
        """Go round until the campaign ends, somebody ends it, or the brake is pulled."""
        name = stored.campaign.id
        order = Order(stored.campaign.scope.resources, stored.campaign.scope.namespaces)
        dispatcher = QueueDispatcher(self._sender, time.monotonic)
        prover = QueueProver(self._service, dispatcher, lock.guard, _whole(order, await self._service.territory()))
        progress = Progress(self._settings.service.progress, self._outdated)
        records = self._service.records(name, lock.guard)
        reconciler = Reconciler(records, dispatcher, prover, progress.watch)
        look_at = 0.0
        while True:
            self._brake.check()
            lock_brake.check()
            loop = asyncio.get_running_loop()
            if loop.time() >= look_at:
                look_at = loop.time() + _PRESSURE_SECONDS
                await self._safety.keep(name)
                await self._tidy()
                progress.handed_back(await records.claims.handbacks())
            try:
                done = await reconciler.round(name)
            except StoppedError as stopped:
                _log.info("campaign.stopped", campaign=name, because=str(stopped))
                await prover.forget(name)
                await self._service.audit.append("campaign.stopped", name, because=str(stopped))
                return
            progress.tell(done.stored.campaign)
            self._metrics.campaign(done.stored.campaign, progress.report, reconciler.checkpoints, progress.rate)
            if done.is_end:
                await self._ended(done, prover)
                return
            if done.stored.campaign.state is CampaignState.PAUSED:
                await dispatcher.wait(_IDLE_SECONDS)
                look_at = 0.0  # a resumed campaign waits for this look

    async def _ended(self, done: Round, prover: QueueProver) -> None:
        campaign = done.stored.campaign
        report = await total(self._service.records(campaign.id, self._guard), campaign.id)
        await prover.forget(campaign.id)
        if done.proof is not None and prover.is_whole:
            self._metrics.scanned(done.proof.stale, clean=done.proof.is_clean)
        if campaign.state is CampaignState.INCOMPLETE and done.proof is not None and done.proof.stale:
            # Parked batches, or a late resource, get another chance, later and later.
            self._put_off_full_check(self._retry_incomplete)
            self._retry_incomplete *= 2
        elif campaign.state is CampaignState.COMPLETE:
            self._retry_incomplete = _RETRY_INCOMPLETE
            if self._full_check_at == 0.0:
                self._put_off_full_check()
        await self._service.tell_finished(campaign, report)

    # What nobody asked for.

    def _put_off_full_check(self, soonest: float = float("inf")) -> None:
        """Let the next full check be after the usual time, or after `soonest` seconds if that is earlier."""
        every = min(self._settings.service.resync or float("inf"), soonest)
        self._full_check_at = asyncio.get_running_loop().time() + every

    async def _full_check(self) -> bool:
        """Compare the cluster with the configuration if it is time to; False when it was not."""
        if asyncio.get_running_loop().time() < self._full_check_at:
            return False
        _, found = await self._brake.unless_pulled(self._service.inventory())
        self._put_off_full_check()
        # A key that came to read is seen before it writes: its use is then counted, not estimated.
        await self._service.begin_budgets(found.look())
        self._metrics.scanned(found.stale, clean=found.is_clean)
        because = f"{found.stale} of {found.objects} objects are not under their primary key"
        _log.info("check.finished", revision=found.revision, stale=found.stale, objects=found.objects, because=because)
        if found.stale:
            await self._inbox.ask_for_resync(f"a full check found that {because}")
        return True


def _whole(order: Order, territory: Territory) -> Order:
    """Return the order without its resources when they are all that is governed: then the unknown is told, too."""
    governed: Iterable[str] = (one.resource for one in territory.governed)
    return replace(order, resources=()) if set(order.resources) >= set(governed) else order
