"""Rewraps a group of objects; each ends current, rewritten, gone or quarantined.

The order of the steps matters; a crash between any two loses nothing:

1. fetch the unwrapped keys of KMS values, and decide from the bytes that were read; ask once more for the keys of
   values that did not open; count objects that no key opens, and keys that a plugin refuses, as tries before any
   other is rewritten;
2. record a write token in etcd before the key encrypts; a KMS primary needs a data key instead;
3. seal, and open again in memory;
4. swap against the mod_revision that was read;
5. lost: another client wrote the object. Start over from its present value, and assume nothing about it; unknown:
   read. Equal bytes prove our write, for no two sealings with a key are equal; else start over.

A whole group is sealed before it is sent. Sent one by one between sealings, each request would cost system calls of
its own, which are most of the cost of a rewrap.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.worker.data_keys import DataKeys, NoPlugins, fetch_again
from kube_rewrap.worker.errors import RefusedError, TooLargeError, WorkerError
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.etcd.store import Expect, Item, Outcome, Store, SwapResult
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.local import Pace
from kube_rewrap.worker.rate.window import Window
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.tries import digest_of
from kube_rewrap.worker.records.try_counter import TryCounter
from kube_rewrap.worker.rewrap.decide import decide
from kube_rewrap.worker.verdict import Keep, Quarantine, Reason, Verdict
from kube_rewrap.worker.wrapped import DataKey, UnwrappedKeys, WrappedKey

_ATTEMPTS = 64
_LONGEST_PAUSE = 0.5
_STUCK = {Reason.TOO_LARGE, Reason.CONTENDED}


@dataclass(frozen=True, slots=True)
class _Stale:
    """An object to rewrite, and its plaintext."""

    item: Item
    plaintext: bytes = field(repr=False)


class Swapper:
    """Rewraps objects of one `resource` under its primary key.

    `guard` fences every swap. An identity primary decrypts only with `allow_plaintext`. Quarantined objects that were
    written after the revision `since` count as fresh; `tries` records them, None = they are not recorded. `data_keys`
    asks the KMS plugins. Current objects up to the revision `kek_since` are rewritten, too (`Chain.is_outdated`).
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
        data_keys: DataKeys | None = None,
        kek_since: int = 0,
    ) -> None:
        self._store = store
        self._resource = resource
        self._chain = chain
        self._guard = guard
        self._since = since
        self._tries = tries
        self._data_keys = data_keys or NoPlugins()
        self._kek_since = kek_since
        self._may_write = allow_plaintext or chain.primary.provider != ProviderType.IDENTITY
        self._ledger = ledger
        self._pace = pace
        self._window = window
        self._spends = chain.primary.provider not in {ProviderType.IDENTITY, ProviderType.KMS}

    @property
    def group_size(self) -> int:
        """Most objects that one call of `rewrap_group` should get."""
        return min(self._window.share, self._pace.most)

    async def rewrap_group(self, items: Sequence[Item], ahead: int, tally: Counter[str]) -> list[QuarantinedObject]:
        """Rewrap objects until each has ended; count them in `tally`, and return those for quarantine.

        `tally` counts by the names of BatchReport's fields. `ahead` is how many objects, these included, are left of
        the batch. A store's error is raised after the other swaps of its group are counted, a ledger's or a KMS
        plugin's before the objects concerned are sealed: each object is unchanged, or rewritten. Raises
        QuarantineGrewError when the day's tries are exceeded.
        """
        quarantined: list[QuarantinedObject] = []
        current: list[Item] = list(items)
        for attempt in range(_ATTEMPTS):
            before = len(quarantined)
            verdicts = await self._decide(current)
            stale = self._sorted_out(current, verdicts, tally, quarantined)
            await self._count_tries(quarantined[before:], self._refused_sources(current, verdicts))
            if not stale:
                return quarantined
            current = await self._rewrite(stale, ahead * len(stale) // len(items), tally, quarantined)
            if current:
                await asyncio.sleep(random.uniform(0, min(_LONGEST_PAUSE, 0.002 * 2**attempt)))  # noqa: S311 - jitter
        detail = f"other clients wrote it {_ATTEMPTS} times in a row"
        return quarantined + [self._left_alone(tally, item, Reason.CONTENDED, detail) for item in current]

    async def _count_tries(self, left_alone: Sequence[QuarantinedObject], refused: Sequence[WrappedKey]) -> None:
        """Record fresh objects that no key opened, and fresh keys that a KMS plugin refused, as tries.

        Raises QuarantineGrewError. The caller must not rewrite the others then: that would show which values open.
        """
        fresh = [digest_of(one.key, one.mod_revision) for one in left_alone if self._is_fresh(one)]
        fresh += [digest_of(wrapped.full_digest, 0) for wrapped in refused]
        if fresh and self._tries is not None:
            await self._tries.count(fresh)

    def _refused_sources(self, items: Sequence[Item], verdicts: Sequence[Verdict]) -> Sequence[WrappedKey]:
        """Return the wrapped keys of objects written after `since` that a KMS plugin refused, each once.

        A refusal shows whether the KMS could unwrap the key, and with that, under RSA with PKCS#1 v1.5, whether its
        padding is valid. Any number of objects with one key show it once.
        """
        return self._chain.all_wanted(
            item.value
            for item, verdict in zip(items, verdicts, strict=True)
            if isinstance(verdict, Quarantine)
            and verdict.reason is Reason.KMS_REFUSED
            and item.mod_revision > self._since
        )

    def _is_fresh(self, one: QuarantinedObject) -> bool:
        """Whether an object may be a new try: written after `since`, and opened by no key.

        Values that opened but could not be written are no tries. Of values whose key a KMS plugin refused, the key is
        one (`_refused_sources`).
        """
        return one.mod_revision > self._since and one.reason not in {*_STUCK, Reason.KMS_REFUSED}

    async def _decide(self, items: Sequence[Item]) -> list[Verdict]:
        """Return the verdict on each object, after the keys of those that did not open were asked for once more."""
        chain = self._chain
        unwrapped = await self._data_keys.fetch(chain.all_wanted(item.value for item in items))
        verdicts = [self._verdict(item, unwrapped) for item in items]
        closed = [place for place, verdict in enumerate(verdicts) if isinstance(verdict, Quarantine)]
        left = [items[place].value for place in closed]
        others = (item.value for item, one in zip(items, verdicts, strict=True) if not isinstance(one, Quarantine))
        if again := await fetch_again(self._data_keys, *chain.wanted_apart(left, others, unwrapped), unwrapped):
            for place in closed:
                verdicts[place] = self._verdict(items[place], {**unwrapped, **again})
        return verdicts

    def _verdict(self, item: Item, unwrapped: UnwrappedKeys) -> Verdict:
        revision = item.mod_revision
        return decide(item.value, item.key, self._chain, unwrapped, mod_revision=revision, kek_since=self._kek_since)

    def _sorted_out(
        self,
        items: Sequence[Item],
        verdicts: Sequence[Verdict],
        tally: Counter[str],
        quarantined: list[QuarantinedObject],
    ) -> list[_Stale]:
        """Count the objects that need no write, and return the stale ones."""
        stale: list[_Stale] = []
        for item, verdict in zip(items, verdicts, strict=True):
            if isinstance(verdict, Keep):
                tally["current"] += 1
            elif isinstance(verdict, Quarantine):
                quarantined.append(self._left_alone(tally, item, verdict.reason, verdict.detail))
            else:
                stale.append(_Stale(item, verdict.plaintext))
        return stale

    async def _rewrite(
        self, stale: Sequence[_Stale], ahead: int, tally: Counter[str], quarantined: list[QuarantinedObject]
    ) -> list[Item]:
        """Seal and swap; returns the present object wherever a swap was lost, for a new decision.

        `ahead` is how many objects are stale in what is left of the batch, if its share is that of this group.
        Tokens that are reserved and not needed are lost when the process ends, so it reserves no more at once than it
        has spent.
        """
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
                wanted = max(len(rest), min(ahead, self._ledger.spent(self._chain.primary)))
                tokens = await self._ledger.spend(self._chain.primary, len(rest), wanted)
            group, rest = rest[:tokens], rest[tokens:]
            await self._pace.take(len(group))
            keys = await self._new_data_keys(len(group))
            lost += await self._swap(group, keys, tally, quarantined)
        return lost

    async def _new_data_keys(self, n: int) -> Sequence[DataKey | None]:
        """Return a data key for each of n objects; None for each without a KMS primary."""
        primary = self._chain.kms_primary
        if primary is None:
            return [None] * n
        return await self._data_keys.data_keys(*primary, n, kek_since=self._kek_since)

    async def _swap(
        self,
        group: Sequence[_Stale],
        keys: Sequence[DataKey | None],
        tally: Counter[str],
        quarantined: list[QuarantinedObject],
    ) -> list[Item]:
        tally["encryptions"] += len(group)
        paired = zip(group, keys, strict=True)
        sealed = [self._chain.seal(one.plaintext, one.item.key, data_key) for one, data_key in paired]
        ends = await self._send_all(group, sealed, tally)
        lost: list[Item] = []
        failures: list[WorkerError] = []
        applied: list[int] = []
        for one, value, end in zip(group, sealed, ends, strict=True):
            if isinstance(end, TooLargeError):
                quarantined.append(self._left_alone(tally, one.item, Reason.TOO_LARGE, str(end)))
            elif isinstance(end, WorkerError):
                failures.append(end)
            elif end.outcome is Outcome.APPLIED:
                applied.append(end.revision)
                tally["rewritten"] += 1
                tally["bytes"] += len(value)
            else:
                tally["conflicts"] += 1
                tally["gone"] += end.current is None
                lost += [end.current] if end.current is not None else []
        if self._spends:
            self._ledger.landed(self._chain.primary, self._resource, *applied)
        if failures:
            raise failures[0]
        return lost

    async def _send_all(
        self, group: Sequence[_Stale], sealed: Sequence[bytes], tally: Counter[str]
    ) -> list[SwapResult | WorkerError]:
        loop = asyncio.get_running_loop()
        was_full = len(group) >= self._window.share
        swaps = [(one.item, value) for one, value in zip(group, sealed, strict=True)]
        ends: list[SwapResult | WorkerError] = []
        while len(ends) < len(swaps):
            async with self._window.room(len(swaps) - len(ends)) as size:
                started = loop.time()
                ends += await self._store.swap_all(swaps[len(ends) : len(ends) + size], self._guard)
                self._window.finished(size, loop.time() - started, was_full=was_full)
        if not any(isinstance(end, SwapResult) and end.outcome is Outcome.UNKNOWN for end in ends):
            return ends
        # Concurrently: in sequence, the time limits of the reads would add up.
        known = (self._known(swap, end, tally) for swap, end in zip(swaps, ends, strict=True))
        return await asyncio.gather(*known)

    async def _known(
        self, swap: tuple[Item, bytes], end: SwapResult | WorkerError, tally: Counter[str]
    ) -> SwapResult | WorkerError:
        """Return an end that is not UNKNOWN; an error is a value, so that the caller counts the others."""
        if isinstance(end, WorkerError) or end.outcome is not Outcome.UNKNOWN:
            return end
        tally["unknown"] += 1
        try:
            return await self._resolve(*swap)
        except WorkerError as error:
            return error

    async def _resolve(self, item: Item, sealed: bytes) -> SwapResult:
        """Resolve a swap whose answer was lost, by reading the object.

        The lost request may still reach etcd later. It does no harm: it either finds the mod_revision that it compares
        with, and writes our value, or another write came first and its comparison fails.
        """
        found = await self._store.get(item.key)
        applied = found is not None and found.value == sealed
        return SwapResult(Outcome.APPLIED if applied else Outcome.LOST, found.mod_revision if found else 0, found)

    def _left_alone(self, tally: Counter[str], item: Item, reason: Reason, detail: str) -> QuarantinedObject:
        left_alone = QuarantinedObject(item.key, reason, detail, item.mod_revision)
        tally["quarantined"] += 1
        tally["stuck"] += reason in _STUCK
        tally["fresh"] += self._is_fresh(left_alone)
        return left_alone
