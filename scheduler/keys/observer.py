"""Watches every governed write: counts the writes under each key, and reports writes under other keys than the primary.

1. Every PUT counts, by any client: a write of kube-apiserver uses a key's budget as a write of ours does.
2. The observer opens each value to learn its key; the prefix proves only the key's name. A value that no key opens
   counts once for every key whose prefix it carries.
3. A write under a KEK of the primary KMS provider that was never in force here is no drift to repair: a plugin of a
   kube-apiserver may be ahead of ours, and its writes would be undone one after the other. Such objects are rewritten
   when a KEK that is newer than both takes effect.
4. Before it records a key's writes in a resource for the first time, it estimates the earlier ones from the objects.
   The watch runs meanwhile, so no write is missed.

`counting.py` adds up the writes from start revisions to places; `registry/spans.py` says which ranges to watch, and
which resource an etcd key belongs to.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog

from kube_rewrap.config.encryption.provider import ProviderType
from kube_rewrap.config.encryption.resources import GroupResource
from kube_rewrap.scheduler.campaigns.pausing import MOST_FRESH, Allowance
from kube_rewrap.scheduler.engine import describe
from kube_rewrap.scheduler.keys.counting import Counting, Pair
from kube_rewrap.scheduler.registry.budgets import estimate_use
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scan import survey_cluster
from kube_rewrap.worker.background import cancel_all
from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.etcd.ranges import key_text
from kube_rewrap.worker.etcd.store import Expect, Item, Watched, WatchFrom
from kube_rewrap.worker.records.budget import LIMITED_PROVIDER, has_budget
from kube_rewrap.worker.records.gap import Gap
from kube_rewrap.worker.records.kek import is_unheard_of
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.observations import ObserverRecords
from kube_rewrap.worker.records.observed import Observations, governing
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import KMS_FORMER_FINGERPRINT, KeyRef, Quarantine, Reason

_FLUSH_SECONDS = 1.0
_POSITION_SECONDS = 5.0
"""Least time between two writes of the record if only its places change: each such write is a revision itself."""
_CLOSE_SECONDS = 5.0
_SLICE = 32
_SILENT_SECONDS = 60.0
_log = structlog.get_logger()

_Drifted = dict[tuple[str, str, KeyRef | None], tuple[bytes, KeyRef]]
"""One object of each resource, namespace and KEK, and the key that it names; no KEK = a key that is none."""


@dataclass(frozen=True, slots=True)
class Listeners:
    """Callbacks: for drift in a resource and namespace ("" = cluster scope), and for a gap that may hold writes."""

    drift: Callable[[str, str], None]
    gap: Callable[[], None]


class Observer:
    """See the module's docstring. `guard` is the leader's fencing token."""

    def __init__(self, cluster: Cluster, guard: Expect, listeners: Listeners) -> None:
        self._cluster = cluster
        self._engine = cluster.engine
        self._spans = cluster.spans
        self._records = ObserverRecords(self._engine.store, self._engine.keyspace, [guard])
        self._listeners = listeners
        self._counting = Counting(Observations(), 0, {}, (), 0)
        self._opened: Counter[str] = Counter()
        self._again: list[Pair] = []
        self._gap = Gap(first=0, end=0)
        self._chains = {
            str(GroupResource.parse(name)): tuple(key.counted_as for key in keys)
            for name, keys in describe(self._engine.generation).resources
            if any(str(GroupResource.parse(name)) in span.names for span in self._spans.all)
        }
        self._silent_until: dict[tuple[str, str], float] = {}
        self._keks = Keks(self._engine.store, self._engine.keyspace)
        self._unheard_of_until = float("-inf")
        self._saved_at = float("-inf")
        self._unreadable = 0
        self._allowance = Allowance(at=time.monotonic())
        self._sent = 0

    @property
    def lag(self) -> int:
        """Revisions that are not counted yet, up to the newest one that the watch has heard of."""
        return max(0, self._sent - self._counting.until + 1)

    @property
    def places(self) -> list[int]:
        """The next revision that the watch will deliver, by span."""
        return self._counting.places

    @property
    def last(self) -> dict[str, int]:
        """The revision of the last write, by the fingerprint of its key."""
        return self._counting.last

    @property
    def counts(self) -> dict[str, int]:
        """Counted writes, by the fingerprint of their key."""
        return self._counting.counts

    @property
    def opened(self) -> dict[str, int]:
        """Writes that the watch delivered and a key opened, by its fingerprint; without estimates and gaps."""
        return dict(self._opened)

    @property
    def recorded(self) -> Stored[Observations]:
        """The record as this observer wrote or read it last."""
        return Stored(self._counting.recorded, self._counting.revision)

    async def run(self) -> None:
        """Watch until cancelled. Raises FencedError when another scheduler leads or has written the record."""
        begins, unseen = await self._begin()
        tasks = [asyncio.create_task(self._watch(begins), name="watch")]
        if unseen:
            tasks.append(asyncio.create_task(self._estimate(unseen), name="first-sight"))
        try:
            while not tasks[0].done():
                await asyncio.wait(tasks, timeout=_FLUSH_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if tasks[-1].done():
                    tasks.pop().result()
                await self._flush(_POSITION_SECONDS)
            tasks[0].result()
        finally:
            await cancel_all(*tasks)
            await self._close()

    async def _begin(self) -> tuple[list[int], list[Pair]]:
        """Read the record; returns the first revision of each span, and the pairs whose writes have to be estimated."""
        store = self._engine.store
        recorded = await self._records.load()
        now = await store.revision() + 1
        if recorded.value.until > now:
            # Counting cuts the places: a watch from a future revision would deliver nothing until etcd reached it. The
            # ledger marks the budgets as restored.
            because = "etcd's revision is lower than the recorded one, so etcd was restored from a backup"
            _log.error("observer.rewound", because=because)
        counting = Counting(
            recorded.value, recorded.revision, self._chains, [span.names for span in self._spans.all], now
        )
        unseen = counting.find_starts(await self._pairs(), await self._engine.ledger.all())
        first = {pair: start for pair, start in counting.starts().items() if counting.is_first(pair) and start < now}
        gone = {start for start in set(first.values()) if await self._engine.is_compacted(start)}
        self._again = [pair for pair, start in first.items() if start in gone]
        counting.discard_starts(self._again)
        begins = counting.begin()
        self._counting = counting  # only now its places are those of the watch
        return begins, [*unseen, *self._again]

    async def _pairs(self) -> list[Pair]:
        """Return the resources that have objects, each with the keys of its chain that have a write budget."""
        found = (await survey_cluster(self._cluster)).governed
        chains = ((one.resource, self._engine.chains[one.resource].keys) for one in found)
        return [(resource, key.fingerprint) for resource, keys in chains for key in keys if has_budget(key)]

    async def _estimate(self, unseen: Sequence[Pair]) -> None:
        """Estimate the writes before the watch, so that the counts can be recorded."""
        await estimate_use(self._cluster, sorted({resource for resource, _ in unseen}), self._again)
        self._counting.start_without_estimate(self._counting.find_starts(unseen, await self._engine.ledger.all()))

    async def _close(self) -> None:
        """Record the last counts. Without this the next observer would watch and count these writes again."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._flush(0.0)
        except (WorkerError, TimeoutError) as error:
            _log.info("observer.not_recorded", because=str(error) or "no answer in time")

    async def _flush(self, every: float) -> None:
        """Record counts and places together if counts changed; else the places alone, at most once in `every` s."""
        counting = self._counting
        if counting.has_new_pairs:
            counting.start_new_pairs(await self._engine.ledger.all())
        seen, before = counting.to_record(int(time.time())), counting.recorded
        if seen is None or (seen.counts, seen.followed) == (before.counts, before.followed):
            return
        is_only_later = seen.counts == before.counts and counting.chains == before.chains
        if is_only_later and time.monotonic() < self._saved_at + every:
            return
        stored = await self._records.save(Stored(seen, counting.revision))
        self._saved_at = time.monotonic()
        counting.saved(stored.value, stored.revision)

    async def _watch(self, begins: Sequence[int]) -> None:
        starts = [WatchFrom(one.range, begin) for one, begin in zip(self._spans.all, begins, strict=True)]
        async with aclosing(self._engine.store.watch(starts)) as stream:
            async for watched in stream:
                await self._take(watched)

    async def _take(self, watched: Watched) -> None:
        """Count the writes that the watch delivered for one span, then move its place.

        A flush in between records none of these writes: it records only writes before the place.
        """
        self._sent = max(self._sent, watched.revision)
        opened: Counter[str] = Counter()
        drifted: _Drifted = {}
        for place, item in enumerate(watched.puts):
            if place % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            located = self._spans.locate(item.key)
            if located is not None:
                opened[self._count(item, *located, drifted)] += 1
        has_gap = watched.compacted > self._counting.place(watched.index)
        may_hold_writes = has_gap and await self._count_gap(watched.index, watched.compacted)
        self._opened.update(opened)
        self._counting.moved(watched.index, watched.next_revision)
        former: dict[str, frozenset[str]] = {}
        for (resource, namespace, kek), (key, found) in drifted.items():
            if kek is not None and await self._is_unheard_of(resource, kek, former):
                self._report_unheard_of(resource, namespace, key, found)
            else:
                self._report_drift(resource, namespace, key, found)
        if may_hold_writes:
            self._listeners.gap()

    def _count(
        self,
        item: Item,
        resource: str,
        path: bytes,
        drifted: _Drifted,
    ) -> str:
        """Count one write; returns the fingerprint of the key that opened it, "" if none did. Adds to `drifted`."""
        found = self._engine.recognise(item, resource)
        if isinstance(found, Quarantine):
            for fingerprint in {key.fingerprint for key in found.claimed}:
                self._counting.wrote(resource, fingerprint, item.mod_revision)
            self._report_unreadable(item.key, found)
            return ""
        fingerprint = found.counted_as
        self._counting.wrote(resource, fingerprint, item.mod_revision)
        if self._engine.chains[resource].is_stale(found):
            if found.provider == ProviderType.KMS:
                self._counting.note_last(KMS_FORMER_FINGERPRINT, item.mod_revision)
            namespace, slash, _ = item.key[len(path) :].partition(b"/")
            kek = found.kek if found.is_kek else None
            drifted.setdefault((resource, key_text(namespace) if slash else "", kek), (item.key, found))
        return fingerprint

    async def _count_gap(self, index: int, end: int) -> bool:
        """Count the writes that a gap may hold; returns False when it is proven to hold none of this span."""
        first, span = self._counting.place(index), self._spans.all[index]
        if self._gap.end != end:  # the other spans have a gap up to the same compaction
            self._gap = await self._engine.gap(self._spans.locate, min(self._counting.places), end)
        ours = dict.fromkeys(self._counting.recorded.replaced, frozenset[str]())
        gap = replace(self._gap, keys={**ours, **self._gap.keys})
        chains = (self._engine.chains[name].keys for name in span.names)
        limited = {key.fingerprint for keys in chains for key in keys if key.provider == LIMITED_PROVIDER}
        counted = self._counting.count_gap(index, gap, limited)
        is_touched = any(governing(name, self._chains) in span.names for name in gap.resources.values())
        if not counted and not is_touched:
            return False
        _log.warning(
            "observer.gap",
            resource=", ".join(span.names),
            revisions=end - first,
            counted=counted,
            because="etcd compacted revisions before the watch received them; each one that may be a write counts",
        )
        return True

    async def _is_unheard_of(self, resource: str, kek: KeyRef, former: dict[str, frozenset[str]]) -> bool:
        """Whether a KEK of the primary's provider was never in force, by the record that the leader keeps.

        `former` has `Keks.in_force` by provider, as far as it was read before.
        """
        if kek.name not in former:
            former[kek.name] = await self._keks.in_force(kek.name)
        return is_unheard_of(kek, self._engine.chains[resource].primary, former[kek.name])

    def _report_unheard_of(self, resource: str, namespace: str, key: bytes, found: KeyRef | Quarantine) -> None:
        """Log a write under a KEK that was never in force, at most once a minute."""
        now = time.monotonic()
        if now < self._unheard_of_until:
            return
        self._unheard_of_until = now + _SILENT_SECONDS
        _log.warning(
            "drift.unknown_kek",
            resource=resource,
            namespace=namespace,
            key=key_text(key),
            because=f"it was written with {found}, a KEK that the plugin beside this process never named for long "
            "enough: that plugin may be behind those of the kube-apiservers, so no repair rewrites the object",
        )

    def _report_drift(self, resource: str, namespace: str, key: bytes, found: KeyRef | Quarantine) -> None:
        """Report drift, and log one object of each namespace, at most once a minute.

        Not while many unreadable values are written: a client with write access to etcd may be trying out ciphertexts,
        and a repair would show it which of them a key opened.
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

    def _report_unreadable(self, key: bytes, found: Quarantine) -> None:
        """Log the first unreadable write, and every thousandth after it."""
        if self._unreadable % 1000 == 0:
            _log.error("observer.unreadable", key=key_text(key), reason=found.reason.value, because=found.detail)
        self._unreadable += 1
        if found.claimed and found.reason not in {Reason.KMS_REFUSED, Reason.LATE_PLAINTEXT}:
            self._note_unopened()

    def _note_unopened(self) -> None:
        """Count one value that carries the prefix of a key that does not open it."""
        was_exceeded = self._allowance.is_exceeded
        self._allowance = self._allowance.spent(time.monotonic(), 1)
        if self._allowance.is_exceeded and not was_exceeded:
            because = (
                f"more than {MOST_FRESH} values that no key opens were written within a day: a client with write "
                "access to etcd may be trying out ciphertexts. Until that ends, only the full check finds drift"
            )
            _log.error("drift.muted", because=because)
