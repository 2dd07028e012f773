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
from collections.abc import Coroutine
from dataclasses import dataclass, replace

import structlog

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.loop import Reconciler, Round
from kube_rewrap.scheduler.campaigns.pauses import Safety
from kube_rewrap.scheduler.campaigns.progress import Progress
from kube_rewrap.scheduler.campaigns.proof import QueueProver
from kube_rewrap.scheduler.campaigns.repairs import Drift
from kube_rewrap.scheduler.campaigns.requests import Inbox
from kube_rewrap.scheduler.campaigns.run import EVERYTHING, Lock, Order, order_of, told_in_fields
from kube_rewrap.scheduler.campaigns.service import Service, total
from kube_rewrap.scheduler.campaigns.transition import Halt
from kube_rewrap.scheduler.configuration.detect import detect
from kube_rewrap.scheduler.dispatch.celery import QueueDispatcher, Sender
from kube_rewrap.scheduler.dispatch.local import describe
from kube_rewrap.scheduler.keys.meter import Meter
from kube_rewrap.scheduler.keys.observer import Listeners, Observer
from kube_rewrap.scheduler.rotation.controller import Hands, Keeper, Outlets
from kube_rewrap.scheduler.rotation.driver import Books, ConfigurationFile, Rotator
from kube_rewrap.scheduler.rotation.preparation import Preparation
from kube_rewrap.scheduler.rotation.probes import ClusterSenses, Converged, leaders_campaigner, not_converged
from kube_rewrap.scheduler.rotation.transition import is_way_back
from kube_rewrap.worker.errors import BusyError, OutdatedError, RefusedError, StoppedError, WorkerError
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause, Wish
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.generation import GenerationRecord, History
from kube_rewrap.worker.records.generations import Generations, settled
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import Origin, Request, RequestState
from kube_rewrap.worker.records.requests import Requests
from kube_rewrap.worker.records.rotations import Rotations
from kube_rewrap.worker.records.scan import Scan
from kube_rewrap.worker.records.scans import Scans
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.records.usages import Usages

_IDLE_SECONDS = 0.5
_PRESSURE_SECONDS = 2.0
_TIDY_SECONDS = 60.0
_RETRY_INCOMPLETE = 600.0
_log = structlog.get_logger()


class _UnconvergedError(RefusedError):
    """Not all kube-apiservers are known to run the configuration."""


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
        self._repaired = term.outlets.repaired
        store, keyspace = service.engine.store, service.engine.keyspace
        self._campaigns = Campaigns(store, keyspace, [guard])
        self._inbox = Inbox(Requests(store, keyspace, [guard]), service.audit)
        self._safety = Safety(settings, service, self._campaigns)
        self._scans = Scans(store, keyspace, [guard])
        self._shown: dict[bool, tuple[str, CampaignState]] = {}
        self._drift = Drift()
        self._outdated: set[str] = set()
        self._full_check_at = 0.0
        self._retry_incomplete = _RETRY_INCOMPLETE
        self._tidy_at = 0.0
        self._said_busy = ""

    def drifted(self, resource: str, namespace: str) -> None:
        """Note that something was written under another key than the primary."""
        self._drift.add(resource, namespace)
        self._metrics.drifted()

    def check_now(self) -> None:
        """Let the next full check be soon: something may have been missed."""
        self._full_check_at = 0.0

    async def run(self) -> None:
        """Work until the brake is pulled; raises its reason, or what makes going on impossible."""
        now = describe(self._service.generation)
        stored = await self._require_current(now)
        await self._brake.unless_pulled(self._service.note_restore())
        await self._service.engine.learn_what_is_complete()
        listeners = Listeners(self.drifted, self.check_now)
        observer = Observer(self._service, self._guard, listeners)
        beside = [self._begin_beside("observer", observer.run())]
        try:
            await self._compare(stored, now)
            beside.append(self._begin_beside("keeper", self._keeper(observer).run()))
            await self._show_records()
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

    def _keeper(self, observer: Observer) -> Keeper:
        engine, term = self._service.engine, self._term
        rotations = Rotations(engine.store, engine.keyspace, [self._guard])
        campaigner = leaders_campaigner(self._campaigns, self._inbox)
        senses = ClusterSenses(self._service, self._converged, campaigner, self._brake)
        rotator = Rotator(rotations, term.file, senses, Books(self._service.audit, engine.ledger))
        usages = Usages(engine.store, engine.keyspace, [self._guard])
        meter = Meter(usages, self._campaigns, observer)
        preparation = Preparation(self._settings, self._service, rotations, term.converged, term.file)
        return Keeper(self._settings, self._service, Hands(meter, preparation, rotator), term.outlets)

    # What is to be done.

    def _generations(self) -> Generations:
        return Generations(self._service.engine.store, self._service.engine.keyspace, [self._guard])

    async def _require_current(self, now: GenerationRecord) -> Stored[History] | None:
        """Return the generation on record. Raises OutdatedError when this one was in force before that.

        A scheduler on another node that comes to lead may hold a copy of the file that nobody renewed.
        Whoever held the newer one until a moment ago saw the file go back with its own eyes: that is a
        change as any other. So is the removal of a key that a rotation added and nobody used.
        """
        stored = await self._generations().load()
        if stored is None or now.hash not in stored.value.former or self._term.before == stored.value.generation.hash:
            return stored
        rotations = await Rotations(self._service.engine.store, self._service.engine.keyspace).all()
        if rotations and is_way_back(rotations[-1].value, stored.value.generation, now):
            return stored
        newer = stored.value.generation.hash
        raise OutdatedError(
            f"the file is {now.hash}, which was in force before {newer} took its place: it is taken "
            "for an old copy, and nothing is written under it. Bring it up to date; to really go back to it, change "
            "anything in it, a comment will do"
        )

    async def _compare(self, stored: Stored[History] | None, now: GenerationRecord) -> None:
        """Compare the generation with the one on record, and ask for a campaign if it takes one.

        What becomes of a name that governs nothing is no change: nothing is stored by it.
        """
        found = detect(stored.value.generation if stored else None, now)
        changes = [change for change in found if not self._service.is_idle(change.resource)]
        for change in changes:
            level = _log.warning if change.danger else _log.info
            level("configuration.changed", generation=now.hash, **change.log_context())
        wanted = [change for change in changes if change.needs_campaign]
        if wanted:
            reason = f"{len(wanted)} changes, the first: {wanted[0].because}"
            await self._inbox.ask_for_change(stored.revision if stored else 0, reason)
            self._put_off_full_check()
        if stored is not None and stored.value.generation == now:
            return
        if stored is not None and not changes:
            await self._adopt(stored.value.generation.hash, now.hash)
        # Recorded last: a crash before this compares again, and asks by the same name.
        late = settled(stored, [one.value for one in await self._campaigns.all()], now)
        fresh = stored.holding(stored.value.followed_by(now, late)) if stored else Stored(History(now, settled=late))
        await self._generations().save(fresh)
        await self._service.audit.append("configuration.accepted", "", generation=now.hash, changes=len(changes))

    async def _adopt(self, before: str, now: str) -> None:
        """Go on with what was begun under another file of the same meaning."""
        for stored in await self._campaigns.unfinished():
            if stored.value.generation == before:
                adopted = await self._campaigns.change(
                    stored.value.id, lambda campaign: replace(campaign, generation=now)
                )
                if adopted is not None:
                    because = "the file changed and its meaning did not"
                    _log.info("campaign.adopted", **adopted.log_context(), because=because)

    async def _show_records(self) -> None:
        """Show what is on record of this generation, from whoever led before or ran: scan, proof, campaigns."""
        scan = await self._scans.load()
        in_force = scan is not None and scan.generation == self._service.generation.hash
        if scan is not None and in_force and scan.revision > await self._service.accepted_at():
            self._metrics.scanned(scan)
            _tell_unreadable(scan)
        proof = await self._service.last_proof()
        if proof is not None:
            self._metrics.proven(proof)
        await self._show_campaigns()

    async def _show_campaigns(self) -> None:
        """Show the newest campaign of everything, and the newest of a part, where they are not shown as they are."""
        campaigns = [stored.value for stored in await self._campaigns.all()]
        mine = [campaign for campaign in campaigns if campaign.generation == self._service.generation.hash]
        for campaign in {one.whole: one for one in mine}.values():
            await self._show(campaign)

    async def _show(self, campaign: Campaign) -> None:
        if self._shown.get(campaign.whole) == (campaign.id, campaign.state):
            return
        records = self._service.records(campaign.id, self._guard)
        batches = [one.value async for one in records.checkpoints.all(campaign.id)]
        report = sum((batch.report for batch in batches), BatchReport())
        self._metrics.campaign(campaign, report, batches, 0.0, whole=campaign.whole)
        self._shown[campaign.whole] = campaign.id, campaign.state

    async def _scanned(self, found: Inventory) -> None:
        """Record and show what a scan of everything found, and say what can't be read."""
        scan = Scan.of(found, self._service.generation.hash, time.time(), await self._scans.load())
        await self._scans.replace(scan)
        self._metrics.scanned(scan)
        _tell_unreadable(scan)

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
        await self._inbox.ask_for_repairs(self._drift)
        now = asyncio.get_running_loop().time()
        if now < self._tidy_at:
            return
        self._tidy_at = now + _TIDY_SECONDS
        await self._inbox.forget_old()
        await self._show_campaigns()
        await self._tell_repaired()

    async def _under_lock(self, lock: Lock, lock_brake: Brake, request: Stored[Request] | None) -> None:
        # Looked at again: somebody else may have had the lock until now.
        unfinished = await self._campaigns.unfinished()
        mine = [one for one in unfinished if one.value.generation == self._service.generation.hash]
        others = [one for one in unfinished if one not in mine]
        await self._service.supersede(others, "the configuration changed; what was rewritten stays", lock.guard)
        if mine:
            _log.info("campaign.resumed", **mine[0].value.log_context(), because=mine[0].value.because)
            await self._drive(mine[0], lock, lock_brake)
        elif request is not None and (stored := await self._meet(request, lock)) is not None:
            await self._drive(stored, lock, lock_brake)

    async def _meet(self, stored: Stored[Request], lock: Lock) -> Stored[Campaign] | None:
        """Plan what a request asks for; None when it is refused, or nothing is to be done."""
        request = stored.value
        wish = await self._with_former_pause(request.wish, request.origin)
        order = Order(request.resources, request.namespaces, wish)
        try:
            await self._require_converged()
            plan = await self._brake.unless_pulled(self._service.plan(order))
            if order.covers_everything:
                await self._scanned(plan.found)
            # Refused or not: a key is watched, and rotated when that is due, once it is on record.
            await self._service.begin_budgets(plan.look)
            plan.require_safe()
        except _UnconvergedError as refusal:
            await self._inbox.put_off_until_converged(stored, str(refusal))
            return None
        except ConfigError as fault:
            # It will never be met, and must not hold up others for ever.
            await self._inbox.decide(stored, RequestState.REFUSED, told_in_fields(fault))
            return None
        except RefusedError as refusal:
            await self._inbox.put_off(stored, str(refusal))
            return None
        if plan.found.is_clean and request.origin in {Origin.DRIFT, Origin.RESYNC}:
            await self._inbox.decide(stored, RequestState.ACCEPTED, "nothing was left to do")
            return None
        attended = request.origin is Origin.OPERATOR
        campaign = await self._service.take_up(plan, wish, lock.guard, attended=attended)
        await self._inbox.decide(stored, RequestState.ACCEPTED, "a campaign was planned", campaign.value.id)
        return campaign

    async def _require_converged(self) -> None:
        """Raise _UnconvergedError while a kube-apiserver may be unable to read what would be rewritten.

        Where no address of one is known, nobody can tell, and whoever changed the file is trusted.
        """
        if self._settings.apiservers.addresses:
            unconverged = await not_converged(self._term.converged, self._service.generation.hash)
            if unconverged:
                raise _UnconvergedError(unconverged)

    async def _converged(self, generation: str) -> tuple[bool, str]:
        """Ask for a rotation, and tell the inbox, of which something may wait for the same."""
        is_so, because = await self._term.converged(generation)
        if is_so and generation == self._service.generation.hash:
            self._inbox.converged()
        return is_so, because

    async def _with_former_pause(self, wish: Wish, origin: Origin) -> Wish:
        """Let what nobody asked for begin at rest if an operator had paused the campaign before it."""
        if origin is Origin.OPERATOR:
            return wish
        campaigns = [stored.value for stored in await self._campaigns.all()]
        last = campaigns[-1] if campaigns else None
        if last is None or last.state is not CampaignState.SUPERSEDED or last.paused_for is not Pause.OPERATOR:
            return wish
        return replace(wish, paused=True)

    # One campaign.

    async def _drive(self, stored: Stored[Campaign], lock: Lock, lock_brake: Brake) -> None:
        """Go round until the campaign ends, somebody ends it, or the brake is pulled."""
        name = stored.value.id
        dispatcher = QueueDispatcher(self._sender, time.monotonic)
        prover = QueueProver(self._service, dispatcher, lock.guard, order_of(stored.value))
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
                await self._show_campaigns()
                return
            progress.tell(done.stored.value)
            campaign, batches = done.stored.value, reconciler.checkpoints
            self._metrics.campaign(campaign, progress.report, batches, progress.rate, whole=campaign.whole)
            self._shown[campaign.whole] = campaign.id, campaign.state
            if isinstance(done.step.action, Halt):
                await self._service.alarm(campaign, done.step.because)
            if done.is_end:
                await self._ended(done, prover)
                return
            if done.stored.value.state is CampaignState.PAUSED:
                await dispatcher.wait(_IDLE_SECONDS)
                look_at = 0.0  # a resumed campaign waits for this look

    async def _ended(self, done: Round, prover: QueueProver) -> None:
        campaign = done.stored.value
        report = await total(self._service.records(campaign.id, self._guard), campaign.id)
        await prover.forget(campaign.id)
        if done.proof is not None and campaign.whole:
            await self._scanned(done.proof)
        if campaign.state is CampaignState.INCOMPLETE and done.proof is not None and done.proof.stale:
            # Parked batches, or a late resource, get another chance, later and later.
            self._put_off_full_check(self._retry_incomplete)
            self._retry_incomplete *= 2
        elif campaign.state is CampaignState.COMPLETE:
            self._retry_incomplete = _RETRY_INCOMPLETE
            if self._full_check_at == 0.0 and campaign.whole:
                self._put_off_full_check()
        await self._service.tell_finished(campaign, report)
        await self._service.engine.learn_what_is_complete()
        if campaign.wish.repair:
            self._repaired.add(campaign, report)
            await self._tell_repaired()

    async def _tell_repaired(self) -> None:
        """Put into the audit log what repairs of drift came to: the first at once, then a sum an hour."""
        now = time.time()
        detail = self._repaired.to_tell(now)
        if detail is not None:
            await self._service.audit.append("drift.repaired", "", **detail)
            self._repaired.tell(now)

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
        because = f"{found.stale} of {found.objects} objects are not under their primary key"
        _log.info(
            "check.finished",
            revision=found.revision,
            stale=found.stale,
            unreadable=found.unreadable,
            objects=found.objects,
            because=f"{because}, and {found.unreadable} can't be read",
        )
        await self._scanned(found)
        if found.stale:
            await self._inbox.ask_for_resync(f"a full check found that {because}")
        return True


def _tell_unreadable(scan: Scan) -> None:
    """Say what a scan of everything could not read, by resource and reason."""
    for one in scan.unreadable:
        _log.error(
            "scan.unreadable",
            resource=one.resource,
            reason=one.reason.value,
            objects=one.objects,
            revision=scan.revision,
            because=f"{one.objects} objects of {one.resource} can't be read: {one.reason.value}",
        )
