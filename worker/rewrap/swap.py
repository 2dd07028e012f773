"""Objects from their first look to their end: current, rewritten, gone or in quarantine.

The order matters, and a crash between any two steps loses nothing:

1. decide from the bytes that were read; what nothing opens is counted as a try before anything else is rewritten;
2. a write token is on record in etcd before the key encrypts;
3. seal, and open again in memory;
4. swap against the mod_revision that was read;
5. lost: somebody wrote. Start over from what stands there now, and assume nothing about it;
   unknown: read. Equal bytes prove our write, for no two sealings are alike; else start over.

Objects go in groups: all of a group are sealed, then all are sent. Sent one by one between sealings,
each request would cost system calls of its own, which is most of what a rewrap costs.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from dataclasses import dataclass, field

from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.worker.errors import RefusedError, TooLargeError, WorkerError
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.etcd.store import Expect, Item, Outcome, Store, SwapResult
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.local import Pace
from kube_rewrap.worker.rate.window import Window
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.quarantined import Quarantined
from kube_rewrap.worker.records.report import Tally
from kube_rewrap.worker.records.tries import digest_of
from kube_rewrap.worker.records.try_counter import TryCounter
from kube_rewrap.worker.rewrap.decide import decide
from kube_rewrap.worker.verdict import Keep, Quarantine, Reason

_ATTEMPTS = 64
_LONGEST_PAUSE = 0.5
_STUCK = {Reason.TOO_LARGE, Reason.CONTENDED}


@dataclass(frozen=True, slots=True)
class _Stale:
    """An object to be rewritten, and the plaintext that its old key gave."""

    item: Item
    plaintext: bytes = field(repr=False)


class Swapper:
    """Brings objects of one `resource` under its primary key.

    `guard` fences every swap. An identity primary decrypts only with `allow_plaintext`. What is put in
    quarantine and was written after the revision `since` is counted as fresh, and by `tries`, None = it need not be.
    """

    def __init__(
        self,
        store: Store,
        chain: Chain,
        ledger: Ledger,
        pace: Pace,
        window: Window,
        *,
        resource: str,
        guard: Expect | None = None,
        allow_plaintext: bool = False,
        since: int = 0,
        tries: TryCounter | None = None,
    ) -> None:
        self._store = store
        self._resource = resource
        self._chain = chain
        self._guard = guard
        self._since = since
        self._tries = tries
        self._may_write = allow_plaintext or chain.primary.provider != ProviderType.IDENTITY
        self._ledger = ledger
        self._pace = pace
        self._window = window
        self._spends = chain.primary.provider != ProviderType.IDENTITY

    @property
    def group_size(self) -> int:
        """How many objects `settle` should be given at once."""
        return min(self._window.share, self._pace.most)

    async def settle(self, items: Sequence[Item], ahead: int, tally: Tally) -> list[Quarantined]:
        """Work on objects until the end of each; count them, and return those for quarantine.

        `ahead` is how many objects are likely to follow. When the store or the ledger fails, the
        other objects are still brought as far as they get, then the error is raised: each object is
        as it was, or rewritten. Raises QuarantineGrewError when there were too many tries.
        """
        quarantined: list[Quarantined] = []
        current: list[Item] = list(items)
        for attempt in range(_ATTEMPTS):
            before = len(quarantined)
            stale = self._sorted_out(current, tally, quarantined)
            await self._count_tries(quarantined[before:])
            if not stale:
                return quarantined
            current = await self._rewrite(stale, ahead, tally, quarantined)
            if current:
                await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.002 * 2**attempt)))  # noqa: S311 - jitter
        detail = f"somebody else wrote it {_ATTEMPTS} times in a row"
        return quarantined + [self._left_alone(tally, item, Reason.CONTENDED, detail) for item in current]

    async def _count_tries(self, left_alone: Sequence[Quarantined]) -> None:
        """Put on record what was tried in vain.

        Raises QuarantineGrewError. What opens must not be rewritten then: that would tell one from the other.
        """
        fresh = [digest_of(one.key, one.mod_revision) for one in left_alone if self._is_fresh(one)]
        if fresh and self._tries is not None:
            await self._tries.count(fresh)

    def _is_fresh(self, one: Quarantined) -> bool:
        """Whether a key may have been tried on it in vain since a campaign last covered it."""
        return one.mod_revision > self._since and one.reason not in {*_STUCK, Reason.KMS}

    def _sorted_out(self, items: Sequence[Item], tally: Tally, quarantined: list[Quarantined]) -> list[_Stale]:
        """Decide on each object; count those that need no write, and return the rest."""
        stale: list[_Stale] = []
        for item in items:
            verdict = decide(item.value, item.key, self._chain)
            if isinstance(verdict, Keep):
                tally.current += 1
            elif isinstance(verdict, Quarantine):
                quarantined.append(self._left_alone(tally, item, verdict.reason, verdict.detail))
            else:
                stale.append(_Stale(item, verdict.plaintext))
        return stale

    async def _rewrite(
        self, stale: Sequence[_Stale], ahead: int, tally: Tally, quarantined: list[Quarantined]
    ) -> list[Item]:
        """Seal and swap; returns what stands where a swap was lost, to be decided on anew."""
        if not self._may_write:
            key = key_text(stale[0].item.key)
            raise RefusedError(
                f"identity is the primary: {key} would be decrypted. If that is meant, --allow-plaintext"
            )
        lost: list[Item] = []
        rest = list(stale)
        while rest:
            tokens = len(rest)
            if self._spends:
                tokens = await self._ledger.spend(self._chain.primary, len(rest), max(ahead, len(rest)))
            group, rest = rest[:tokens], rest[tokens:]
            await self._pace.take(len(group))
            lost += await self._swap(group, tally, quarantined)
        return lost

    async def _swap(self, group: Sequence[_Stale], tally: Tally, quarantined: list[Quarantined]) -> list[Item]:
        tally.encryptions += len(group)
        sealed = [self._chain.seal(one.plaintext, one.item.key) for one in group]
        ends = await self._send_all(group, sealed, tally)
        lost: list[Item] = []
        failures: list[WorkerError] = []
        for one, value, end in zip(group, sealed, ends, strict=True):
            if isinstance(end, TooLargeError):
                quarantined.append(self._left_alone(tally, one.item, Reason.TOO_LARGE, str(end)))
            elif isinstance(end, WorkerError):
                failures.append(end)
            elif end.outcome is Outcome.APPLIED:
                self._ledger.landed(self._chain.primary, self._resource, end.revision)
                tally.rewritten += 1
                tally.bytes += len(value)
            else:
                tally.conflicts += 1
                tally.gone += end.current is None
                lost += [end.current] if end.current is not None else []
        if failures:
            raise failures[0]
        return lost

    async def _send_all(
        self, group: Sequence[_Stale], sealed: Sequence[bytes], tally: Tally
    ) -> list[SwapResult | WorkerError]:
        loop = asyncio.get_running_loop()
        was_full = len(group) >= self._window.share
        started = loop.time()
        swaps = [(one.item, value) for one, value in zip(group, sealed, strict=True)]
        ends = await self._store.swap_all(swaps, self._guard)
        self._window.finished(len(group), loop.time() - started, was_full=was_full)
        if not any(isinstance(end, SwapResult) and end.outcome is Outcome.UNKNOWN for end in ends):
            return ends
        # Side by side: one after the other, the bounds of their reads would add up.
        known = (self._known(swap, end, tally) for swap, end in zip(swaps, ends, strict=True))
        return await asyncio.gather(*known)

    async def _known(
        self, swap: tuple[Item, bytes], end: SwapResult | WorkerError, tally: Tally
    ) -> SwapResult | WorkerError:
        """Return an end that is not UNKNOWN; an error is a value, so that the others are counted."""
        if isinstance(end, WorkerError) or end.outcome is not Outcome.UNKNOWN:
            return end
        tally.unknown += 1
        try:
            return await self._resolve(*swap)
        except WorkerError as error:
            return error

    async def _resolve(self, item: Item, sealed: bytes) -> SwapResult:
        """Find out by reading what became of a swap whose answer was lost.

        The lost request may still arrive later. It does no harm: either it finds the mod_revision
        that it compares with, and writes what is ours anyway, or somebody was faster and it is void.
        """
        found = await self._store.get(item.key)
        applied = found is not None and found.value == sealed
        return SwapResult(Outcome.APPLIED if applied else Outcome.LOST, found.mod_revision if found else 0, found)

    def _left_alone(self, tally: Tally, item: Item, reason: Reason, detail: str) -> Quarantined:
        left_alone = Quarantined(item.key, reason, detail, item.mod_revision)
        tally.quarantined += 1
        tally.stuck += reason in _STUCK
        tally.fresh += self._is_fresh(left_alone)
        return left_alone
