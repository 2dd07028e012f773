"""One watch over everything that is governed: who writes how often with which key, and what drifts.

Every PUT counts, whoever made it, for kube-apiserver's writes wear a key out as ours do. What a write
was made with is told by opening it, not by its prefix, which proves a name only. What can't be opened
counts for every key whose prefix it carries. A gap that compaction tore into the watch is bridged by
the growth of the store's revision, once for each key however many ranges it tore: more than was
written, never less.

A range that was empty when somebody last surveyed the registry begins right behind that survey. When
nobody ever did, all begin at the present revision; what lies there already is the first sight's matter.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable
from contextlib import aclosing
from dataclasses import dataclass, replace

import structlog

from scheduler.dispatch.local import Engine
from scheduler.pausing import MOST_FRESH, Allowance
from worker.errors import WorkerError
from worker.etcd.store import Expect, Item, Watched, WatchFrom
from worker.model.budget import LIMITED_PROVIDER
from worker.model.inventory import ResourceRange
from worker.model.keys import key_text
from worker.model.verdict import KeyRef, Quarantine, Reason
from worker.state.observations import Observations, load, save

_FLUSH_SECONDS = 1.0
_CLOSE_SECONDS = 5.0
_SLICE = 32
_SILENT_SECONDS = 60.0
_log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Survey:
    """What is governed: every range that holds something, as of a revision."""

    ranges: tuple[ResourceRange, ...]
    revision: int


@dataclass(frozen=True, slots=True)
class Listeners:
    """Who is told: of drift in a resource and namespace ("" = cluster scope), and of a gap."""

    drift: Callable[[str, str], None]
    gap: Callable[[], None]


class Observer:
    """See the module's docstring. `guard` is the leader's fencing token."""

    def __init__(self, engine: Engine, survey: Survey, guard: Expect, listeners: Listeners) -> None:
        self._engine = engine
        self._ranges = survey.ranges
        self._surveyed = survey.revision
        self._grown = asyncio.Event()
        self._guard = guard
        self._listeners = listeners
        self._recorded = Observations()
        self._counts: Counter[str] = Counter()
        self._opened: Counter[str] = Counter()
        self._following: dict[str, int] = {}
        self._last: dict[str, int] = {}
        self._silent_until: dict[tuple[str, str], float] = {}
        self._bridged: dict[str, tuple[int, int]] = {}
        self._changed = False
        self._unreadable = 0
        self._allowance = Allowance(at=time.monotonic())
        self._sent = 0

    @property
    def lag(self) -> int:
        """Revisions of the store that are not yet counted, as far as the watch itself knows."""
        return max(0, self._sent - max(self._following.values(), default=self._sent + 1) + 1)

    @property
    def counts(self) -> dict[str, int]:
        """Writes seen so far by the fingerprint of their key."""
        return dict(self._counts)

    @property
    def opened(self) -> dict[str, int]:
        """Writes that this watch saw and opened, by the fingerprint of their key: nothing that it inferred."""
        return dict(self._opened)

    def extend(self, survey: Survey) -> None:
        """Watch what got its first object since the last survey, too; what was governed then stays watched."""
        known = {key_text(one.range.start) for one in self._ranges}
        new = [one for one in survey.ranges if key_text(one.range.start) not in known]
        for one in new:
            self._following[key_text(one.range.start)] = self._surveyed + 1
            _log.info("observer.extended", resource=one.resource, because="it got its first object")
        self._surveyed = survey.revision
        self._changed = True
        if new:
            self._ranges += tuple(new)
            self._grown.set()

    async def run(self) -> None:
        """Watch until cancelled. Raises FencedError when somebody else observes by now."""
        await self._begin()
        watching = asyncio.create_task(self._watch_as_it_grows(), name="watch")
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
        self._recorded = recorded = await load(store, self._engine.keyspace)
        now = await store.revision() + 1
        if max(recorded.surveyed, *recorded.following.values(), 0) > now:
            # Nothing would be seen until the store came that far again. What the budgets make of it is the ledger's.
            _log.error("observer.rewound", because="etcd's revision is below one that was seen: it was restored")
        begin = recorded.surveyed + 1 if recorded.surveyed else now
        names = [key_text(one.range.start) for one in self._ranges]
        self._counts = Counter(recorded.counts)
        self._last = dict(recorded.last)
        self._following = {name: min(now, recorded.following.get(name, begin)) for name in names}
        if not recorded.surveyed:
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
        before = self._recorded.revision
        now = int(time.time())
        since = {fingerprint: self._recorded.since.get(fingerprint, now) for fingerprint in self._counts}
        seen = Observations(dict(self._counts), dict(self._following), self._surveyed, dict(self._last), since, before)
        self._changed = False
        revision = await save(self._engine.store, self._engine.keyspace, seen, [self._guard])
        self._recorded = replace(seen, revision=revision)

    async def _watch_as_it_grows(self) -> None:
        """Watch, and begin again with every range that came; each goes on where it was."""
        while True:
            self._grown.clear()
            watching = asyncio.ensure_future(self._watch())
            growing = asyncio.ensure_future(self._grown.wait())
            try:
                await asyncio.wait({watching, growing}, return_when=asyncio.FIRST_COMPLETED)
                if watching.done():
                    watching.result()
                    return
            finally:
                watching.cancel()
                growing.cancel()
                await asyncio.gather(watching, growing, return_exceptions=True)

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
        opened: Counter[str] = Counter()
        drifted: dict[str, tuple[bytes, KeyRef | Quarantine]] = {}
        for place, item in enumerate(watched.puts):
            if place % _SLICE == _SLICE - 1:
                await asyncio.sleep(0)
            opened[self._count(item, one, added, drifted)] += 1
        if watched.compacted > self._following[name]:
            added.update(self._bridge(one, self._following[name], watched.compacted))
        self._counts.update(added)
        self._opened.update(opened)
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
    ) -> str:
        """Count one write; returns the fingerprint of the key that opened it, "" when none did."""
        found = self._engine.recognise(item, one.resource)
        if isinstance(found, Quarantine):
            claimed = {key.fingerprint for key in found.claimed}
            added.update(claimed)
            self._note_last(claimed, item.mod_revision)
            self._tell_unreadable(item.key, found)
            return ""
        added[found.fingerprint] += 1
        self._note_last([found.fingerprint], item.mod_revision)
        if found != self._engine.chains[one.resource].primary:
            inner = item.key[len(one.range.start) :]
            namespace, slash, _ = inner.partition(b"/")
            drifted.setdefault(key_text(namespace) if slash else "", (item.key, found))
        return found.fingerprint

    def _bridge(self, one: ResourceRange, first: int, end: int) -> dict[str, int]:
        """Return the most that can have been written in a gap, for each key that it matters for.

        A revision is one write of one key: where the gaps of several ranges overlap it counts once.
        """
        keys = {key.fingerprint for key in self._engine.chains[one.resource].keys if key.provider == LIMITED_PROVIDER}
        _log.warning(
            "observer.gap",
            resource=one.resource,
            growth=end - first,
            because="etcd compacted revisions away before they were seen; each counts as a write",
        )
        self._note_last(keys, end - 1)
        return {fingerprint: self._growth(fingerprint, first, end) for fingerprint in keys}

    def _note_last(self, fingerprints: Iterable[str], revision: int) -> None:
        """Note when these keys were last written with, as far as anybody knows."""
        for fingerprint in fingerprints:
            self._last[fingerprint] = max(self._last.get(fingerprint, 0), revision)

    def _growth(self, fingerprint: str, first: int, end: int) -> int:
        """Return how many revisions of a gap are not counted for this key yet, and note that they are."""
        low, high = self._bridged.get(fingerprint, (first, first))
        if end < low or first > high:
            low, high = first, first
        self._bridged[fingerprint] = min(low, first), max(high, end)
        return max(0, low - first) + max(0, end - high)

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
        if found.claimed and found.reason not in {Reason.KMS, Reason.LATE_PLAINTEXT}:
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
