"""The embedded run of `rewrap run`: carries out a plan to its proof, in this process or with children of it."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import structlog

from kube_rewrap.scheduler.campaigns.ending import report_end, sum_reports
from kube_rewrap.scheduler.campaigns.lock import Lock
from kube_rewrap.scheduler.campaigns.loop import Reconciler, Records
from kube_rewrap.scheduler.campaigns.progress import Progress, Watcher
from kube_rewrap.scheduler.campaigns.proof import PartsProver
from kube_rewrap.scheduler.campaigns.run import RunPlan, RunResult
from kube_rewrap.scheduler.campaigns.take_up import take_up
from kube_rewrap.scheduler.dispatch.limits import Limits
from kube_rewrap.scheduler.dispatch.local import LocalDispatcher, Worker
from kube_rewrap.scheduler.dispatch.processes import ChildCommand, ChildWorker
from kube_rewrap.scheduler.engine import ClaimingWorker, settle
from kube_rewrap.scheduler.registry.budgets import begin_budgets
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scope import spec_of
from kube_rewrap.worker.background import background
from kube_rewrap.worker.errors import FencedError, SpaceError, StoppedError, WorkerError
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.pressure import judge_space
from kube_rewrap.worker.records.batch import quarantined_by
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.standing import Standing
from kube_rewrap.worker.records.table import Stored

_SPACE_SECONDS = 2.0
_SPACE_UNKNOWN = 30
"""Failed reads of etcd's size in a row that stop the run; each may have waited for an unreachable server."""

_log = structlog.get_logger()


async def run_embedded(
    cluster: Cluster,
    plan: RunPlan,
    lock: Lock,
    brake: Brake,
    watcher: Watcher,
    *,
    children: Sequence[ChildCommand] = (),
) -> RunResult:
    """Carry out a plan to its proof, or until the brake is pulled. The caller holds `lock`.

    The work is done by a process of each of `children`, no more than there are batches; with none, by this process.

    Raises RefusedError with the plan's refusals. After any error, a later run resumes from the records.
    """
    plan.require_safe()
    started = asyncio.get_running_loop().time()
    async with background(brake.pull) as begin:
        begin("the space guard", partial(_guard_space, cluster, brake))
        await begin_budgets(cluster, plan.estimate)
        stored = await take_up(cluster, plan, lock.guard)
        result = await _finish(cluster, stored, lock, brake, watcher, children=children)
    return replace(result, seconds=asyncio.get_running_loop().time() - started)


async def _finish(
    cluster: Cluster,
    stored: Stored[Campaign],
    lock: Lock,
    brake: Brake,
    watcher: Watcher,
    *,
    children: Sequence[ChildCommand],
) -> RunResult:
    name, engine = stored.value.id, cluster.engine
    records = Records.of(engine.store, engine.keyspace, name, lock.guard)
    limits = Limits(cluster.settings)
    # More than that would have no work, or no place in the window.
    used = children[: max(1, min(stored.value.batches, cluster.settings.pace.max_window))]
    workers: list[Worker] = [ChildWorker(command, name, limits, len(used)) for command in used]
    workers = workers or [ClaimingWorker(engine, lock.session, brake, name)]
    dispatcher = LocalDispatcher(workers, brake, cluster.settings.pace.batches)
    before = await sum_reports(records.checkpoints, name)
    prover = PartsProver(cluster, dispatcher, lock.guard, spec_of(stored.value))
    progress = Progress(cluster.settings.service.progress, set())

    def watch(campaign: Campaign, standing: Standing) -> None:
        progress.watch(campaign, standing)
        watcher(campaign, standing)

    reconciler = Reconciler(records, dispatcher, prover, watch)
    try:
        done = await reconciler.finish(name)
    except WorkerError as error:
        reason = await _reason(records, name, error)
        if isinstance(reason, StoppedError):
            brake.pull(reason)
            await dispatcher.close()  # after which the swaps in flight are on record, too
            reason = StoppedError(f"{reason}: {await _so_far(records, name, before)}")
        level = _log.info if isinstance(reason, StoppedError) else _log.warning
        level("campaign.interrupted", campaign=name, because=str(reason))
        if reason is error:
            raise
        raise reason from None
    finally:
        brake.pull(StoppedError("the run ended"))
        await dispatcher.close()
        await settle(engine)
    assert done.proof is not None  # noqa: S101 - advance() finishes by a proof only
    ended = done.stored.value
    report = await sum_reports(records.checkpoints, name)
    await report_end(cluster, ended, report)
    quarantined = tuple([one async for one in records.quarantine.all()])
    counts = {} if ended.state is CampaignState.COMPLETE else quarantined_by(reconciler.checkpoints)
    return RunResult(ended, report, report.rewritten - before.rewritten, quarantined, counts, done.proof, 0.0)


async def _so_far(records: Records, name: str, before: BatchReport) -> str:
    """Return what a stopped run and its campaign have done, and how to resume it."""
    try:
        stored, report = await records.campaigns.get(name), await sum_reports(records.checkpoints, name)
        batches = [one.value async for one in records.checkpoints.all(name)]
    except WorkerError as error:
        return f"what it did is on record, and can't be read now ({error}); run again to resume the campaign {name}"
    rewritten = f"this run rewrote {report.rewritten - before.rewritten:,} objects"
    if before.rewritten:
        rewritten += f", the campaign {report.rewritten:,}"
    if stored is None or stored.value.state.is_end:
        return rewritten
    left = Standing.of(batches, stored.value.sweeps).left
    rest = f"about {left:,} are not looked at yet" if left else "all were looked at, and the proof is left"
    again = f"rewrap campaign resume {name}, then run again" if stored.value.paused_for else "run again to resume it"
    return f"{rewritten}; {rest}. The campaign is {name}: {again}"


async def _reason(records: Records, name: str, error: WorkerError) -> WorkerError:
    """Return the error that a run ends with: the campaign's end by another process, if that is why it stopped.

    Chance decides which part of the run notices such an end first: the loop reads the campaign's record, and a worker
    meets its deleted claim. StoppedError: an operator cancelled it; FencedError: another process took it over.
    """
    if not isinstance(error, FencedError | StoppedError):
        return error
    try:
        stored = await records.campaigns.get(name)
    except WorkerError:
        return error
    if stored is None or not stored.value.state.is_end:
        return error
    state = stored.value.state
    kind = StoppedError if state is CampaignState.CANCELLED else FencedError
    return kind(f"the campaign {name} is {state.value}: another process ended it")


async def _guard_space(cluster: Cluster, brake: Brake) -> None:
    """Pull the brake before etcd is full, or when its size stays unknown. Runs until cancelled."""
    store, unknown = cluster.engine.store, 0
    while True:
        await asyncio.sleep(_SPACE_SECONDS)
        try:
            members, alarms = await store.members(), await store.alarms()
        except WorkerError as error:
            unknown += 1
            _log.warning("space.unknown", because=str(error))
            if unknown >= _SPACE_UNKNOWN:
                brake.pull(error)
            continue
        unknown = 0
        room = judge_space(members, alarms, 0, cluster.settings.space)
        if room.refusal is not None:
            brake.pull(SpaceError(room.refusal))
