"""Runs batches of a `rewrap run` under claims, in its own process or in a child process that it started.

A child reads the numbers of batches from its parent, one JSON line each, and answers with a line for each that ended.
The campaign, the batches and their progress are records in etcd: a line is a hint, as a message to a worker of the
service is. The end of the input tells the child to stop after its swaps in flight, so it does not outlive its parent.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TextIO

import structlog

from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.errors import BusyError, StoppedError, TemporaryError, WorkerError
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.batch import BatchSpec
from kube_rewrap.worker.records.campaign import Campaign, CampaignState
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.ownership import CLAIM_SECONDS, Session, open_session, who

_log = structlog.get_logger()


async def run_claimed(
    engine: Engine,
    session: Session,
    brake: Brake,
    campaign: Campaign,
    batch: BatchSpec,
    *,
    expects: Sequence[Expect] = (),
) -> None:
    """Claim a batch, rewrap it and release the claim; raises the errors of `Engine.run`.

    Returns without work if another process holds the claim, or one of `expects` does not hold any more.
    """
    key = engine.keyspace.claim(batch.campaign, batch.number)
    try:
        claim = await session.hold(key, who("rewrap run"), expects)
    except (BusyError, TemporaryError) as error:
        _log.info("batch.busy", **batch.log_context(), because=str(error))
        return
    options, growth = campaign.options, campaign.growth
    may_decrypt, kek_since = options.allow_plaintext, options.since
    await engine.run(batch, claim, brake, allow_plaintext=may_decrypt, growth=growth, kek_since=kek_since)
    await session.release(claim)


async def serve_batches(engine: Engine, lines: asyncio.StreamReader, answers: TextIO, campaign: str) -> None:
    """Work on the batches of a campaign that `lines` number until the input ends; see the module's docstring.

    The first answer is empty: the child is ready. Each other one has a batch's number, and the class and text of the
    error that stopped it, if one did. An error that is no WorkerError is raised, which ends the process.
    """
    brake = Brake()

    async def work(session: Session, number: int) -> None:
        answer: dict[str, object] = {"batch": number}
        try:
            await _run(engine, session, brake, campaign, number)
        except WorkerError as error:
            answer |= {"error": type(error).__name__, "because": str(error)}
        _answer(answers, answer)

    async with open_session(engine.store, brake.pull, CLAIM_SECONDS) as session, asyncio.TaskGroup() as group:
        _answer(answers, {})
        while line := await lines.readline():
            number = json.loads(line)["batch"]
            group.create_task(work(session, number), name=f"batch-{number}")
        brake.pull(StoppedError("the process that started this one stopped it, or ended"))
    await settle(engine.ledger)


async def settle(ledger: Ledger) -> None:
    """Record the use of the keys as far as etcd answers: what is not recorded stays reserved, so nothing is lost."""
    try:
        await ledger.settle()
    except WorkerError as error:
        _log.warning("ledger.not_settled", because=str(error))


def _answer(answers: TextIO, answer: Mapping[str, object]) -> None:
    with suppress(BrokenPipeError):  # the parent ended; so does the input
        print(json.dumps(answer), file=answers, flush=True)


async def _run(engine: Engine, session: Session, brake: Brake, name: str, number: int) -> None:
    stored = await Campaigns(engine.store, engine.keyspace).get(name)
    if stored is None or stored.value.state is not CampaignState.RUNNING:
        _log.info("batch.dropped", campaign=name, batch=number, because="no campaign of this name is running")
        return
    campaign = stored.value
    before = (await Checkpoints(engine.store, engine.keyspace).load(name, number)).value
    batch = replace(before.spec, sweep=campaign.sweeps, generation=campaign.generation)
    await engine.load_proven_resources()
    unchanged = Expect(engine.keyspace.campaign(name), stored.revision)
    await run_claimed(engine, session, brake, campaign, batch, expects=[unchanged])
