"""One object, from its first look to its end: current, rewritten, gone or in quarantine.

The order matters, and a crash between any two steps loses nothing:

1. decide from the bytes that were read;
2. a write token is on record in etcd before the key encrypts;
3. seal, and open again in memory;
4. swap against the mod_revision that was read;
5. lost: somebody wrote. Start over from what stands there now, and assume nothing about it;
   unknown: read. Equal bytes prove our write, for no two sealings are alike; else start over.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, replace

from config.encryption import ProviderType
from worker.errors import TooLargeError
from worker.etcd.store import Item, Outcome, Store, SwapResult
from worker.model.outcome import BatchReport
from worker.model.verdict import Keep, Quarantine, Reason
from worker.pace.local import Pace
from worker.pace.window import Window
from worker.providers.chain import Chain
from worker.rewrap.decide import decide
from worker.state.ledger import Ledger
from worker.state.quarantine import Quarantined

_ATTEMPTS = 64
_LONGEST_PAUSE = 0.5


@dataclass(frozen=True, slots=True)
class End:
    """How one object ended: its share of the report, and the quarantine entry if it has one."""

    report: BatchReport
    quarantined: Quarantined | None = None


class Swapper:
    """Brings objects under the primary key of one resource."""

    def __init__(self, store: Store, chain: Chain, ledger: Ledger, pace: Pace, window: Window) -> None:
        self._store = store
        self._chain = chain
        self._ledger = ledger
        self._pace = pace
        self._window = window
        self._spends = chain.primary.provider != ProviderType.IDENTITY

    async def settle(self, item: Item, ahead: int) -> End:
        """Work on one object until its end. `ahead` is how many more are likely to follow it.

        Raises what the store and the ledger raise; the object is then as it was, or rewritten.
        """
        report = BatchReport(objects=1)
        current: Item | None = item
        for attempt in range(_ATTEMPTS):
            if current is None:
                return End(replace(report, gone=1))
            verdict = decide(current.value, current.key, self._chain)
            if isinstance(verdict, Keep):
                return End(replace(report, current=1))
            if isinstance(verdict, Quarantine):
                return _quarantined(report, current, verdict.reason, verdict.detail)
            report = replace(report, encryptions=report.encryptions + 1)
            try:
                sealed, result = await self._swap(current, verdict.plaintext, ahead)
            except TooLargeError as error:
                return _quarantined(report, current, Reason.TOO_LARGE, str(error))
            if result.outcome is Outcome.UNKNOWN:
                report = replace(report, unknown=report.unknown + 1)
                result = await self._resolve(current, sealed)
            if result.outcome is Outcome.APPLIED:
                self._ledger.landed(self._chain.primary)
                return End(replace(report, rewritten=1, bytes=len(sealed)))
            report = replace(report, conflicts=report.conflicts + 1)
            current = result.current
            await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.002 * 2**attempt)))  # noqa: S311 - jitter
        return _quarantined(report, item, Reason.CONTENDED, f"somebody else wrote it {_ATTEMPTS} times in a row")

    async def _swap(self, item: Item, plaintext: bytes, ahead: int) -> tuple[bytes, SwapResult]:
        """Seal and send, within budget, pace and window; returns what was sent and what came of it."""
        if self._spends:
            await self._ledger.spend(self._chain.primary, ahead)
        await self._pace.take()
        entered = await self._window.enter()
        try:
            sealed = self._chain.seal(plaintext, item.key)
            return sealed, await self._store.swap(item, sealed)
        finally:
            self._window.leave(entered)

    async def _resolve(self, item: Item, sealed: bytes) -> SwapResult:
        """Find out by reading what became of a swap whose answer was lost.

        The lost request may still arrive later. It does no harm: either it finds the mod_revision
        that it compares with, and writes what is ours anyway, or somebody was faster and it is void.
        """
        found = await self._store.get(item.key)
        applied = found is not None and found.value == sealed
        return SwapResult(Outcome.APPLIED if applied else Outcome.LOST, current=found)


def _quarantined(report: BatchReport, item: Item, reason: Reason, detail: str) -> End:
    return End(replace(report, quarantined=1), Quarantined(item.key, reason, detail, item.mod_revision))
