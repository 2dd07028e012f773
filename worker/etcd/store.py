"""What the rest of the service asks of etcd, sorted by the guarantee that each method gives.

`client.py` implements it on a real etcd. The tests have a second implementation in memory, and one contract
suite runs against both.

- Plain reads (`get`, `page`, `keys`, `count`) are linearizable: they see every write that had
  been acknowledged before the call.
- Pinned reads (`page` with a revision) see the store as it was then, or raise CompactedError.
- `swap` changes one registry key if nobody else did since it was read. It is never sent twice.
- `commit` changes our own records, several at a time if need be, all or none.
- `watch` delivers every write from a revision on, each once and those of a range in order, or says
  which of them etcd has forgotten.

Every method may raise UnavailableError when no endpoint answers in time, except that `swap` and
`commit` turn a lost answer into `UNKNOWN`: the write may have happened, and only reading can tell.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

from kube_rewrap.worker.errors import WorkerError
from kube_rewrap.worker.etcd.ranges import KeyRange


@dataclass(frozen=True, slots=True)
class Item:
    """One key as stored. `lease` is 0 where none is attached; `version` counts writes since creation."""

    key: bytes
    value: bytes = field(repr=False)
    mod_revision: int
    version: int
    lease: int


@dataclass(frozen=True, slots=True)
class Stamp:
    """The revisions at which a key was created and last written, and how often since it was created; not its value."""

    key: bytes
    created: int
    modified: int
    version: int


@dataclass(frozen=True, slots=True)
class Page:
    """Some items of a range in key order; `revision` is the store's when it was read."""

    items: tuple[Item, ...]
    more: bool
    revision: int

    @property
    def bytes(self) -> int:
        """Bytes of keys and values in the page."""
        return sum(len(item.key) + len(item.value) for item in self.items)


class Outcome(Enum):
    """How a conditional write ended. `UNKNOWN` is neither yes nor no."""

    APPLIED = "applied"
    LOST = "lost"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class SwapResult:
    """The end of a swap. When LOST, `current` is what stands there now, None if the key is gone."""

    outcome: Outcome
    revision: int = 0
    current: Item | None = None


@dataclass(frozen=True, slots=True)
class Expect:
    """A condition of `commit`: the key has this mod_revision (0 = does not exist).

    With `created` it compares the revision at which the key was created instead: the token that
    fences an owner who lost its lease.
    """

    key: bytes
    revision: int
    created: bool = False


@dataclass(frozen=True, slots=True)
class Put:
    """A record to write; `lease` ties its life to a lease."""

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
    """The end of a `commit`: its outcome, and the store's revision when it was applied."""

    outcome: Outcome
    revision: int = 0


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """What one endpoint says of itself. Sizes in bytes; `quota` is 0 where etcd does not tell (before 3.6)."""

    endpoint: str
    version: str
    db_size: int
    db_size_in_use: int
    quota: int
    cluster_id: int
    revision: int


@dataclass(frozen=True, slots=True)
class LogPosition:
    """How long one member's raft log was, and the store's revision by its linearizable reads before and after that.

    `index` counts the committed entries since the cluster began.
    """

    cluster_id: int
    index: int
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class WatchFrom:
    """A range to watch; `revision` is the first that is to be delivered."""

    range: KeyRange
    revision: int


@dataclass(frozen=True, slots=True)
class Watched:
    """What happened in the range of number `index`: all of it before `next_revision`, with what was delivered so far.

    `puts` are in the order in which they were written; deletions only move `next_revision`. `revision` is
    the store's when this was sent. `compacted`: what was written before that revision, from where the
    range was, is lost.
    """

    index: int
    puts: tuple[Item, ...]
    next_revision: int
    revision: int
    compacted: int = 0


class Store(Protocol):
    """See the module's docstring for what a caller may conclude from each method."""

    async def get(self, key: bytes) -> Item | None:
        """Return the key as it is now."""

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        """Return up to `limit` items of the range in key order.

        `revision` pins the read (CompactedError when it is gone); `since` leaves out items that
        were last modified before that revision: etcd loads the whole range for that, whatever the limit.
        Raises TooLargeError when the answer does not fit.
        """

    async def keys(self, keys: KeyRange, limit: int) -> tuple[list[bytes], bool]:
        """Return up to `limit` keys of the range in order, without values, and whether there are more."""

    async def stamps(self, keys: KeyRange, limit: int, *, revision: int = 0) -> tuple[list[Stamp], bool]:
        """Return when up to `limit` keys of the range were written, in order, and whether there are more.

        `revision` as in `page`.
        """

    async def count(self, keys: KeyRange) -> int:
        """Return how many keys the range holds."""

    async def swap(self, item: Item, value: bytes, guard: Expect | None = None) -> SwapResult:
        """Replace one registry key's value if it is still the version that was read; keeps its lease.

        `guard` is one of our own records that must be as expected too: FencedError when it is not, and
        nothing changed. Raises TooLargeError or RequestRefusedError where etcd refused, and nothing
        changed; SpaceError when etcd is full, which may come after the change.
        """

    async def swap_all(
        self, swaps: Sequence[tuple[Item, bytes]], guard: Expect | None = None
    ) -> list[SwapResult | WorkerError]:
        """Do many swaps at once, each in a transaction of its own; returns their ends in the same order.

        What `swap` would raise for one of them is returned in its place.
        """

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        """Apply all changes to our own records if every expectation holds. Keys outside the state prefix raise."""

    async def grant_lease(self, seconds: int) -> int:
        """Return the id of a new lease."""

    async def keep_lease(self, lease: int) -> bool:
        """Renew a lease; False when it has expired."""

    async def revoke_lease(self, lease: int) -> None:
        """End a lease and whatever hangs on it."""

    async def members(self) -> list[MemberStatus]:
        """Return the status of every endpoint that answers; UnavailableError when none does."""

    async def log_position(self) -> LogPosition:
        """Return how long the raft log is beside the store's revision, both from one member."""

    async def alarms(self) -> tuple[str, ...]:
        """Return the names of raised alarms, such as NOSPACE or CORRUPT."""

    async def revision(self) -> int:
        """Return the store's current revision."""

    def watch(self, ranges: Sequence[WatchFrom]) -> AsyncGenerator[Watched]:
        """Follow ranges until it is closed (`contextlib.aclosing`), through lost connections and stalled servers.

        An endpoint that is away is no error here: others are tried, again and again. Raises
        RequestRefusedError when the ranges may not be read.
        """
