"""A Store in memory: the same guarantees as etcd's, with faults on demand.

For models and tests of the engine. It keeps every revision, so pinned reads see the store as it was; after `compact`
it refuses older ones. Not handled: sizes on disk (a test sets them), permissions.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field, replace

from kube_rewrap.worker.errors import CompactedError, FencedError, WorkerError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import (
    CommitResult,
    Delete,
    Expect,
    Item,
    LogPosition,
    MemberStatus,
    Outcome,
    Page,
    Put,
    Stamp,
    SwapResult,
    Watched,
    WatchFrom,
    require_ours,
)


@dataclass(slots=True)
class _History:
    """All versions of one key, oldest first; None marks a deletion."""

    revisions: list[int] = field(default_factory=list)
    items: list[Item | None] = field(default_factory=list)
    created: list[int] = field(default_factory=list)

    def at(self, revision: int) -> Item | None:
        index = bisect_left(self.revisions, revision + 1) - 1
        return self.items[index] if index >= 0 else None


Fault = Callable[[str, bytes], Outcome | None]
"""Decides the fate of each write; the arguments are its kind ("swap", "commit") and its first key.

None lets it pass; LOST refuses it as if another client had written first; UNKNOWN applies it and loses the answer.
"""


class MemoryStore:
    """See `worker.etcd.store.Store`."""

    def __init__(self, fault: Fault | None = None, state_prefix: str = "/kube-rewrap") -> None:
        self._state = KeyRange.of_prefix(state_prefix.encode() + b"/")
        self.status = MemberStatus("memory", "0", 0, 0, 0, 1, 1)
        self.raised_alarms: tuple[str, ...] = ()
        self.log_lead = 4
        """The lead of the raft log over the revision; a test lowers it to simulate a restore."""
        self._fault = fault
        self._keys: list[bytes] = []
        self._histories: dict[bytes, _History] = {}
        self._revision = 1
        self._compacted = 0
        self._leases: dict[int, set[bytes]] = {}
        self._next_lease = 1
        self._watchers: set[asyncio.Event] = set()

    # Writes by the test itself, in the role of another client such as kube-apiserver.

    def put(self, key: bytes, value: bytes, lease: int = 0) -> Item:
        """Write a key as another client."""
        self._revision += 1
        return self._set(key, value, lease)

    def delete(self, key: bytes) -> None:
        """Delete a key as another client."""
        self._revision += 1
        self._unset(key)

    def compact(self) -> None:
        """Compact: refuse pinned reads before the current revision; watches that are behind it skip to it."""
        self._compacted = self._revision
        self._stir()

    # The Store protocol.

    async def get(self, key: bytes) -> Item | None:
        """See Store."""
        await asyncio.sleep(0)
        return self._now(key)

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        """See Store."""
        await asyncio.sleep(0)
        if revision and revision < self._compacted:
            raise CompactedError("required revision has been compacted")
        found = [item for item in self._items(keys, revision or self._revision) if item.mod_revision >= since]
        left = max(0, len(found) - limit)
        return Page(tuple(found[:limit]), min(left, 1) if since else left, self._revision)

    async def keys(self, keys: KeyRange, limit: int) -> tuple[list[bytes], int]:
        """See Store."""
        found = [item.key for item in self._items(keys, self._revision)]
        return found[:limit], max(0, len(found) - limit)

    async def stamps(self, keys: KeyRange, limit: int, *, revision: int = 0) -> tuple[list[Stamp], int]:
        """See Store."""
        page = await self.page(keys, limit, revision=revision)
        return [self._stamp(item) for item in page.items], page.left

    def _stamp(self, item: Item) -> Stamp:
        history = self._histories[item.key]
        created = history.created[history.revisions.index(item.mod_revision)]
        return Stamp(item.key, created, item.mod_revision, item.version)

    async def count(self, keys: KeyRange) -> int:
        """See Store."""
        return len(self._items(keys, self._revision))

    async def revision(self) -> int:
        """See Store."""
        return self._revision

    async def swap(self, item: Item, value: bytes, guard: Expect | None = None) -> SwapResult:
        """Do one swap of a group; raises what `swap_all` returns."""
        await asyncio.sleep(0)
        if guard is not None and not self._holds(guard):
            raise FencedError("the guard does not hold")
        fate = self._fault("swap", item.key) if self._fault else None
        current = self._now(item.key)
        if fate is Outcome.LOST or current is None or current.mod_revision != item.mod_revision:
            return SwapResult(Outcome.LOST, self._revision, current)
        self._revision += 1
        self._set(item.key, value, current.lease)
        return SwapResult(fate or Outcome.APPLIED, self._revision)

    async def swap_all(
        self, swaps: Sequence[tuple[Item, bytes]], guard: Expect | None = None
    ) -> list[SwapResult | WorkerError]:
        """See Store."""
        return [await self._swap_one(item, value, guard) for item, value in swaps]

    async def _swap_one(self, item: Item, value: bytes, guard: Expect | None) -> SwapResult | WorkerError:
        try:
            return await self.swap(item, value, guard)
        except WorkerError as error:
            return error

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        """See Store."""
        await asyncio.sleep(0)
        for change in changes:
            require_ours(change, self._state)
        first = changes[0].key if changes and isinstance(changes[0], Put) else b""
        fate = self._fault("commit", first) if self._fault else None
        if fate is Outcome.LOST or not all(map(self._holds, expects)):
            return CommitResult(Outcome.LOST, self._revision)
        before = self._revision
        self._revision += 1
        changed = False
        for change in changes:
            changed = self._apply(change) or changed
        if not changed:
            self._revision = before
        return CommitResult(fate or Outcome.APPLIED, self._revision)

    def _apply(self, change: Put | Delete) -> bool:
        """Apply one change of a transaction; returns whether it changed a key."""
        match change:
            case Put(key, value, lease):
                self._set(key, value, lease)
                return True
            case Delete(keys):
                found = self._items(keys, self._revision)
                for item in found:
                    self._unset(item.key)
                return bool(found)

    async def grant_lease(self, seconds: int) -> int:  # noqa: ARG002 - time does not pass in here
        """See Store."""
        self._next_lease += 1
        self._leases[self._next_lease] = set()
        return self._next_lease

    async def keep_lease(self, lease: int) -> bool:
        """See Store."""
        return lease in self._leases

    async def revoke_lease(self, lease: int) -> None:
        """See Store."""
        self._revision += 1
        for key in self._leases.pop(lease, set()):
            self._unset(key)

    async def members(self) -> list[MemberStatus]:
        """See Store."""
        return [replace(self.status, revision=self._revision)]

    async def log_position(self) -> LogPosition:
        """See Store."""
        before = await self.revision()
        index = self._revision + self.log_lead
        return LogPosition(self.status.cluster_id, index, before, await self.revision())

    async def alarms(self) -> tuple[str, ...]:
        """See Store."""
        return self.raised_alarms

    async def watch(self, ranges: Sequence[WatchFrom]) -> AsyncGenerator[Watched]:
        """See Store."""
        places = [one.revision for one in ranges]
        stirred = asyncio.Event()
        self._watchers.add(stirred)
        try:
            while True:
                stirred.clear()
                for index, one in enumerate(ranges):
                    if places[index] < self._compacted:
                        places[index] = self._compacted
                        yield Watched(index, (), self._compacted, self._revision, compacted=self._compacted)
                    # A watcher that is up to date stays so through a compaction.
                    now = self._revision
                    first, places[index] = places[index], max(places[index], now + 1)
                    for revision, puts in self._events(one.range, first):
                        first = revision + 1
                        yield Watched(index, puts, first, now)
                    if first <= now:
                        yield Watched(index, (), now + 1, now)
                await stirred.wait()
        finally:
            self._watchers.discard(stirred)

    def _events(self, keys: KeyRange, first: int) -> list[tuple[int, tuple[Item, ...]]]:
        """Return the PUTs in a range from a revision on, by revision; a revision of deletions only has none."""
        found: dict[int, tuple[Item, ...]] = {}
        for history in (self._histories[key] for key in self._keys if key in keys):
            for revision, item in zip(history.revisions, history.items, strict=True):
                if revision >= first:
                    found[revision] = found.get(revision, ()) + ((item,) if item else ())
        return sorted(found.items())

    def _stir(self) -> None:
        for watcher in self._watchers:
            watcher.set()

    def _now(self, key: bytes) -> Item | None:
        history = self._histories.get(key)
        return history.at(self._revision) if history else None

    def _items(self, keys: KeyRange, revision: int) -> list[Item]:
        to_the_end = keys.end == b"\0"
        low, high = bisect_left(self._keys, keys.start), bisect_left(self._keys, keys.end)
        high = len(self._keys) if to_the_end else high
        found = (self._histories[key].at(revision) for key in self._keys[low:high])
        return [item for item in found if item is not None]

    def _holds(self, expect: Expect) -> bool:
        current = self._now(expect.key)
        if expect.created:
            return (self._histories[expect.key].created[-1] if current else 0) == expect.revision
        return (current.mod_revision if current else 0) == expect.revision

    def _set(self, key: bytes, value: bytes, lease: int) -> Item:
        history = self._histories.get(key)
        if history is None:
            history = self._histories[key] = _History()
            insort(self._keys, key)
        before = history.at(self._revision)
        if before is not None and before.lease:
            self._leases.get(before.lease, set()).discard(key)
        item = Item(key, value, self._revision, before.version + 1 if before else 1, lease)
        history.revisions.append(self._revision)
        history.items.append(item)
        history.created.append(history.created[-1] if before else self._revision)
        if lease:
            self._leases.setdefault(lease, set()).add(key)
        self._stir()
        return item

    def _unset(self, key: bytes) -> None:
        history = self._histories.get(key)
        before = history.at(self._revision) if history is not None else None
        if history is not None and before is not None:
            self._leases.get(before.lease, set()).discard(key)
            history.revisions.append(self._revision)
            history.items.append(None)
            history.created.append(0)
            self._stir()
