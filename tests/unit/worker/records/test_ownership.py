"""Who works on campaigns: one owner, fenced by its lock's creation."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from kube_rewrap.worker.errors import BusyError, FencedError, TemporaryError
from kube_rewrap.worker.etcd.store import CommitResult, Delete, Expect, Item, Outcome, Put
from kube_rewrap.worker.records import ownership
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.holder import Holder
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ownership import open_session, own
from tests.fakes.store import MemoryStore
from tests.unit.clock import without_waiting

pytestmark = pytest.mark.timeout(20)

SPACE = Keyspace()
ME = Holder("rewrap run", "node-1", 42, "2024-01-01T00:00:00+00:00")
OTHER = Holder("rewrap run", "node-2", 43, "2024-01-01T00:00:01+00:00")


def ignore(_error: FencedError) -> None:
    """Nobody looks."""


async def test_the_owner_gets_a_guard_that_holds_while_it_owns() -> None:
    store = MemoryStore()
    async with own(store, SPACE, ME, ignore) as (_, guard):
        assert (await store.commit([guard], [Put(b"/kube-rewrap/v1/x", b"1")])).outcome is Outcome.APPLIED
    assert (await store.commit([guard], [Put(b"/kube-rewrap/v1/x", b"2")])).outcome is Outcome.LOST


async def test_the_lock_is_released_at_the_end_and_on_errors() -> None:
    store = MemoryStore()
    with pytest.raises(RuntimeError):
        async with own(store, SPACE, ME, ignore):
            raise RuntimeError
    assert await store.get(SPACE.owner) is None
    async with own(store, SPACE, OTHER, ignore):
        pass


async def test_a_cancellation_while_the_lock_is_given_back_waits_for_that() -> None:
    store = MemoryStore()
    begun, may_end = asyncio.Event(), asyncio.Event()

    class Slow:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        async def revoke_lease(self, lease: int) -> None:
            begun.set()
            await may_end.wait()
            await store.revoke_lease(lease)

    async def work() -> None:
        async with own(Slow(), SPACE, ME, ignore):  # type: ignore[arg-type] # the rest is the store's
            pass

    task = asyncio.create_task(work())
    await begun.wait()
    task.cancel()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await store.get(SPACE.owner) is None


async def test_a_second_owner_is_refused_with_the_name_of_the_first() -> None:
    store = MemoryStore()
    async with own(store, SPACE, ME, ignore) as (_, guard):
        with pytest.raises(
            BusyError, match=r"rewrap run on node-1, pid 42, since 2024-01-01T00:00:00\+00:00; wait for it \(--wait\)"
        ):
            async with own(store, SPACE, OTHER, ignore):
                pass
        # The refused one took nothing away from the first.
        assert (await store.commit([guard], [])).outcome is Outcome.APPLIED


@pytest.mark.parametrize(
    "hostile",
    [
        pytest.param({**ME.to_json(), "host": "\x1b[2J"}, id="what a terminal would obey"),
        pytest.param({**ME.to_json(), "command": "x" * 1_000_000}, id="a megabyte"),
        pytest.param({**ME.to_json(), "pid": [10**400]}, id="a list"),
        pytest.param({}, id="nothing"),
    ],
)
async def test_a_lock_whose_record_can_not_be_read_is_held_all_the_same(hostile: dict[str, object]) -> None:
    store = MemoryStore()
    store.put(SPACE.owner, encode(hostile))
    with pytest.raises(BusyError) as caught:
        async with own(store, SPACE, OTHER, ignore):
            pass
    assert str(caught.value).startswith("another process works on it: a process whose record can't be read; wait")


async def test_an_owner_that_comes_after_another_fences_it() -> None:
    store = MemoryStore()
    async with own(store, SPACE, ME, ignore) as (_, first):
        store.delete(SPACE.owner)
        async with own(store, SPACE, OTHER, ignore) as (_, second):
            assert (await store.commit([first], [])).outcome is Outcome.LOST
            assert (await store.commit([second], [])).outcome is Outcome.APPLIED


async def test_a_lock_whose_answer_was_lost_is_held_all_the_same() -> None:
    faults = [Outcome.UNKNOWN]
    store = MemoryStore(lambda _kind, _key: faults.pop() if faults else None)
    async with own(store, SPACE, ME, ignore) as (_, guard):
        assert (await store.commit([guard], [])).outcome is Outcome.APPLIED


async def test_a_lock_that_nobody_has_and_we_did_not_get_is_tried_later() -> None:
    faults = [Outcome.LOST]
    store = MemoryStore(lambda _kind, _key: faults.pop() if faults else None)
    with pytest.raises(TemporaryError, match="neither taken nor free"):
        async with own(store, SPACE, ME, ignore):
            pass


async def test_a_lost_lease_calls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "LEASE_SECONDS", 0.03)
    store, lost = MemoryStore(), asyncio.Queue[FencedError]()
    async with asyncio.timeout(10), own(store, SPACE, ME, lost.put_nowait):
        item = await store.get(SPACE.owner)
        assert item is not None
        await store.revoke_lease(item.lease)
        assert "was not renewed in time" in str(await lost.get())


@without_waiting
async def test_a_lease_that_is_renewed_is_kept_past_its_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "LEASE_SECONDS", 0.9)
    renewals = asyncio.Queue[int]()

    class Counting(MemoryStore):
        async def keep_lease(self, lease: int) -> bool:
            renewals.put_nowait(lease)
            return await super().keep_lease(lease)

    lost: list[FencedError] = []
    async with asyncio.timeout(10), own(Counting(), SPACE, ME, lost.append):
        for _ in range(4):
            await renewals.get()
    assert not lost


class LateStore(MemoryStore):
    """The first commit is applied after its answer was given up, and after the read that follows."""

    pending: tuple[Sequence[Expect], Sequence[Put | Delete]] | None = None
    held_back = 0

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        if not self.held_back:
            self.held_back = 1
            self.pending = (expects, changes)
            return CommitResult(Outcome.UNKNOWN)
        if self.pending is not None:
            late, self.pending = self.pending, None
            await super().commit(*late)
        return await super().commit(expects, changes)


async def test_a_lock_that_was_taken_after_all_is_the_sessions_own() -> None:
    store = LateStore()
    async with open_session(store, ignore, 10) as session:
        with pytest.raises(TemporaryError, match="neither taken nor free"):
            await session.hold(SPACE.leader, ME)
        guard = await session.hold(SPACE.leader, ME)
        assert (await store.commit([guard], [Put(b"/kube-rewrap/v1/x", b"1")])).outcome is Outcome.APPLIED


class Losing(MemoryStore):
    """Loses the first deletion of a lock before etcd has it."""

    lost = 0

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        if not self.lost and any(isinstance(change, Delete) for change in changes):
            self.lost += 1
            return CommitResult(Outcome.UNKNOWN)
        return await super().commit(expects, changes)


async def test_a_lock_is_released_though_the_first_attempt_is_lost() -> None:
    """A run's session lasts: a claim that is left behind would keep its batch from everyone until the end."""
    store = Losing()
    async with open_session(store, ignore, 10) as session:
        await session.release(await session.hold(b"/kube-rewrap/v1/claims/c/0", ME))
        assert (store.lost, await store.get(b"/kube-rewrap/v1/claims/c/0")) == (1, None)


class LosingAll(MemoryStore):
    """Loses deletions of locks until told otherwise."""

    loses = True

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        if self.loses and any(isinstance(change, Delete) for change in changes):
            return CommitResult(Outcome.UNKNOWN)
        return await super().commit(expects, changes)


CLAIM = b"/kube-rewrap/v1/claims/c/0"


async def until_free(store: MemoryStore) -> None:
    async with asyncio.timeout(10):
        while await store.get(CLAIM) is not None:  # noqa: ASYNC110 - a store has no event for it
            await asyncio.sleep(0.01)


async def test_a_claim_that_etcd_takes_late_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process leaves a claimed batch alone; so the session that does not know of its claim would keep it."""
    monkeypatch.setattr(ownership, "_LATE_SECONDS", 0.01)
    store = LateStore()
    async with open_session(store, ignore, 10) as session:
        with pytest.raises(TemporaryError, match="neither taken nor free"):
            await session.hold(CLAIM, ME)
        await store.commit([], [Put(b"/kube-rewrap/v1/x", b"1")])  # before it, etcd applies the late one
        assert await store.get(CLAIM) is not None
        await until_free(store)
    async with open_session(store, ignore, 10) as another:
        await another.hold(CLAIM, ME)


async def test_a_claim_that_no_answer_released_is_released_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_LATE_SECONDS", 0.01)
    store = LosingAll()
    async with open_session(store, ignore, 10) as session:
        await session.release(await session.hold(CLAIM, ME))
        assert await store.get(CLAIM) is not None
        store.loses = False
        await until_free(store)


async def test_a_claim_in_use_is_not_taken_for_a_late_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_LATE_SECONDS", 0.05)
    store = LateStore()
    async with open_session(store, ignore, 10) as session:
        with pytest.raises(TemporaryError, match="neither taken nor free"):
            await session.hold(CLAIM, ME)
        guard = await session.hold(CLAIM, ME)
        with pytest.raises(TemporaryError, match="in use"):
            await session.hold(CLAIM, ME)
        await asyncio.sleep(0.3)
        assert (await store.commit([guard], [Put(b"/kube-rewrap/v1/x", b"1")])).outcome is Outcome.APPLIED


OTHER_CLAIM = b"/kube-rewrap/v1/claims/c/1"


class SlowLate(LosingAll):
    """Loses all deletions, and stops the first read of `CLAIM` after that."""

    def __init__(self) -> None:
        super().__init__()
        self.is_looked_at, self.may_answer = asyncio.Event(), asyncio.Event()

    async def get(self, key: bytes) -> Item | None:
        if key == CLAIM and not self.is_looked_at.is_set():
            self.is_looked_at.set()
            await self.may_answer.wait()
        return await super().get(key)


async def test_a_claim_that_is_taken_while_late_ones_are_released_is_kept() -> None:
    store = SlowLate()
    async with open_session(store, ignore, 10) as session:
        for key in (CLAIM, OTHER_CLAIM):
            await session.release(await session.hold(key, ME))
        store.loses = False
        late = asyncio.create_task(session.release_late())
        await store.is_looked_at.wait()
        guard = await session.hold(OTHER_CLAIM, ME)
        store.may_answer.set()
        await late
        assert (await store.commit([guard], [Put(b"/kube-rewrap/v1/x", b"1")])).outcome is Outcome.APPLIED
        with pytest.raises(TemporaryError, match="in use"):
            await session.hold(OTHER_CLAIM, ME)
        assert await store.get(CLAIM) is None


class Answerless(MemoryStore):
    """Applies the first commit, and never answers it."""

    applied = 0

    async def commit(self, expects: Sequence[Expect], changes: Sequence[Put | Delete]) -> CommitResult:
        result = await super().commit(expects, changes)
        self.applied += 1
        if self.applied == 1:
            await asyncio.Event().wait()
        return result


async def test_a_claim_whose_request_was_cancelled_is_released(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "_LATE_SECONDS", 0.01)
    store = Answerless()
    async with open_session(store, ignore, 10) as session:
        taking = asyncio.create_task(session.hold(CLAIM, ME))
        while await store.get(CLAIM) is None:  # noqa: ASYNC110 - the store in memory tells nothing when it changes
            await asyncio.sleep(0)
        taking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await taking
        await until_free(store)
