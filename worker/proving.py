"""Scans a part of a proof: what one message to a worker, or one process of `rewrap run`, does of it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import structlog

from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.errors import CompactedError, KmsRefusedError, KmsUnavailableError
from kube_rewrap.worker.etcd.store import Expect
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records.campaign import Campaign
from kube_rewrap.worker.records.inventory import Inventory
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.proofs import Proofs

_PART_SECONDS = 60.0
"""Seconds after which `scan_part` ends, finished or not; far below the limit of a worker's child process."""

_log = structlog.get_logger()


async def scan_part(engine: Engine, campaign: Campaign, number: int, claim: Expect, brake: Brake) -> bool:
    """Scan a part in slices, saving counts and cursor after each, until it is done or `_PART_SECONDS` have passed.

    The next call continues at the cursor. Returns False when no such part is left to scan. Raises FencedError when the
    proof has ended or restarted, the brake's reason, and the errors of a KMS plugin, which are on the part's record
    then.
    """
    proofs = Proofs(engine.store, engine.keyspace, [claim])
    part = await proofs.get(campaign.id, number)
    if part is None or part.value.is_done:
        return False
    is_late = _timer(_PART_SECONDS)
    while True:
        brake.check()
        is_over = _timer(engine.slice_seconds)
        try:
            scanned = await _scan_slice(engine, part.value, is_over, campaign.options.since)
        except (KmsUnavailableError, KmsRefusedError) as error:
            if part.value.because != str(error):
                await proofs.save(part.holding(replace(part.value, because=str(error))))
            raise
        part = await proofs.save(part.holding(scanned))
        if part.value.is_done or is_late():
            return True


def _timer(seconds: float) -> Callable[[], bool]:
    """Return a function that returns whether `seconds` have passed since this call."""
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    return lambda: loop.time() > until


async def _scan_slice(engine: Engine, part: ProofPart, is_over: Callable[[], bool], kek_since: int) -> ProofPart:
    """Return a part after one slice of its scan.

    A part that can't be scanned is returned as `compacted`, on which the scheduler restarts all parts.
    """
    if not part.rest:
        return part.advanced(Inventory(part.revision, ()), None)
    wanted = part.rest[0]
    try:
        await engine.load_proven_resources()
        counted, cursor = await engine.slice_of_inventory(wanted, part.revision, is_over, kek_since=kek_since)
    except CompactedError:
        return replace(part, compacted=True)
    except KeyError:
        because = "the configuration does not govern its resource"
        _log.warning("batch.failed", campaign=part.campaign, batch=part.number, because=because)
        return replace(part, compacted=True)
    is_last = len(part.rest) == 1
    return part.advanced(counted, cursor if cursor is not None or is_last else wanted.range.end)
