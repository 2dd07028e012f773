"""Works on a campaign of `rewrap run` under claims, in its own process or in a child process that it started.

A child gets jobs from its parent (`parent.py`), and answers each that ended. The campaign, its batches and the parts of
its proof are records in etcd: a job is a hint, as a message to a worker of the service is. The end of the input tells
the child to stop after its swaps in flight, so it does not outlive its parent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum

import structlog

from kube_rewrap.worker.background import background
from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.errors import (
    BusyError,
    FencedError,
    KmsSourceError,
    RecordChangedError,
    StoppedError,
    TemporaryError,
    WorkerError,
)
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.parent import Parent
from kube_rewrap.worker.proving import scan_part
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import BatchRecord, Checkpoints
from kube_rewrap.worker.records.ownership import CLAIM_SECONDS, Session, open_session, who

_LONGEST = 8_000
"""Characters; six bytes each at most in JSON, and the parent reads lines of up to 64 KiB."""

_log = structlog.get_logger()


class Job(StrEnum):
    """What is to be done with a number of a campaign: rewrap that batch, or scan that part of the proof."""

    REWRAP = "rewrap"
    PROVE = "prove"


class ClaimingWorker:
    """Works on one campaign with an engine; all its claims are on one session."""

    def __init__(self, engine: Engine, session: Session, brake: Brake, campaign: str) -> None:
        self._engine = engine
        self._session = session
        self._brake = brake
        self._campaign = campaign

    async def do(self, job: Job, number: int) -> None:
        """Claim a batch or part, work on it and release the claim.

        Returns without work if another process holds the claim, or the campaign is not in the state for it. Raises the
        error that stopped the work, FencedError when a scheduler has adopted the campaign.
        """
        engine, name = self._engine, self._campaign
        stored = await Campaigns(engine.store, engine.keyspace).get(name)
        state = CampaignState.RUNNING if job is Job.REWRAP else CampaignState.PROVING
        if stored is None or stored.value.state is not state:
            self._log_idle(number, f"no campaign of this name is {state.value}")
            return
        self._require_mine(stored.value)
        unchanged = Expect(engine.keyspace.campaign(name), stored.revision)
        try:
            claim = await self._session.hold(engine.keyspace.claim(name, number), who("rewrap run"), [unchanged])
        except (BusyError, TemporaryError) as error:
            self._log_idle(number, str(error))
            return
        await engine.load_proven_resources()
        while not await self._is_done(job, stored.value, number, claim):
            pass
        await self._session.release(claim)

    async def _is_done(self, job: Job, campaign: Campaign, number: int, claim: Expect) -> bool:
        """Work once; returns False, after a wait, where a KMS plugin is to be asked again for a key that it fails on.

        In the service, the job is sent again instead. The engine remembers the key in either case.
        """
        try:
            if job is Job.REWRAP:
                await self._rewrap(campaign, number, claim)
            else:
                await self._brake.unless_pulled(scan_part(self._engine, campaign, number, claim, self._brake))
        except RecordChangedError as error:
            if job is Job.REWRAP:
                raise
            self._log_idle(number, str(error))  # the proof started over; its new parts are offered
        except KmsSourceError as error:
            _log.warning("batch.failed", campaign=campaign.id, batch=number, because=str(error), stalled=0)
            await self._brake.unless_pulled(asyncio.sleep(error.delay))
            return False
        return True

    async def _rewrap(self, campaign: Campaign, number: int, claim: Expect) -> None:
        engine = self._engine
        record = BatchRecord(Checkpoints(engine.store, engine.keyspace, [claim]), campaign.id, number)
        before = await record.load()
        batch = replace(before.spec, sweep=campaign.sweeps, generation=campaign.generation)
        options, quarantine_limit = campaign.options, campaign.quarantine_limit
        may_decrypt, kek_since = options.allow_plaintext, options.since
        await engine.run(
            batch,
            claim,
            self._brake,
            allow_plaintext=may_decrypt,
            quarantine_limit=quarantine_limit,
            kek_since=kek_since,
            record=record,
        )

    def _require_mine(self, campaign: Campaign) -> None:
        mine = self._engine.generation.hash
        if campaign.generation != mine:
            self._engine.require_aimed()
            raise FencedError(
                f"the campaign {campaign.id} is for the configuration {campaign.generation}, this process holds "
                f"{mine}: the file changed since the run began, a KMS plugin names another KEK, or a scheduler adopted "
                "the campaign, and will finish it"
            )

    def _log_idle(self, number: int, because: str) -> None:
        _log.info("batch.busy", campaign=self._campaign, batch=number, because=because)

    async def stop(self) -> None:
        """End the work: the brake, which is on, does so."""


async def settle(engine: Engine) -> None:
    """Record the use of the keys, if etcd answers: what is not recorded stays reserved."""
    try:
        await engine.ledger.settle()
    except WorkerError as error:
        _log.warning("ledger.not_settled", because=str(error))


async def serve(engine: Engine, parent: Parent, campaign: str, brake: Brake) -> None:
    """Do the jobs of a campaign that the parent sends, until it is gone, or `brake` is pulled.

    Each answer repeats the job, with the class and text of the error that stopped it, if one did. Once the lease of its
    claims is lost, or the parent is silent, the child ends without further answers; a parent that still works starts
    another one.
    """
    is_lost = False

    def lose(error: FencedError) -> None:
        nonlocal is_lost
        is_lost = True
        brake.pull(error)

    async def work(worker: ClaimingWorker, asked: Mapping[str, object]) -> None:
        answer = dict(asked)
        try:
            await worker.do(Job(str(asked["job"])), int(str(asked["number"])))
        except WorkerError as error:
            # A swap may meet the lost claim before the renewal of the lease does.
            if isinstance(error, FencedError) and await session.is_lost():
                lose(error)
            answer |= failure(type(error).__name__, str(error))
        except Exception as error:  # noqa: BLE001 - a foreign exception may quote its input: keys or plaintext
            answer |= failure(WorkerError.__name__, f"unexpected {type(error).__name__} in a child process")
        if not is_lost:
            parent.tell(answer)

    async def resize(window: int) -> None:
        await engine.limit_window(window)
        parent.tell({"window": window})

    async with (
        background(brake.pull) as begin,
        open_session(engine.store, lose, CLAIM_SECONDS) as session,
        asyncio.TaskGroup() as group,
    ):
        worker = ClaimingWorker(engine, session, brake, campaign)
        begin("the sign of life", parent.live)
        with suppress(WorkerError):  # the brake's reason, which each job answers
            while (order := await brake.unless_pulled(parent.next_order())) is not None:
                doing = resize(int(str(order["window"]))) if "window" in order else work(worker, order)
                group.create_task(doing)
        if parent.is_silent:
            lose(FencedError("the process that started this one sends nothing, so it may have lost its lock"))
        brake.pull(StoppedError("the process that started this one stopped it, or ended"))
    await settle(engine)


def failure(kind: str, because: str) -> Mapping[str, str]:
    """Return what an answer says of an error: short enough for a line, whatever a server has put into its text."""
    return {"error": kind, "because": because[:_LONGEST]}
