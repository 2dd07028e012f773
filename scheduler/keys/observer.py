"""One watch over everything that is governed: who writes how often with which key, and what drifts.

Every PUT counts, whoever made it, for kube-apiserver's writes wear a key out as ours do. What a write
was made with is told by opening it, not by its prefix, which proves a name only. What can't be opened
counts for every key whose prefix it carries. How that adds up, from where on and up to where, is
`counting`'s; where to watch, and what an event belongs to, is `spans`'.

Before a key's writes in a resource go on record for the first time, its objects are looked at: what it
encrypted until then is estimated. The watch is at work meanwhile, and so misses nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from typing import Protocol

import structlog

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.scheduler.campaigns.discovery import Territory
from kube_rewrap.scheduler.campaigns.pausing import MOST_FRESH, Allowance
from kube_rewrap.scheduler.campaigns.spans import Spans
from kube_rewrap.scheduler.dispatch.local import Engine, describe
from kube_rewrap.scheduler.keys.counting import Counting, Pair
from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.etcd.store import Expect, Item, Watched, WatchFrom
from kube_rewrap.worker.records.budget import LIMITED_PROVIDER, has_budget
from kube_rewrap.worker.records.gap import Gap
from kube_rewrap.worker.records.observations import load, save
from kube_rewrap.worker.records.observed import Observations, governing
from kube_rewrap.worker.verdict import KMS_FINGERPRINT, KeyRef, Quarantine, Reason

_FLUSH_SECONDS = 1.0
_POSITION_SECONDS = 5.0
"""How old a record may get in which only the places would change: each write of it is a revision, too.

Where counts change, the places that belong to them are written with them.
"""
_CLOSE_SECONDS = 5.0
_SLICE = 32
_SILENT_SECONDS = 60.0
_log = structlog.get_logger()


class Ground(Protocol):
    """What there is to be observed."""

    engine: Engine

    @property
    def spans(self) -> Spans:
        """What is to be watched."""

    async def territory(self) -> Territory:
        """Return what is governed, and there by now."""

    async def look_at_keys(self, resources: Collection[str], again: Collection[Pair]) -> None:
        """Estimate what keys encrypted in resources where nobody counted; `again`, too."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told: of drift in a resource and namespace ("" = cluster scope), and of a gap."""

    drift: Callable[[str, str], None]
    gap: Callable[[], None]


class Observer:
    """See the module's docstring. `guard` is the leader's fencing token."""

    def __init__(self, ground: Ground, guard: Expect, listeners: Listeners) -> None:
        self._ground = ground
        self._engine = ground.engine
        self._spans = ground.spans
        self._guard = guard
        self._listeners = listeners
        self._counting = Counting(Observations(), {}, (), 0)
        self._opened: Counter[str] = Counter()
        self._again: list[Pair] = []
        self._gap = Gap(0, 0)
        self._chains = {
            str(GroupResource.parse(name)): tuple(key.fingerprint for key in keys)
            for name, keys in describe(self._engine.generation).resources
            if any(str(GroupResource.parse(name)) in span.names for span in self._spans.all)
        }
        self._silent_until: dict[tuple[str, str], float] = {}
        self._saved_at = float("-inf")
        self._unreadable = 0
        self._allowance = Allowance(at=time.monotonic())
        self._sent = 0

    @property
    def lag(self) -> int:
        """Revisions of the store that are not yet counted, as far as the watch itself knows."""
        return max(0, self._sent - self._counting.until + 1)

    @property
    def places(self) -> list[int]:
        """The next revision to be delivered, of each span."""
        return self._counting.places

    @property
    def counts(self) -> dict[str, int]:
        """Writes seen so far by the fingerprint of their key."""
        return self._counting.counts

    @property
    def opened(self) -> dict[str, int]:
        """Writes that this watch saw and opened, by the fingerprint of their key: nothing that it inferred."""
        return dict(self._opened)

    @property
    def recorded(self) -> Observations:
        """What is on record."""
        return self._counting.recorded

    async def run(self) -> None:
        """Watch until cancelled. Raises FencedError when somebody else observes by now."""
        begins, unseen = await self._begin()
        tasks = [asyncio.create_task(self._watch(begins), name="watch")]
        if unseen:
            tasks.append(asyncio.create_task(self._look(unseen), name="first-sight"))
        try:
            while not tasks[0].done():
                await asyncio.wait(tasks, timeout=_FLUSH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if tasks[-1].done():
                    tasks.pop().result()
                await self._flush(_POSITION_SECONDS)
            tasks[0].result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._close()

    async def _begin(self) -> tuple[list[int], list[Pair]]:
        """Find out where to go on; returns that, and which keys have to be looked for in which resources first."""
        store = self._engine.store
        recorded = await load(store, self._engine.keyspace)
        now = await store.revision() + 1
        if recorded.until > now:
            # Nothing would be seen until the store came that far again. What the budgets make of it is the ledger's.
            _log.error("observer.rewound", because="etcd's revision is below one that was seen: it was restored")
        counting = Counting(recorded, self._chains, [span.names for span in self._spans.all], now)
        unseen = counting.place(await self._pairs(), await self._engine.ledger.all())
        first = {pair: start for pair, start in counting.starts().items() if counting.is_first(pair) and start < now}
        gone = {start for start in set(first.values()) if await self._engine.is_compacted(start)}
        self._again = [pair for pair, start in first.items() if start in gone]
        counting.forget(self._again)
        begins = counting.watch()
        self._counting = counting  # only now does it say where the watch is
        return begins, [*unseen, *self._again]

    async def _pairs(self) -> list[Pair]:
        """Return which keys that have a write budget may have been used in which resources already."""
        found = (await self._ground.territory()).governed
        chains = ((one.resource, self._engine.chains[one.resource].keys) for one in found)
        return [(resource, key.fingerprint) for resource, keys in chains for key in keys if has_budget(key)]

    async def _look(self, unseen: Sequence[Pair]) -> None:
        """Estimate what was written before, and let it be known."""
        await self._ground.look_at_keys(sorted({resource for resource, _ in unseen}), self._again)
        self._counting.vanished(self._counting.place(unseen, await self._engine.ledger.all()))

    async def _close(self) -> None:
        """Record what was counted, as a courtesy to the next one, who would see it again."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._flush(0.0)
        except (WorkerError, TimeoutError) as error:
            _log.info("observer.not_settled", because=str(error) or "no answer in time")

    async def _flush(self, every: float) -> None:
        """Write counts and their revision in one, if there is something new; the revision alone, now and then."""
        counting = self._counting
        if counting.unplaced:
            counting.appeared(await self._engine.ledger.all())
        seen, before = counting.fold(int(time.time())), counting.recorded
        if seen is None or (seen.counts, seen.followed) == (before.counts, before.followed):
            return
        is_only_later = seen.counts == before.counts and counting.chains == before.chains
        if is_only_later and time.monotonic() < self._saved_at + every:
            return
        revision = await save(self._engine.store, self._engine.keyspace, seen, [self._guard])
        self._saved_at = time.monotonic()
        counting.saved(replace(seen, revision=revision))

    async def _watch(self, begins: Sequence[int]) -> None:
        starts = [WatchFrom(one.range, begin) for one, begin in zip(self._spans.all, begins, strict=True)]
        async with aclosing(self._engine.store.watch(starts)) as stream:
            async for watched in stream:
                await self._take(watched)

    async def _take(self, watched: Watched) -> None:
        """Count what happened in one range, then move its revision; a flush falls before or behind both."""
        self._sent = max(self._sent, watched.revision)
        opened: Counter[str] = Counter()
        drifted: dict[tuple[str, str], tuple[bytes, KeyRef | Quarantine]] = {}
        for place, item in enumerate(watched.puts):
            if place % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            located = self._spans.locate(item.key)
            if located is not None:
                opened[self._count(item, *located, drifted)] += 1
        is_torn = watched.compacted > self._counting.is_at(watched.index)
        may_hold_writes = is_torn and await self._bridge(watched.index, watched.compacted)
        self._opened.update(opened)
        self._counting.moved(watched.index, watched.next_revision)
        for (resource, namespace), (key, found) in drifted.items():
            self._tell(resource, namespace, key, found)
        if may_hold_writes:
            self._listeners.gap()

    def _count(
        self,
        item: Item,
        resource: str,
        path: bytes,
        drifted: dict[tuple[str, str], tuple[bytes, KeyRef | Quarantine]],
    ) -> str:
        """Count one write; returns the fingerprint of the key that opened it, "" when none did."""
        found = self._engine.recognise(item, resource)
        if isinstance(found, Quarantine):
            for fingerprint in {key.fingerprint for key in found.claimed}:
                self._counting.wrote(resource, fingerprint, item.mod_revision)
            self._tell_unreadable(item.key, found)
            return ""
        # Key ids are not authenticated: counted one by one, they would let a writer to etcd fill the memory.
        fingerprint = KMS_FINGERPRINT if found.provider == ProviderType.KMS else found.fingerprint
        self._counting.wrote(resource, fingerprint, item.mod_revision)
        if self._engine.chains[resource].is_stale(found):
            namespace, slash, _ = item.key[len(path) :].partition(b"/")
            drifted.setdefault((resource, key_text(namespace) if slash else ""), (item.key, found))
        return fingerprint

    async def _bridge(self, index: int, end: int) -> bool:
        """Count what a gap may have held; False when it is proven to have held nothing of this range."""
        first, span = self._counting.is_at(index), self._spans.all[index]
        if self._gap.end != end:  # the other ranges are torn by the same compaction
            self._gap = await self._engine.gap(self._spans.locate, min(self._counting.places), end)
        gap = replace(self._gap, makers={**dict.fromkeys(self.recorded.replaced, frozenset()), **self._gap.makers})
        chains = (self._engine.chains[name].keys for name in span.names)
        limited = {key.fingerprint for keys in chains for key in keys if key.provider == LIMITED_PROVIDER}
        counted = self._counting.bridge(index, gap, limited)
        is_touched = any(governing(name, self._chains) in span.names for name in gap.wheres.values())
        if not counted and not is_touched:
            return False
        _log.warning(
            "observer.gap",
            resource=", ".join(span.names),
            growth=end - first,
            counted=counted,
            because="etcd compacted revisions away before they were seen; each that may have been a write counts",
        )
        return True

    def _tell(self, resource: str, namespace: str, key: bytes, found: KeyRef | Quarantine) -> None:
        """Name one object of each namespace, once a minute; the repair looks at all of them.

        Not while somebody seems to try out values: a repair would tell them which one opened.
        """
        now = time.monotonic()
        self._allowance = self._allowance.spent(now)
        if self._allowance.is_exceeded:
            return
        self._listeners.drift(resource, namespace)
        if now < self._silent_until.get((resource, namespace), 0.0):
            return
        self._silent_until[resource, namespace] = now + _SILENT_SECONDS
        _log.warning(
            "drift.found",
            resource=resource,
            namespace=namespace,
            key=key_text(key),
            because=f"it was written with {found}, which is not the primary key",
        )

    def _tell_unreadable(self, key: bytes, found: Quarantine) -> None:
        """Name the first, and then every thousandth."""
        if self._unreadable % 1000 == 0:
            _log.error("observer.unreadable", key=key_text(key), reason=found.reason.value, because=found.detail)
        self._unreadable += 1
        if found.claimed and found.reason not in {Reason.KMS_REFUSED, Reason.LATE_PLAINTEXT}:
            self._spend()

    def _spend(self) -> None:
        """Count one value that a key was tried on in vain."""
        was_exceeded = self._allowance.is_exceeded
        self._allowance = self._allowance.spent(time.monotonic(), 1)
        if self._allowance.is_exceeded and not was_exceeded:
            because = (
                f"more than {MOST_FRESH} values that no key opens were written within a day: somebody may be trying "
                "them out. Drift is left to the full check until that is over"
            )
            _log.error("drift.muted", because=because)
