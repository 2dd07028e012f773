"""Executes a message from the queue of batches: a slice of a batch, or a part of a proof.

A message is a hint: it names a campaign and a number, and the worker reads the work to do from etcd. So a late,
duplicate or forged message causes no work that the records do not ask for. The claim on a batch is a lock on a lease;
the worker takes it only if the campaign's record has not changed since it read the record.

Not handled: control messages, for which `tasks.py` records a request to the scheduler.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

import structlog

from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.worker.background import background
from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.errors import (
    BudgetExhaustedError,
    BusyError,
    FencedError,
    KmsRefusedError,
    KmsSourceError,
    KmsTargetError,
    KmsUnavailableError,
    QuarantineGrewError,
    SpaceError,
    StoppedError,
    TemporaryError,
    WorkerError,
)
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.proving import scan_part
from kube_rewrap.worker.queue.plugin_report import PluginMeter, PluginReport
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.shared import SharedPace
from kube_rewrap.worker.records.audit import AuditLog
from kube_rewrap.worker.records.batch import BatchSpec, BatchState, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Pause
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import BatchRecord, Checkpoints
from kube_rewrap.worker.records.handbacks import Handbacks
from kube_rewrap.worker.records.holder import Handback
from kube_rewrap.worker.records.ownership import CLAIM_SECONDS, open_session, who
from kube_rewrap.worker.records.report import NOTHING, BatchReport
from kube_rewrap.worker.records.table import Stored

_POLL_SECONDS = 0.5
_PASSING = (
    *(StoppedError, TemporaryError, BudgetExhaustedError, SpaceError, QuarantineGrewError),
    *(KmsRefusedError, KmsTargetError),
)
"""Failures that are not the batch's: another attempt may succeed, however many there were."""

_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class ChildTools:
    """The settings, engine and shared rate limit that one child process works with."""

    settings: Settings
    engine: Engine
    pace: SharedPace
    meter: PluginMeter = field(default_factory=PluginMeter)


@dataclass(frozen=True, slots=True)
class MessageResult:
    """The result of a message. `report` counts this slice only; `window` is the swaps allowed in flight, 0 = unknown.

    `outcome` is `worked`, `dropped`, `handed_back`, `failed` or `refused`. `plugins` are the calls to KMS plugins that
    no earlier result holds.
    """

    outcome: str
    because: str = ""
    report: BatchReport = NOTHING
    window: int = 0
    plugins: tuple[PluginReport, ...] = ()


_Job = Callable[[ChildTools, Stored[Campaign], int, Expect, Brake], Awaitable[MessageResult]]


async def rewrite(tools: ChildTools, name: str, number: int) -> MessageResult:
    """Work on one batch for a slice of time."""
    return _with_calls(tools, await _under_claim(tools, name, number, CampaignState.RUNNING, _rewrite))


async def prove(tools: ChildTools, name: str, number: int) -> MessageResult:
    """Scan one part of a campaign's proof, at the revision that the part is pinned to."""
    return _with_calls(tools, await _under_claim(tools, name, number, CampaignState.PROVING, _prove))


def _with_calls(tools: ChildTools, done: MessageResult) -> MessageResult:
    """Return the result with the calls to plugins that no earlier result holds."""
    return replace(done, plugins=tools.meter.report(tools.engine.kms_counts()))


async def _under_claim(tools: ChildTools, name: str, number: int, state: CampaignState, job: _Job) -> MessageResult:
    """Run `job` under a claim, if the campaign is in this state and of this process' generation."""
    engine = tools.engine
    stored = await Campaigns(engine.store, engine.keyspace).get(name)
    if stored is None or stored.value.state is not state:
        return _dropped(name, number, f"no campaign of this name is {state.value}")
    if stored.value.generation != engine.generation.hash:
        return await _hand_back(engine, stored.value, number, _why_another(engine, stored.value))
    brake = Brake()
    try:
        async with open_session(engine.store, brake.pull, CLAIM_SECONDS) as session:
            unchanged = Expect(engine.keyspace.campaign(name), stored.revision)
            claim = await session.hold(engine.keyspace.claim(name, number), who("rewrap worker"), [unchanged])
            done = await job(tools, stored, number, claim, brake)
            await session.release(claim)
            return done
    except (KmsUnavailableError, KmsRefusedError) as error:
        # Of a batch, `_finish_slice` reports it; so this is a part of a proof.
        _log.warning("batch.failed", campaign=name, batch=number, because=str(error))
        return MessageResult("failed", str(error))
    except (BusyError, FencedError, TemporaryError) as error:
        return _dropped(name, number, str(error))


async def _rewrite(
    tools: ChildTools, stored: Stored[Campaign], number: int, claim: Expect, brake: Brake
) -> MessageResult:
    engine, campaign = tools.engine, stored.value
    record = BatchRecord(Checkpoints(engine.store, engine.keyspace, [claim]), campaign.id, number)
    before = await record.load()
    if before.state in {BatchState.DONE, BatchState.PARKED} and before.spec.sweep == campaign.sweeps:
        return _dropped(campaign.id, number, f"the batch is {before.state.value} already")
    spec = replace(before.spec, sweep=campaign.sweeps, generation=campaign.generation)
    outcome: BatchReport | Exception
    try:
        async with background(brake.pull) as begin:
            begin("the supervisor", partial(_supervise, tools, stored, brake))
            await engine.load_proven_resources()
            tools.pace.rate = lower_rate(tools.settings.pace.rate, campaign.options.rate)
            options, quarantine_limit = campaign.options, campaign.quarantine_limit
            may_decrypt, kek_since = options.allow_plaintext, options.since
            outcome = await engine.run(
                spec,
                claim,
                brake,
                allow_plaintext=may_decrypt,
                quarantine_limit=quarantine_limit,
                kek_since=kek_since,
                record=record,
            )
    except Exception as error:  # noqa: BLE001 - any failure of a batch is recorded, and the worker continues
        outcome = error
    try:
        done = await _finish_slice(tools, record, (before, spec), outcome)
    except FencedError as error:
        return _dropped(spec.campaign, spec.number, str(outcome if isinstance(outcome, Exception) else error))
    if isinstance(outcome, KmsTargetError):
        # A worker whose plugin names the target can go on.
        return replace(await _hand_back(engine, campaign, number, done.because), report=done.report)
    return done


async def _finish_slice(
    tools: ChildTools,
    record: BatchRecord,
    slice_of: tuple[Checkpoint, BatchSpec],
    outcome: BatchReport | Exception,
) -> MessageResult:
    """Settle the ledger, record the failure of this slice if it had one, and return its counts.

    `outcome` is the report of the whole batch, which is done, or the failure. The checkpoint shows how far the slice
    came.

    A failure before the attempt was on record still counts as an attempt. A failure of the batch itself (`_classify`)
    counts against it: the scheduler parks a batch that fails too often, rather than send it for ever. Raises
    FencedError when this worker lost the claim.
    """
    engine, (before, spec) = tools.engine, slice_of
    try:
        await engine.ledger.settle()
    except WorkerError as error:
        outcome = outcome if isinstance(outcome, Exception) else error
    if isinstance(outcome, BatchReport):
        await tools.pace.compare()
        return MessageResult("worked", report=outcome.since(before.report), window=engine.window)
    failure = outcome
    reached = await record.load()
    report = reached.report.since(before.report)
    await tools.pace.compare()
    because, counts = _classify(failure)
    # A slice that failed before it recorded its attempt has begun no attempt yet.
    begun = reached if reached.attempts != before.attempts else reached.begun(spec, time.time())
    # With KmsSourceError, the plugin works.
    by_plugin = isinstance(failure, KmsUnavailableError | KmsRefusedError) and not isinstance(failure, KmsSourceError)
    failed = begun.failed("" if isinstance(failure, StoppedError) else because, counts=counts, by_plugin=by_plugin)
    if failed != reached:
        await record.save(failed)
    if isinstance(failure, StoppedError):
        return MessageResult("worked", because, report, engine.window)
    _log.warning("batch.failed", **spec.log_context(), because=because, stalled=failed.stalled)
    if isinstance(failure, BudgetExhaustedError | SpaceError | QuarantineGrewError):
        await _pause(engine, spec.campaign, failure)
    return MessageResult("failed", because, report, engine.window)


def _classify(failure: Exception) -> tuple[str, bool]:
    """Return a failure's sentence, and whether the failure counts against the batch."""
    if isinstance(failure, _PASSING):
        return str(failure), False
    if isinstance(failure, WorkerError):
        return str(failure), True
    # A foreign exception may quote its input: keys or plaintext.
    return f"unexpected {type(failure).__name__}", True


async def _pause(engine: Engine, name: str, failure: WorkerError) -> None:
    """Pause the campaign for a failure that would stop every batch.

    If new values that no key opens are the cause, the worker whose write paused it also logs an error and audits it.
    """
    cause = _cause(failure)
    was_running = False

    def paused(campaign: Campaign) -> Campaign:
        nonlocal was_running
        was_running = campaign.state is CampaignState.RUNNING
        return campaign.paused(cause, str(failure)) if was_running else campaign

    if await Campaigns(engine.store, engine.keyspace).change(name, paused) is None:
        return
    _log.warning("campaign.paused", campaign=name, cause=cause.value, because=str(failure))
    if cause is Pause.QUARANTINE and was_running:
        _log.error("quarantine.grew", campaign=name, state=CampaignState.PAUSED.value, because=str(failure))
        audit = AuditLog(engine.store, engine.keyspace, "rewrap worker")
        await audit.append("quarantine.grew", name, state=CampaignState.PAUSED.value, because=str(failure))


def _cause(failure: WorkerError) -> Pause:
    if isinstance(failure, QuarantineGrewError):
        return Pause.QUARANTINE
    return Pause.SPACE if isinstance(failure, SpaceError) else Pause.BUDGET


async def _supervise(tools: ChildTools, stored: Stored[Campaign], brake: Brake) -> None:
    """Pull the brake when the slice is over, or when the campaign no longer runs in the same sweep."""
    campaigns = Campaigns(tools.engine.store, tools.engine.keyspace)
    loop = asyncio.get_running_loop()
    until = loop.time() + tools.settings.service.slice
    while (left := until - loop.time()) > 0:
        await asyncio.sleep(min(_POLL_SECONDS, left))
        try:
            now = await campaigns.get(stored.value.id)
        except WorkerError as error:
            _log.debug("campaign.unknown", campaign=stored.value.id, because=str(error))
            continue
        if now is None or now.value.state is not CampaignState.RUNNING or now.value.sweeps != (stored.value.sweeps):
            state = now.value.state.value if now else "gone"
            brake.pull(StoppedError(f"the campaign is {state}"))
            return
    brake.pull(StoppedError("the slice of time is over"))


async def _prove(
    tools: ChildTools, stored: Stored[Campaign], number: int, claim: Expect, brake: Brake
) -> MessageResult:
    if await scan_part(tools.engine, stored.value, number, claim, brake):
        return MessageResult("worked")
    return _dropped(stored.value.id, number, "this part of the proof is done, or not planned")


def _why_another(engine: Engine, campaign: Campaign) -> str:
    """Return why this worker can't work on a campaign of another generation."""
    try:
        engine.require_aimed()
    except (KmsUnavailableError, KmsRefusedError) as error:
        return str(error)
    return f"this worker's configuration is {engine.generation.hash}, the campaign's is {campaign.generation}"


async def _hand_back(engine: Engine, campaign: Campaign, number: int, because: str) -> MessageResult:
    """Return `handed_back`, which requeues the message, and record the handback."""
    _log.info("batch.handed_back", campaign=campaign.id, batch=number, because=because)
    handback = Handback(who("rewrap worker"), engine.generation.hash)
    await Handbacks(engine.store, engine.keyspace).add(handback)
    return MessageResult("handed_back", because)


def lower_rate(ceiling: float, wanted: float) -> float:
    """Return the lower of two rates; 0 = no limit."""
    return min(ceiling or wanted, wanted or ceiling)


def _dropped(name: str, number: int, because: str) -> MessageResult:
    _log.info("batch.dropped", campaign=name, batch=number, because=because)
    return MessageResult("dropped", because)


def report_in(done: Mapping[str, object]) -> BatchReport:
    """Return the report in the JSON form of a `MessageResult`, an empty one if it has none."""
    report = done.get("report")
    return BatchReport.from_json(report) if isinstance(report, Mapping) else BatchReport()
