"""What the leading scheduler does under one generation of the configuration.

1. Compare the generation with the one on record; what changed asks for a campaign. Without a change,
   compare the cluster with it all the same: things happen while no scheduler runs.
2. End what is left of campaigns of other generations.
3. One campaign at a time: the unfinished one first, else the request of the highest priority.
4. Beside it, the observer watches every write; what it finds under another key becomes a request.

Requests are records: whoever leads next finds them. A leader works on campaigns under the same lock
as `rewrap run`, and waits while that has it.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import structlog

from config.errors import ConfigError
from config.hours import is_open, next_opening, parse_hours
from config.settings import Settings
from scheduler.census import Territory
from scheduler.detect import detect
from scheduler.dispatch.local import describe
from scheduler.dispatch.queue import QueueDispatcher, Sender
from scheduler.metrics import SchedulerMetrics
from scheduler.observer import Listeners, Observer
from scheduler.pausing import Pressure, judge_rest, judge_room
from scheduler.progress import Progress
from scheduler.proving import QueueProver
from scheduler.reconcile import Reconciler, Round
from scheduler.run import EVERYTHING, Lock, Order
from scheduler.service import Service, total
from worker.errors import BusyError, RefusedError, StoppedError, WorkerError
from worker.etcd.store import Expect
from worker.model.campaign import Campaign, CampaignState, Pause, Wish
from worker.model.request import Origin, Request, RequestKind, RequestState
from worker.pace.brake import Brake
from worker.pace.pressure import judge_space
from worker.state.campaigns import Campaigns, StoredCampaign
from worker.state.generations import Generations
from worker.state.requests import Requests, StoredRequest

_IDLE_SECONDS = 0.5
_PRESSURE_SECONDS = 2.0
_RETRY_SECONDS = 30.0
_TIDY_SECONDS = 60.0
_LONGEST_RETRY = 600.0
_RETRY_INCOMPLETE = 600.0
_DRIFT_PRIORITY = 50
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Later:
    """When a request that could not be met is tried again (loop time), and the pause after that."""

    at: float
    pause: float


@dataclass(frozen=True, slots=True)
class Term:
    """What a leader has while it leads: its fencing token, a brake that ends the reign, and its metrics."""

    guard: Expect
    brake: Brake
    metrics: SchedulerMetrics


class Reign:
    """See the module's docstring."""

    def __init__(self, settings: Settings, service: Service, sender: Sender, term: Term) -> None:
        self._settings = settings
        self._service = service
        self._sender = sender
        self._guard = guard = term.guard
        self._brake = term.brake
        self._metrics = term.metrics
        store, keyspace = service.engine.store, service.engine.keyspace
        self._campaigns = Campaigns(store, keyspace, [guard])
        self._requests = Requests(store, keyspace, [guard])
        self._audit = service.audit
        self._hours = parse_hours(settings.pace.windows, settings.pace.time_zone)
        self._later: dict[str, Later] = {}
        self._drifted: set[tuple[str, str]] = set()
        self._full_check_at = 0.0
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
        territory = await self._service.territory()
        listeners = Listeners(self.drifted, self.check_now)
        observer = Observer(self._service.engine, territory.governed, self._guard, listeners)
        observing = asyncio.create_task(observer.run(), name="observer")
        observing.add_done_callback(self._end_with)
        try:
            await self._compare()
            while not observing.done():
                self._brake.check()
                self._metrics.lags(observer.lag)
                if not await self._work_once():
                    await asyncio.sleep(_IDLE_SECONDS * random.uniform(0.5, 1.0))  # noqa: S311 - jitter
            observing.result()
        finally:
            observing.cancel()
            await asyncio.gather(observing, return_exceptions=True)

    def _end_with(self, observing: asyncio.Task[None]) -> None:
        """End the reign with its observer, in the middle of a campaign too: nobody would count what keys are used."""
        error = None if observing.cancelled() else observing.exception()
        if isinstance(error, WorkerError):
            self._brake.pull(error)

    # What is to be done.

    async def _compare(self) -> None:
        """Compare the generation with the one on record, and ask for a campaign if it takes one."""
        generations = Generations(self._service.engine.store, self._service.engine.keyspace, [self._guard])
        stored = await generations.load()
        now = describe(self._service.generation)
        changes = detect(stored.generation if stored else None, now)
        for change in changes:
            level = _log.warning if change.danger else _log.info
            level("configuration.changed", generation=now.hash, **change.log_context())
        wanted = [change for change in changes if change.needs_campaign]
        revision = stored.revision if stored else 0
        if wanted:
            await self._withdraw_changes()
            reason = f"{len(wanted)} changes, the first: {wanted[0].because}"
            await self._ask(Origin.CHANGE, f"change-{revision}", reason, priority=1)
            self._put_off_full_check()
        # Recorded last: a crash before this compares again, and asks by the same name.
        if stored is None or stored.generation != now:
            await generations.save(now, revision)
            await self._audit.append("configuration.accepted", "", generation=now.hash, changes=len(changes))

    async def _withdraw_changes(self) -> None:
        """Give up requests for earlier configurations that could not be met so far."""
        for stored in await self._requests.all():
            request = stored.request
            if request.origin is Origin.CHANGE and request.state is RequestState.WAITING:
                because = "the configuration changed again before it could be met"
                await self._requests.decide(stored, request.decided(RequestState.CANCELLED, because))

    async def _ask(
        self, origin: Origin, name: str, reason: str, *, priority: int, resource: str = "", namespace: str = ""
    ) -> None:
        wish = Wish(reason=reason[:500], priority=priority)
        asked = Request(
            name,
            RequestKind.START,
            datetime.now(UTC).isoformat(),
            origin,
            (resource,) if resource else (),
            (namespace,) if namespace else (),
            wish,
        )
        if await self._requests.submit(asked):
            _log.info("request.made", request=name, origin=origin.value, because=wish.reason)

    async def _work_once(self) -> bool:
        """Do the next thing there is; False when there is nothing."""
        await self._report_drift()
        await self._tidy()
        unfinished = await self._campaigns.unfinished()
        request = None if unfinished else await self._next_request()
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
        """Forget old requests now and then."""
        now = asyncio.get_running_loop().time()
        if now >= self._tidy_at:
            self._tidy_at = now + _TIDY_SECONDS
            await self._requests.forget_old()
            await self._measure()

    async def _measure(self) -> None:
        self._metrics.budgets(await self._service.engine.ledger.all(), self._settings.budget.gcm_limit)

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

    async def _next_request(self) -> StoredRequest | None:
        """Return the request that is next: of the highest priority, the oldest first."""
        now = asyncio.get_running_loop().time()
        waiting = [
            one
            for one in await self._requests.all()
            if one.request.state is RequestState.WAITING and self._later.get(one.request.id, Later(0, 0)).at <= now
        ]
        return max(waiting, key=lambda one: one.request.wish.priority, default=None)

    async def _meet(self, stored: StoredRequest, lock: Lock) -> StoredCampaign | None:
        """Plan what a request asks for; None when it is refused, or nothing is to be done."""
        request = stored.request
        order = Order(request.resources, request.namespaces, request.wish)
        try:
            plan = await self._brake.unless_pulled(self._service.plan(order))
            plan.require_safe()
        except (ConfigError, RefusedError) as refusal:
            await self._put_off(stored, str(refusal))
            return None
        if plan.found.is_clean and request.origin in {Origin.DRIFT, Origin.RESYNC}:
            await self._decide(stored, RequestState.ACCEPTED, "nothing was left to do")
            return None
        await self._service.begin_budgets(plan)
        campaign = await self._service.take_up(plan, request.wish, lock.guard)
        await self._decide(stored, RequestState.ACCEPTED, "a campaign was planned", campaign.campaign.id)
        return campaign

    async def _put_off(self, stored: StoredRequest, because: str) -> None:
        """Refuse an operator's request; let one of our own wait, longer and longer."""
        request = stored.request
        if request.origin is Origin.OPERATOR:
            await self._decide(stored, RequestState.REFUSED, because)
            return
        before = self._later.get(request.id)
        pause = min(_LONGEST_RETRY, 2 * before.pause) if before else _RETRY_SECONDS
        self._later[request.id] = Later(asyncio.get_running_loop().time() + pause, pause)
        if request.because != because:
            _log.error("request.put_off", request=request.id, because=because)
            await self._requests.decide(stored, request.decided(RequestState.WAITING, because))

    async def _decide(self, stored: StoredRequest, state: RequestState, because: str, campaign: str = "") -> None:
        decided = stored.request.decided(state, because, campaign)
        await self._requests.decide(stored, decided)
        context = {"request": decided.id, "campaign": decided.campaign, "because": because}
        _log.info(f"request.{state.value}", **context)
        if state is RequestState.REFUSED:
            await self._audit.append("request.refused", "", request=decided.id, because=because)

    # One campaign.

    async def _drive(self, stored: StoredCampaign, lock: Lock, lock_brake: Brake) -> None:
        """Go round until the campaign ends, somebody ends it, or the brake is pulled."""
        name = stored.campaign.id
        order = Order(stored.campaign.scope.resources, stored.campaign.scope.namespaces)
        dispatcher = QueueDispatcher(self._sender, time.monotonic)
        prover = QueueProver(self._service, dispatcher, lock.guard, _whole(order, await self._service.territory()))
        progress = Progress(self._settings.service.progress)
        records = self._service.records(name, lock.guard)
        reconciler = Reconciler(records, dispatcher, prover, progress.watch)
        look_at = 0.0
        while True:
            self._brake.check()
            lock_brake.check()
            loop = asyncio.get_running_loop()
            if loop.time() >= look_at:
                look_at = loop.time() + _PRESSURE_SECONDS
                await self._keep_safe(name)
                await self._report_drift()
                progress.handed_back(await records.claims.handbacks())
            try:
                done = await reconciler.round(name)
            except StoppedError as stopped:
                _log.info("campaign.stopped", campaign=name, because=str(stopped))
                await prover.forget(name)
                await self._audit.append("campaign.stopped", name, because=str(stopped))
                return
            progress.tell(done.stored.campaign)
            self._metrics.campaign(done.stored.campaign, progress.report, progress.batches_left, progress.rate)
            if done.is_end:
                await self._ended(done, prover)
                return
            if done.stored.campaign.state is CampaignState.PAUSED:
                await dispatcher.wait(_IDLE_SECONDS)

    async def _ended(self, done: Round, prover: QueueProver) -> None:
        campaign = done.stored.campaign
        report = await total(self._service.records(campaign.id, self._guard), campaign.id)
        await prover.forget(campaign.id)
        await self._measure()
        if done.proof is not None and prover.is_whole:
            self._metrics.scanned(done.proof.stale, clean=done.proof.is_clean)
        if campaign.state is CampaignState.INCOMPLETE and done.proof is not None and done.proof.stale:
            self._put_off_full_check(_RETRY_INCOMPLETE)  # parked batches, or a late resource, get another chance
        elif campaign.state is CampaignState.COMPLETE and self._full_check_at == 0.0:
            self._put_off_full_check()
        await self._service.tell_finished(campaign, report)

    async def _keep_safe(self, name: str) -> None:
        """Let the campaign rest, or go on, as etcd's room, the budgets and the hours have it."""
        stored = await self._campaigns.get(name)
        if stored is None:
            return
        try:
            pressure = await self._pressure(stored.campaign)
        except WorkerError as error:
            _log.warning("space.unknown", because=str(error))
            return
        judged = judge_rest(stored.campaign, pressure)
        if judged == stored.campaign:
            return
        changed = await self._campaigns.change(name, lambda campaign: judge_rest(campaign, pressure))
        if changed is not None:
            event = "campaign.paused" if changed.state is CampaignState.PAUSED else "campaign.continued"
            _log.warning(event, **changed.log_context(), cause=changed.paused_for, because=changed.because)
            await self._audit.append(event, name, because=changed.because)

    async def _pressure(self, campaign: Campaign) -> Pressure:
        store, settings = self._service.engine.store, self._settings
        room = judge_space(await store.members(), await store.alarms(), 0, settings.space)
        return Pressure(
            judge_room(room, settings.space, campaign.paused_for),
            await self._service.exhausted(campaign.scope) if campaign.paused_for is Pause.BUDGET else None,
            self._closed(datetime.now(UTC)),
        )

    def _closed(self, now: datetime) -> str | None:
        if is_open(self._hours, now):
            return None
        opening = next_opening(self._hours, now) or now + timedelta(days=1)
        return f"outside the hours of --window; the next begin at {opening.isoformat(timespec='minutes')}"

    # What nobody asked for.

    async def _report_drift(self) -> None:
        """Ask for the repair of what was written under another key."""
        found, self._drifted = self._drifted, set()
        if not found:
            return
        waiting = {
            (one.request.resources[0], "".join(one.request.namespaces))
            for one in await self._requests.all()
            if one.request.origin is Origin.DRIFT and one.request.state is RequestState.WAITING
        }
        for resource, namespace in sorted(found - waiting):
            where = f"{resource} in {namespace}" if namespace else resource
            name = f"drift-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
            reason = f"drift: {where} was written under another key"
            await self._ask(
                Origin.DRIFT, name, reason, priority=_DRIFT_PRIORITY, resource=resource, namespace=namespace
            )

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
        self._metrics.scanned(found.stale, clean=found.is_clean)
        because = f"{found.stale} of {found.objects} objects are not under their primary key"
        _log.info("check.finished", revision=found.revision, stale=found.stale, objects=found.objects, because=because)
        if found.stale:
            name = f"resync-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
            await self._ask(Origin.RESYNC, name, f"a full check found that {because}", priority=0)
        return True


def _whole(order: Order, territory: Territory) -> Order:
    """Return the order without its resources when they are all that is governed: then the unknown is told, too."""
    governed: Iterable[str] = (one.resource for one in territory.governed)
    return replace(order, resources=()) if set(order.resources) >= set(governed) else order
