"""One process' campaigns: scan, plan, lock, loop and clean stop, from settings and a generation."""

from __future__ import annotations

import asyncio
import os
import random
import time
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial

import structlog

from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import GroupResource, Layout, Located
from kube_rewrap.config.errors import Fault, SettingsError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.batches import plan_batches
from kube_rewrap.scheduler.campaigns.discovery import Territory, survey, take_census
from kube_rewrap.scheduler.campaigns.ending import report_end
from kube_rewrap.scheduler.campaigns.loop import Reconciler, Records, Watcher
from kube_rewrap.scheduler.campaigns.pausing import plan_growth
from kube_rewrap.scheduler.campaigns.preflight import growth_of, preflight, space_of_records
from kube_rewrap.scheduler.campaigns.run import (
    EVERYTHING,
    Lock,
    Order,
    RunPlan,
    RunResult,
    choose,
    order_of,
    require_objects,
    resumable,
    scope_of,
    still_there,
)
from kube_rewrap.scheduler.campaigns.spans import Spans
from kube_rewrap.scheduler.dispatch.local import Engine, Examined, LocalDispatcher, open_engine
from kube_rewrap.worker.background import background
from kube_rewrap.worker.errors import (
    BusyError,
    CompactedError,
    FencedError,
    KmsRefusedError,
    RefusedError,
    SpaceError,
    StoppedError,
    WorkerError,
)
from kube_rewrap.worker.etcd.ranges import KeyRange, key_text
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.pressure import judge_space
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.batch import Checkpoint, quarantined_by
from kube_rewrap.worker.records.budget import Budget, has_budget
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Growth, Pause, Scope, new_id
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.claims import Claims
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.inventory import Inventory, Look, ResourceRange
from kube_rewrap.worker.records.kek import Kek, observe
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.ledger import exhausted
from kube_rewrap.worker.records.observations import load
from kube_rewrap.worker.records.ownership import own, who
from kube_rewrap.worker.records.quarantine import Quarantine
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import KeyRef

_SPACE_SECONDS = 2.0
_SPACE_UNKNOWN = 30  # failed looks in a row; each may have waited for an unreachable server
_RESTARTS = 5
_BUSY_SECONDS = 2.0
_log = structlog.get_logger()

Chosen = Callable[[Territory, Order], tuple[ResourceRange, ...]]


class Service:
    """One process' work on one cluster under one generation. Made by `open_service`."""

    def __init__(
        self, settings: Settings, generation: Generation, layout: Layout, engine: Engine, actor: str = "rewrap run"
    ) -> None:
        self.engine = engine
        self.audit = AuditLog(engine.store, engine.keyspace, actor)
        self._settings = settings
        self.generation = generation
        self._layout = layout

    @property
    def spans(self) -> Spans:
        """The key ranges that a watch over everything governed has to cover."""
        return Spans(self.generation.configuration, self._layout)

    @property
    def chains(self) -> tuple[tuple[str, tuple[KeyRef, ...]], ...]:
        """Each configured name with its keys, in the file's order; marks a name that governs nothing."""
        names = self.generation.configuration.resource_names()
        told = {name: f"{name}, which governs nothing" if self.is_idle(name) else name for name in names}
        return tuple((told[name], self.engine.chains[name].described) for name in names)

    def is_idle(self, name: str) -> bool:
        """Whether a name governs nothing in any configuration."""
        return self._layout.why_idle(GroupResource.parse(name)) is not None

    async def territory(self) -> Territory:
        """Return what the configuration governs in this registry.

        Raises RefusedError when the registry is empty, or no configured name governs anything.
        """
        root = KeyRange.of_prefix(self._layout.root)
        if not (await self.engine.store.keys(root, 1))[0]:
            raise RefusedError(
                f"nothing lies under {key_text(root.start)}: is this the right etcd, and what is kube-apiserver's "
                "--etcd-prefix?"
            )
        territory = await survey(self.engine.store, self.generation.configuration, self._layout)
        names = map(GroupResource.parse, self.generation.configuration.resource_names())
        if because := self._layout.why_all_idle(names):
            raise RefusedError(because)
        return territory

    async def inventory(
        self, order: Order = EVERYTHING, chosen: Chosen = choose, *, peeks: bool = False
    ) -> tuple[Territory, Inventory]:
        """Scan what an order covers, at one revision; a scan of everything also lists unknown paths.

        Current objects up to the order's revision `since` count as stale, as `CampaignOptions` describes. With `peeks`,
        values under KMS count by the key that they name: no plugin is asked, and nothing is proven of them.

        The registry is surveyed after the revision is pinned, so that a resource that just got its first object is not
        left out. When etcd compacts the revision away, the scan restarts. Raises CompactedError when that happens too
        often, RefusedError as `territory` does.
        """
        await self.engine.learn_what_is_complete()
        for _ in range(_RESTARTS):
            revision = await self.engine.store.revision()
            territory = await self.territory()
            try:
                ranges = chosen(territory, order)
                found = await self.engine.inventory(ranges, revision, kek_since=order.options.since, peeks=peeks)
            except CompactedError:
                _log.warning("scan.restarted", revision=revision, because="etcd compacted the revision away")
                continue
            return territory, replace(found, unknown=territory.unknown) if order.covers_everything else found
        raise CompactedError(
            f"etcd compacted every revision away within one scan, {_RESTARTS} times; compact less often, or scan less "
            "at a time with --resource"
        )

    async def last_proof(self) -> Campaign | None:
        """Return the newest campaign that proved everything under this generation, None if there is none.

        A proof from before this generation came into force does not count: it may have been in force earlier, and
        others since.
        """
        accepted = await self.accepted_at()
        proofs = [
            stored.value
            for stored in await Campaigns(self.engine.store, self.engine.keyspace).all()
            if stored.value.state is CampaignState.COMPLETE
            and stored.value.ended_at
            and stored.value.generation == self.generation.hash
            and stored.value.proof_revision > accepted
            and stored.value.whole
        ]
        return max(proofs, key=lambda campaign: campaign.proof_revision, default=None)

    async def accepted_at(self) -> int:
        """Return the revision at which a scheduler put this generation in force, 0 if none did.

        Raises RecordError if the record of it is damaged.
        """
        known = await Generations(self.engine.store, self.engine.keyspace).load()
        return known.revision if known is not None and known.value.generation.hash == self.generation.hash else 0

    async def unfinished(self) -> list[Stored[Campaign]]:
        """Return the campaigns that have not ended."""
        return await Campaigns(self.engine.store, self.engine.keyspace).unfinished()

    async def examine(self, key: bytes) -> tuple[str, Examined]:
        """Return one object's resource and verdict.

        Raises SettingsError for a key that nothing governs, or that does not exist.
        """
        territory = await self.territory()
        resource = next((one.resource for one in territory.governed if key in one.range), None)
        if resource is None:
            raise _no_object(key, self._why_nobody_governs(key, territory))
        await self.engine.learn_what_is_complete()
        examined = await self.engine.examine(key, resource)
        if examined is None:
            raise _no_object(key, "does not exist")
        return resource, examined

    def _why_nobody_governs(self, key: bytes, territory: Territory) -> str:
        located = self._layout.resource_at(key)
        why = "lies under no resource that the configuration governs"
        if isinstance(located, Located):
            why = f"belongs to {located.resource}, no resource that the configuration governs"
            slips = [name for name, _, remedy in territory.idle if str(located.resource) in remedy.split("; ")[0]]
            if slips:
                why += f"; {', '.join(slips)} is another name, and governs nothing"
        return why

    async def budgets(self) -> list[Budget]:
        """Return the budgets on record, and those of configured keys that are not on record yet. Writes nothing."""
        return list((await self.engine.ledger.foreseen(self._keys(), None)).values())

    async def plan(self, order: Order) -> RunPlan:
        """Scan, and return what a run would do, with every reason not to start it. Writes nothing.

        Raises SettingsError for a resource that nothing governs, and for a named resource or namespace without objects
        unless the order allows it; KmsUnavailableError when a plugin names no KEK to write under.
        """
        territory = await self.territory()
        try:
            for one in choose(territory, order):
                self.engine.chains[one.resource].require_writable()
        except KmsRefusedError:
            self.engine.require_aimed()  # it knows why
            raise
        resumes = await self._resumable(scope_of(territory, order), order.options.since)
        since = resumes.value.options.since if resumes else order.options.since
        wanted = replace(order, options=replace(order.options, since=since))
        territory, found = await self.inventory(wanted, peeks=True)
        if not order.options.allow_empty:
            await self._require_objects(territory, found, order)
        look = await self._look(found, order)
        growth = await self._growth_of(found)
        to_write = found.stale_bytes + growth + space_of_records(found, self._settings.page.objects)
        members, alarms = await self.engine.store.members(), await self.engine.store.alarms()
        room = judge_space(members, alarms, to_write, self._settings.space)
        known = await self.engine.ledger.foreseen(self._keys(), look)
        refusals = preflight(
            found,
            known,
            room,
            self._settings.budget,
            await self.engine.store.revision(),
            allow_plaintext=order.options.allow_plaintext,
            since=since,
        )
        scope = scope_of(territory, order)
        return RunPlan(
            scope=scope,
            territory=territory,
            found=found,
            room=room,
            look=look,
            refusals=(*await self._keks_held(), *refusals),
            resumes=await self._resumable(scope, since),
            growth=growth,
            since=since,
        )

    async def _resumable(self, scope: Scope, since: int) -> Stored[Campaign] | None:
        return resumable(await self.unfinished(), self.generation.hash, scope, since)

    async def _growth_of(self, found: Inventory) -> int:
        """Return by how many bytes a campaign makes the objects larger; asks a plugin only for objects to move."""
        moving = {tally.primary: tally.resource for tally in found.resources if tally.elsewhere}
        grows = {primary: await self.engine.growth(resource) for primary, resource in moving.items()}
        return growth_of(found, grows)

    async def _require_objects(self, territory: Territory, found: Inventory, order: Order) -> None:
        """Raise SettingsError when a resource or a namespace that the order names holds no object."""
        held = {tally.resource for tally in found.resources if tally.objects}
        require_objects([name for name in order.resources if name not in held], "--resource")
        empty = [name for name in order.namespaces if not await self._holds(territory, order, name)]
        require_objects(empty, "--namespace")

    async def _holds(self, territory: Territory, order: Order, namespace: str) -> bool:
        for one in choose(territory, replace(order, namespaces=(namespace,))):
            if (await self.engine.store.keys(one.range, 1))[0]:
                return True
        return False

    async def run(self, plan: RunPlan, order: Order, lock: Lock, brake: Brake, watcher: Watcher) -> RunResult:
        """Carry out a plan to its proof, or until the brake is pulled. The caller holds `lock` (`owned`).

        Raises RefusedError with the plan's refusals. After any error, a later run resumes from the records.
        """
        plan.require_safe()
        started = asyncio.get_running_loop().time()
        async with background(brake.pull) as begin:
            begin("the space guard", partial(self._guard_space, brake))
            await self.begin_budgets(plan.look)
            stored = await self.take_up(plan, order.options, lock.guard)
            result = await self._finish(stored, lock, brake, watcher)
        return replace(result, seconds=asyncio.get_running_loop().time() - started)

    async def begin_budgets(self, look: Look | None, again: Collection[tuple[str, str]] = ()) -> None:
        """Record a budget for each configured key without one, with its earlier use as `look` estimates it.

        The use of keys in `again`, by resource and fingerprint, is estimated once more.
        """
        await self.engine.ledger.first_sight(self._keys(), look, again)

    async def look_at_keys(self, resources: Collection[str] = (), again: Collection[tuple[str, str]] = ()) -> None:
        """Scan these resources (none = all) and estimate what keys encrypted in them while no scheduler counted.

        `again` too, by resource and fingerprint. Asks no KMS plugin: values under KMS use up no budget.
        """
        _, found = await self.inventory(Order(tuple(resources)), still_there, peeks=True)
        look = found.look()
        # The last object of a resource may be gone since the caller saw it.
        gone = {name: {key.fingerprint: 0 for key in self.engine.chains[name].keys} for name in resources}
        await self.begin_budgets(replace(look, versions={**gone, **look.versions}), again)

    async def accept_budget(self, fingerprint: str) -> Budget | None:
        """Accept a restored budget as it is, on an operator's request; None if there is no such key.

        Marks all budgets that the restore affects first: the request is about this one only.
        """
        await self.note_restore()
        return await self.engine.ledger.accept(fingerprint)

    async def note_restore(self) -> None:
        """If etcd was restored from a backup, mark the budgets that this affects while etcd still shows it."""
        if await self.engine.ledger.was_restored():
            await self.look_at_keys()

    async def note_keks(self) -> None:
        """Record the KEKs that the plugins name, by the same rules as the leader (`configuration/keks.py`).

        A KEK that is named for the first time stands from now on, also if the run is refused because it is too new.
        Raises FencedError when another process changes the same record at the same time.
        """
        for stored, seen in await self._keks_seen():
            if stored is None or seen != stored.value:
                await self._keks.save(stored.holding(seen) if stored is not None else Stored(seen))

    @property
    def _keks(self) -> Keks:
        return Keks(self.engine.store, self.engine.keyspace)

    async def _keks_seen(self) -> list[tuple[Stored[Kek] | None, Kek]]:
        """Return the record of each KMS v2 provider that writes, and what it becomes by what the plugin names now."""
        found: list[tuple[Stored[Kek] | None, Kek]] = []
        for name, named in self.generation.targets.items():
            stored = await self._keks.get(name)
            known = stored.value if stored is not None else None
            found.append((stored, observe(known, name, named, time.time(), self._settings.kms.settle)))
        return found

    async def _keks_held(self) -> list[RefusedError]:
        """Return why nothing may be written yet under KEKs of this generation."""
        held = [seen.why_held(self._settings.kms.settle) for _, seen in await self._keks_seen()]
        return [KmsRefusedError(because) for because in held if because]

    async def exhausted(self, scope: Scope) -> str | None:
        """Return why a primary key of a scope has no write left, None if all have some."""
        budgets = await self.engine.ledger.all()
        limit = self._settings.budget.gcm_limit
        for key in dict.fromkeys(self.engine.chains[resource].primary for resource in scope.resources):
            budget = budgets.get(key.fingerprint)
            if budget is not None and budget.left(limit) == 0:
                return str(exhausted(key, budget, limit, await self.engine.store.revision()))
        return None

    def records(self, campaign: str, guard: Expect) -> Records:
        """Return the records of a campaign, fenced by the lock's `guard`."""
        store, keyspace = self.engine.store, self.engine.keyspace
        return Records(
            Campaigns(store, keyspace, [guard]),
            Checkpoints(store, keyspace, [guard]),
            Claims(store, keyspace),
            Quarantine(store, keyspace, campaign, [guard]),
        )

    async def _finish(self, stored: Stored[Campaign], lock: Lock, brake: Brake, watcher: Watcher) -> RunResult:
        records = self.records(stored.value.id, lock.guard)
        room = self._settings.pace.batches
        dispatcher = LocalDispatcher(self.engine, lock.session, brake, room, stored.value)
        before = await total(records, stored.value.id)
        reconciler = Reconciler(records, dispatcher, _Scan(self, order_of(stored.value), brake), watcher)
        try:
            done = await reconciler.finish(stored.value.id)
        except WorkerError as error:
            _log.warning("campaign.stopped", campaign=stored.value.id, because=str(error))
            raise
        finally:
            brake.pull(StoppedError("the run ended"))
            await dispatcher.close()
        assert done.proof is not None  # noqa: S101 - advance() finishes by a proof only
        ended = done.stored.value
        report = await total(records, ended.id)
        await report_end(self.engine, self.audit, ended, report)
        quarantined = tuple([one async for one in records.quarantine.all()])
        counts = {} if ended.state is CampaignState.COMPLETE else quarantined_by(reconciler.checkpoints)
        rewritten = report.rewritten - before.rewritten
        return RunResult(ended, report, rewritten, quarantined, counts, done.proof, 0.0)

    async def take_up(
        self, plan: RunPlan, options: CampaignOptions, guard: Expect, *, attended: bool = True
    ) -> Stored[Campaign]:
        """Return the campaign to work on: the unfinished one that does what is asked (`resumable`), else a new one.

        Supersedes all other unfinished ones. `attended`: an operator asked for it, so its quarantine may grow without
        limit.
        """
        campaigns = Campaigns(self.engine.store, self.engine.keyspace, [guard])
        unfinished = await campaigns.unfinished()
        same = resumable(unfinished, self.generation.hash, plan.scope, plan.since)
        because = "another configuration or another scope is to be worked on; what was rewritten stays"
        await self.supersede([other for other in unfinished if other is not same], because, guard)
        if same is not None:
            _log.info("campaign.resumed", **same.value.log_context(), because=same.value.because)
            growth = replace(same.value.growth, most=None) if attended else same.value.growth
            resumed = replace(same.value, growth=growth, whole=plan.is_whole)
            by_word = {None, Pause.OPERATOR} if attended else {None, Pause.OPERATOR, Pause.QUARANTINE}
            if resumed.paused_for not in by_word:
                # This plan has checked the cause of the pause again.
                resumed = resumed.moved(CampaignState.RUNNING, "taken up again")
            return same if resumed == same.value else await campaigns.save(replace(same, value=resumed))
        await campaigns.forget_old()
        return await self._plan_anew(plan, replace(options, since=plan.since), campaigns, attended=attended)

    async def supersede(self, others: Iterable[Stored[Campaign]], because: str, guard: Expect) -> None:
        """End campaigns that newer work replaces; fences their workers."""
        campaigns = Campaigns(self.engine.store, self.engine.keyspace, [guard])
        for other in others:
            since = other.value.options.since
            again = (
                f"; objects last written up to revision {since} may be left: ask again with --since" if since else ""
            )
            moved = other.value.moved(CampaignState.SUPERSEDED, because + again)
            # The cause of its pause stays on record: an operator's pause outlives a change of the file.
            moved = replace(moved, ended_at=_now(), paused_for=other.value.paused_for)
            await campaigns.save(replace(other, value=moved))
            _log.info("campaign.superseded", **moved.log_context(), because=moved.because)
            await self.audit.append("campaign.superseded", moved.id, because=moved.because)

    async def _growth(self, plan: RunPlan, campaigns: Campaigns, *, attended: bool) -> Growth:
        known = [stored.value for stored in await campaigns.all()]
        return plan_growth(known, plan.scope, plan.found.revision, attended=attended)

    async def _plan_anew(
        self, plan: RunPlan, options: CampaignOptions, campaigns: Campaigns, *, attended: bool
    ) -> Stored[Campaign]:
        now = datetime.now(UTC)
        name = new_id(now, os.urandom(2))
        census = []
        if not plan.found.leaves_nothing:
            covered = [one for one in plan.territory.governed if one.resource in plan.scope.resources]
            places = plan.scope.namespaces or (None,)
            census = [await take_census(self.engine.store, one, place) for one in covered for place in places]
        batches = plan_batches(name, self.generation.hash, census)
        because = f"{plan.found.stale} of {plan.found.objects} objects are not under their primary key"
        if plan.since:
            because += f", or were last written at or before revision {plan.since}"
        campaign = Campaign(
            name,
            CampaignState.RUNNING,
            self.generation.hash,
            plan.scope,
            len(batches),
            now.isoformat(),
            f"{options.reason}: {because}" if options.reason else because,
            options=options,
            growth=await self._growth(plan, campaigns, attended=attended),
            whole=plan.is_whole,
        )
        if options.paused:
            campaign = campaign.paused(Pause.OPERATOR, f"paused by an operator before it began; {campaign.because}")
        context = {**campaign.log_context(), "batches": len(batches), "because": campaign.because}
        _log.info("campaign.planned", **context)
        created = await campaigns.create(campaign, [Checkpoint(batch) for batch in batches])
        await campaigns.forget_quarantines_but(await self._named(campaign, campaigns))
        if not options.repair:
            await self.audit.append("campaign.planned", name, generation=campaign.generation, because=campaign.because)
        return created

    async def _named(self, campaign: Campaign, campaigns: Campaigns) -> set[str]:
        """Return the campaigns whose quarantine records are kept: this one, and the last over everything."""
        known = sorted((stored.value for stored in await campaigns.all()), key=lambda one: one.planned_at)
        whole = [one.id for one in known if one.whole]
        return {campaign.id, *whole[-1:]}

    def _keys(self) -> list[KeyRef]:
        """Return the keys that have a write budget.

        Also those of entries that govern nothing yet: before a restore, they may have encrypted objects that are gone
        now.
        """
        names = self.generation.configuration.resource_names()
        keys = (key for name in names for key in self.engine.chains[name].keys)
        return [key for key in keys if has_budget(key)]

    async def _look(self, found: Inventory, order: Order) -> Look | None:
        """Estimate each key's encryptions by all objects, not only the order's; None if no estimate is needed."""
        if order.covers_everything:
            return found.look()
        known, keys = await self.engine.ledger.all(), {key.fingerprint for key in self._keys()}
        seen = await load(self.engine.store, self.engine.keyspace)
        if keys <= set(known) and not any(
            known[key.fingerprint].is_to_see(one.resource, seen)
            for one in (await self.territory()).governed
            for key in self.engine.chains[one.resource].keys
            if key.fingerprint in keys
        ):
            return None
        _, whole = await self.inventory()
        return whole.look()

    @asynccontextmanager
    async def owned(self, order: Order, brake: Brake, command: str = "rewrap run") -> AsyncIterator[Lock]:
        """Hold the lock on campaigns, and pull the brake when it is lost.

        With `order.wait`, retries until the brake is pulled; else raises BusyError when another process holds the
        lock.
        """
        async with AsyncExitStack() as stack:
            yield await self._lock(stack, who(command), order, brake)

    async def _lock(self, stack: AsyncExitStack, holder: Mapping[str, object], order: Order, brake: Brake) -> Lock:
        waited = False
        while True:
            brake.check()
            try:
                holding = own(self.engine.store, self.engine.keyspace, holder, brake.pull)
                session, guard = await stack.enter_async_context(holding)
                return Lock(session, guard, waited)
            except BusyError as busy:
                if not order.wait:
                    raise
                waited = True
                _log.info("lock.waiting", because=str(busy))
            await asyncio.sleep(_BUSY_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - jitter

    async def _guard_space(self, brake: Brake) -> None:
        """Pull the brake before etcd is full, or when its size stays unknown. Runs until cancelled."""
        unknown = 0
        while True:
            await asyncio.sleep(_SPACE_SECONDS)
            try:
                members, alarms = await self.engine.store.members(), await self.engine.store.alarms()
            except WorkerError as error:
                unknown += 1
                _log.warning("space.unknown", because=str(error))
                if unknown >= _SPACE_UNKNOWN:
                    brake.pull(error)
                continue
            unknown = 0
            room = judge_space(members, alarms, 0, self._settings.space)
            if room.refusal is not None:
                brake.pull(SpaceError(room.refusal))


class _Scan:
    """Proves a campaign by a scan in this process."""

    def __init__(self, service: Service, order: Order, brake: Brake) -> None:
        self._service = service
        self._order = order
        self._brake = brake

    async def look(self, stored: Stored[Campaign], _owned: frozenset[int]) -> Inventory:
        """See Prover. Raises FencedError when a scheduler has adopted the campaign, which it then proves itself."""
        campaign, mine = stored.value, self._service.generation.hash
        if campaign.generation != mine:
            raise FencedError(
                f"a scheduler took the campaign {campaign.id} over for the configuration {campaign.generation}, and "
                f"will prove it; this process holds {mine}"
            )
        return (await self._brake.unless_pulled(self._service.inventory(self._order, still_there)))[1]

    async def forget(self, _campaign: str) -> None:
        """See Prover. There is nothing to delete."""


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


async def total(records: Records, campaign: str) -> BatchReport:
    """Return the sum of the recorded reports of a campaign's batches."""
    reports = [one.value.report async for one in records.checkpoints.all(campaign)]
    return sum(reports, BatchReport())


def _no_object(key: bytes, message: str) -> SettingsError:
    return SettingsError("command line", (Fault(key_text(key), message, "see `etcdctl get --prefix --keys-only`"),))


@asynccontextmanager
async def open_service(settings: Settings, generation: Generation, actor: str = "rewrap run") -> AsyncIterator[Service]:
    """Connect to etcd and yield the service; `actor` is its name in the audit log.

    Raises UnavailableError, ConfigError.
    """
    layout = Layout.from_texts(settings.keyspace.etcd_prefix, settings.keyspace.paths)
    for name in generation.configuration.resource_names():
        idle = layout.why_idle(GroupResource.parse(name))
        if idle is not None:
            _log.warning("configuration.idle_name", resource=name, because=idle[0])
    async with open_engine(settings, generation) as engine:
        yield Service(settings, engine.generation, layout, engine, actor)
