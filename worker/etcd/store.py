"""The Store protocol: all that the service uses of etcd, sorted by the guarantee that each method gives.

`client.py` implements it on a real etcd. The tests have a second implementation in memory, and one contract
suite runs against both.

- Plain reads (`get`, `page`, `keys`, `stamps`, `count`) are linearizable: they see every write that etcd had
  acknowledged before the call.
- Pinned reads (`page` and `stamps` with a revision) see the store at that revision, or raise CompactedError.
- `swap_all` changes each registry key if no other client changed it since it was read. No swap is applied twice.
- `commit` changes one or several of our own records, all or none.
- `watch` delivers every write from a revision on, each once and those of a range in order, or reports
  which of them etcd has compacted.

Every method may raise UnavailableError when no endpoint answers in time, except that `swap_all` and
`commit` return `UNKNOWN` for a lost answer: etcd may have applied the write, and only a read can show it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Protocol

from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.etcd.ranges import KeyRange


@dataclass(frozen=True, slots=True)
class Item:
    """One key as stored. `lease` is 0 if none is attached; `version` counts the writes since its creation."""

    key: bytes
    value: bytes = field(repr=False)
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """A key without its value: the revisions of its creation and its last write, and the writes since its creation."""

    key: bytes
    created: int
    modified: int
    version: int


@dataclass(frozen=True)
class Page:
    """Some items of a range in key order; `revision` is the store's at the read.

    `left` counts the further keys of the range; with `since` it is 1 for any number of them.
    """

    items: tuple[Item, ...]
    left: int
    revision: int

    @property
    def more(self) -> bool:
        """Whether the range has further items."""
        return self.left > 0

    @cached_property
    def bytes(self) -> int:
        """Bytes of keys and values in the page."""
        return sum([len(item.key) + len(item.value) for item in self.items])


class Outcome(Enum):
    """How a conditional write ended. `UNKNOWN`: the answer was lost, and etcd may or may not have applied it."""

    APPLIED = "applied"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SwapResult:
    """The end of a swap. When LOST, `current` is the item that etcd holds instead, None if the key is gone."""

    outcome: Outcome
    revision: int = 0
    current: Item | None = None


@dataclass(frozen=True, slots=True)
class Expect:
    """A condition of a write: the key has this mod_revision (0 = it does not exist).

    With `created` it compares the key's creation revision instead: the fencing token of a lock.
    """

    key: bytes
    revision: int
    created: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """A record to write; with `lease` etcd deletes it when that lease ends (0 = none)."""

    key: bytes
    value: bytes = field(repr=False)
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Records to remove: one key, or a whole range."""

    range: KeyRange

    @classmethod
    def of_key(cls, key: bytes) -> Delete:
        """Return the removal of a single key."""
        return cls(KeyRange(key, key + b"\0"))


def require_ours(change: Put | Delete, state: KeyRange) -> None:
    """Raise ValueError for a change outside the range of our own records: `commit` is not for registry keys."""
    if isinstance(change, Put):
        inside = change.key in state
    else:
        inside = change.range.start in state and change.range.start < change.range.end <= state.end
    if not inside:
        raise ValueError("only records under the state prefix may be changed by commit")


@dataclass(frozen=True, slots=True)
class CommitResult:
    """The end of a `commit`: its outcome, and the store's revision after it (0 when UNKNOWN)."""

    outcome: Outcome
    revision: int = 0


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """One endpoint's answer to Status. Sizes in bytes; `quota` is 0 if etcd does not report it (before 3.6)."""

    endpoint: str
    version: str
    db_size: int
    db_size_in_use: int
    quota: int
    cluster_id: int
    revision: int


@dataclass(frozen=True, slots=True)
class LogPosition:
    """One member's raft index, and the store's revision by its linearizable reads just before and after.

    `index` counts the committed entries since the cluster began.
    """

    cluster_id: int
    index: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class WatchFrom:
    """A range to watch, from the revision `revision` on."""

    range: KeyRange
    revision: int


@dataclass(frozen=True, slots=True)
class Watched:
    """The next writes in the range of number `index`. With them the watch has delivered all before `next_revision`.

    `puts` are in the order of the writes; deletions only move `next_revision`. `revision` is the store's when etcd
    sent this. `compacted`, if not 0: etcd has compacted the writes from the range's place to before that revision,
    and the watch skips them.
    """

    index: int
    puts: tuple[Item, ...]
    next_revision: int
    revision: int
    compacted: int = 0


class Store(Protocol):
    """See the module's docstring for what a caller may conclude from each method."""

    async def get(self, key: bytes) -> Item | None:
        """Return the key's current item, None if the key does not exist."""

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        """Return up to `limit` items of the range in key order.

        `revision` pins the read (0 = now); raises CompactedError when etcd has compacted it. `since` leaves out items
        last modified before that revision; etcd then loads the whole range, whatever the limit. Raises TooLargeError
        when the answer is larger than the client accepts.

        etcd visits every key of the range, whatever the limit; so do `keys` and `stamps`. `pages` reads a long range in
        parts.
        """

    async def keys(self, keys: KeyRange, limit: int) -> tuple[list[bytes], int]:
        """Return up to `limit` keys of the range in order, without values, and how many further ones it has."""

    async def stamps(self, keys: KeyRange, limit: int, *, revision: int = 0) -> tuple[list[Stamp], int]:
        """Return the stamps of up to `limit` keys of the range in order, and how many further keys it has.

        `revision` as in `page`.
        """

    async def count(self, keys: KeyRange) -> int:
        """Return how many keys the range holds."""

    async def swap_all(
        self, swaps: Sequence[tuple[Item, bytes]], guard: Expect | None = None
    ) -> list[SwapResult | WorkerError]:
        """Replace each registry key's value if it is still the version that was read; keeps its lease.

        Sends all at once, each in a transaction of its own; returns their ends in the same order. An end is an error
        when etcd refused the write and nothing changed: FencedError if `guard`, a condition on one of our own records,
        does not hold, TooLargeError or RequestRefusedError. After SpaceError etcd may have applied the write.
        """

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        """Apply all changes to our own records if every expectation holds, else none.

        Raises ValueError for a key outside the state prefix.
        """

    async def grant_lease(self, seconds: int) -> int:
        """Grant a lease of this many seconds; returns its id."""

    async def keep_lease(self, lease: int) -> bool:
        """Renew a lease; False when it has expired."""

    async def revoke_lease(self, lease: int) -> None:
        """End a lease; etcd deletes all keys attached to it."""

    async def members(self) -> list[MemberStatus]:
        """Return the status of every endpoint that answers; UnavailableError when none does."""

    async def log_position(self) -> LogPosition:
        """Return the raft index and the store's revision, both from one member."""

    async def alarms(self) -> tuple[str, ...]:
        """Return the names of raised alarms, such as NOSPACE or CORRUPT."""

    async def revision(self) -> int:
        """Return the store's current revision."""

    def watch(self, ranges: Sequence[WatchFrom]) -> AsyncGenerator[Watched]:
        """Follow ranges until the caller closes the generator (`contextlib.aclosing`).

        It survives lost connections and stalled servers: when an endpoint does not answer, it continues with the next
        one, and never gives up. Raises RequestRefusedError when the user lacks permission to read the ranges.
        """
