"""One watch over everything that is governed: who writes how often with which key, and what drifts.

Every PUT counts, whoever made it, for kube-apiserver's writes wear a key out as ours do. What a write
was made with is told by opening it, not by its prefix, which proves a name only. What can't be opened
counts for every key whose prefix it carries. A gap that compaction tore into the watch is bridged by
the growth of the store's revision: more than was written, never less.

Ranges that are new begin at the present revision; what lies there already is the first sight's matter.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from scheduler.dispatch.local import Engine
from worker.errors import WorkerError
from worker.etcd.store import Expect, Item, Watched, WatchFrom
from worker.model.budget import LIMITED_PROVIDER
from worker.model.inventory import ResourceRange
from worker.model.keys import key_text
from worker.model.verdict import KeyRef, Quarantine
from worker.state.observations import Observations, load, save

_FLUSH_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
_SLICE = 32
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told: of drift in a resource and namespace ("" = cluster scope), and of a gap."""

    drift: Callable[[str, str], None]
    gap: Callable[[], None]


class Observer:
    """See the module's docstring. `guard` is the leader's fencing token."""

    def __init__(self, engine: Engine, ranges: Sequence[ResourceRange], guard: Expect, listeners: Listeners) -> None:
        self._engine = engine
        self._ranges = tuple(ranges)
        self._guard = guard
        self._listeners = listeners
        self._recorded = Observations()
        self._counts: Counter[str] = Counter()
        self._following: dict[str, int] = {}
        self._changed = False
        self._unreadable = 0
        self._sent = 0

    @property
    def lag(self) -> int:
        """Revisions of the store that are not yet counted, as far as the watch itself knows."""
        return max(0, self._sent - max(self._following.values(), default=self._sent + 1) + 1)

    @property
    def counts(self) -> dict[str, int]:
        """Writes seen so far by the fingerprint of their key."""
        return dict(self._counts)

    async def run(self) -> None:
        """Watch until cancelled. Raises FencedError when somebody else observes by now."""
        await self._begin()
        watching = asyncio.create_task(self._watch(), name="watch")
        try:
            while not watching.done():
                await asyncio.wait({watching}, timeout=_FLUSH_SECONDS)
                await self._flush()
            watching.result()
        finally:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)
            await self._close()

    async def _begin(self) -> None:
        store = self._engine.store
        self._recorded = await load(store, self._engine.keyspace)
        now = await store.revision() + 1
        names = [key_text(one.range.start) for one in self._ranges]
        self._counts = Counter(self._recorded.counts)
        self._following = {name: self._recorded.following.get(name, now) for name in names}
        if not self._recorded.following.keys() >= set(names):
            await self._begin_with_our_own()
        self._changed = True
        await self._flush()

    async def _begin_with_our_own(self) -> None:
        """Take what our swaps landed before this watch for seen.

        A budget subtracts all that landed from what was seen: it would hide as many writes of others.
        """
        budgets = await self._engine.ledger.all()
        self._counts |= Counter({fingerprint: budget.committed for fingerprint, budget in budgets.items()})

    async def _close(self) -> None:
        """Record what was counted, as a courtesy to the next one, who would see it again."""
        try:
            async with asyncio.timeout(_CLOSE_SECONDS):
                await self._flush()
        except (WorkerError, TimeoutError) as error:
            _log.info("observer.not_settled", because=str(error) or "no answer in time")

    async def _flush(self) -> None:
        """Write counts and revisions in one, if there is something new. No await between the two."""
        if not self._changed:
            return
        seen = Observations(dict(self._counts), dict(self._following), self._recorded.revision)
        self._changed = False
        revision = await save(self._engine.store, self._engine.keyspace, seen, [self._guard])
        self._recorded = Observations(seen.counts, seen.following, revision)

    async def _watch(self) -> None:
        starts = [WatchFrom(one.range, self._following[key_text(one.range.start)]) for one in self._ranges]
        async with aclosing(self._engine.store.watch(starts)) as stream:
            async for watched in stream:
                await self._take(watched)

    async def _take(self, watched: Watched) -> None:
        """Count what happened in one range, then move its revision; a flush falls before or behind both."""
        one = self._ranges[watched.index]
        self._sent = max(self._sent, watched.revision)
        name = key_text(one.range.start)
        added: Counter[str] = Counter()
        drifted: dict[str, tuple[bytes, KeyRef | Quarantine]] = {}
        for place, item in enumerate(watched.puts):
            if place % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            self._count(item, one, added, drifted)
        if watched.compacted > self._following[name]:
            added.update(self._bridge(one, watched.compacted - self._following[name]))
        self._counts.update(added)
        self._following[name] = watched.next_revision
        self._changed = True
        for namespace, (key, found) in drifted.items():
            self._tell(one.resource, namespace, key, found)
        if watched.compacted:
            self._listeners.gap()

    def _count(
        self,
        item: Item,
        one: ResourceRange,
        added: Counter[str],
        drifted: dict[str, tuple[bytes, KeyRef | Quarantine]],
    ) -> None:
        found = self._engine.recognise(item, one.resource)
        if isinstance(found, Quarantine):
            added.update({key.fingerprint for key in found.claimed})
            self._tell_unreadable(item.key, found)
            return
        added[found.fingerprint] += 1
        if found != self._engine.chains[one.resource].primary:
            inner = item.key[len(one.range.start) :]
            namespace, slash, _ = inner.partition(b"/")
            drifted.setdefault(key_text(namespace) if slash else "", (item.key, found))

    def _bridge(self, one: ResourceRange, growth: int) -> dict[str, int]:
        """Return the most that can have been written in a gap, for each key that it matters for."""
        keys = [key for key in self._engine.chains[one.resource].keys if key.provider == LIMITED_PROVIDER]
        _log.warning(
            "observer.gap",
            resource=one.resource,
            growth=growth,
            because="etcd compacted revisions away before they were seen; each counts as a write",
        )
        return {key.fingerprint: growth for key in keys}

    def _tell(self, resource: str, namespace: str, key: bytes, found: KeyRef | Quarantine) -> None:
        """Name one object of each namespace; the repair looks at all of them."""
        _log.warning(
            "drift.found",
            resource=resource,
            namespace=namespace,
            key=key_text(key),
            because=f"it was written with {found}, which is not the primary key",
        )
        self._listeners.drift(resource, namespace)

    def _tell_unreadable(self, key: bytes, found: Quarantine) -> None:
        """Name the first, and then every thousandth."""
        if self._unreadable % 1000 == 0:
            _log.error("observer.unreadable", key=key_text(key), reason=found.reason.value, because=found.detail)
        self._unreadable += 1
