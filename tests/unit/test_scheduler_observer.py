"""What the observer counts, tells and records, on a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from structlog.testing import capture_logs

from config.encryption import (
    EncryptionConfiguration,
    IdentityProvider,
    Key,
    KeyedProvider,
    Provider,
    ProviderType,
    ResourceEntry,
)
from config.generation import Generation
from config.secret import SecretBytes
from config.settings import BudgetSettings, Settings
from scheduler import observer as observing
from scheduler.dispatch.local import Engine
from scheduler.observer import Listeners, Observer, Survey
from worker.errors import BudgetExhaustedError, FencedError, RecordError
from worker.etcd.memory import MemoryStore
from worker.etcd.store import Expect, Put
from worker.model.inventory import ResourceRange
from worker.model.keys import KeyRange
from worker.model.verdict import KeyRef
from worker.pace.local import LocalPace
from worker.providers.chain import Chain
from worker.state.observations import Observations, load, save

pytestmark = pytest.mark.timeout(20)

OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{}}'
NEW = KeyedProvider(ProviderType.AESGCM, (Key("new", SecretBytes(b"n" * 32)),))
OLD = KeyedProvider(ProviderType.AESGCM, (Key("old", SecretBytes(b"o" * 32)),))
BOX = KeyedProvider(ProviderType.SECRETBOX, (Key("box", SecretBytes(b"b" * 32)),))
IMPOSTOR = KeyedProvider(ProviderType.AESGCM, (Key("new", SecretBytes(b"x" * 32)),))
SECRETS = ResourceRange("secrets", KeyRange.of_prefix(b"/registry/secrets/"))
NODES = ResourceRange("nodes", KeyRange.of_prefix(b"/registry/minions/"))
LEADER = b"/kube-rewrap/v1/leader"


def ref(provider: Provider) -> KeyRef:
    return Chain([provider]).primary


FP_NEW, FP_OLD, FP_BOX = (ref(provider).fingerprint for provider in (NEW, OLD, BOX))


@dataclass
class Scene:
    """A cluster in memory, its leader's lock, and what the observer told."""

    store: MemoryStore
    engine: Engine
    guard: Expect
    ranges: tuple[ResourceRange, ...] = (SECRETS, NODES)
    drifted: list[tuple[str, str]] = field(default_factory=list)
    gaps: int = 0
    surveyed: int = 1

    def _gap(self) -> None:
        self.gaps += 1

    def write(self, name: str, provider: Provider) -> None:
        """As kube-apiserver would."""
        self.store.put(name.encode(), Chain([provider]).seal(OBJECT, name.encode()))

    def observer(self) -> Observer:
        listeners = Listeners(lambda resource, namespace: self.drifted.append((resource, namespace)), self._gap)
        return Observer(self.engine, Survey(self.ranges, self.surveyed), self.guard, listeners)

    @asynccontextmanager
    async def observed(self) -> AsyncIterator[Observer]:
        """An observer at work, cancelled at the end."""
        observer = self.observer()
        task = asyncio.create_task(observer.run())
        try:
            # Its record is there: from now on it sees what is written.
            await until(lambda: task.done() or bool(observer._recorded.revision))
            yield observer
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def recorded(self) -> Observations:
        return await load(self.store, self.engine.keyspace)


async def until(condition: Callable[[], bool]) -> None:
    """The test's time-out is the bound."""
    while not condition():  # noqa: ASYNC110 - what an observer has seen has no event
        await asyncio.sleep(0.001)


async def scene(*providers: Provider, limit: int = 200_000) -> Scene:
    store = MemoryStore()
    entry = ResourceEntry(("secrets", "nodes"), providers or (NEW, OLD, BOX, IdentityProvider()))
    generation = Generation("sha256:0", EncryptionConfiguration((entry,)), "test")
    settings = replace(Settings(), budget=BudgetSettings(gcm_limit=limit, block=10))
    elected = await store.commit([], [Put(LEADER, b"me")])
    guard = Expect(LEADER, elected.revision, created=True)
    return Scene(store, Engine(store, settings, generation, LocalPace(0)), guard)


# ---------------------------------------------------------------------------------------------------------- counting


async def test_every_put_counts_for_the_key_that_opens_it_whoever_wrote_it() -> None:
    there = await scene()
    there.write("/registry/secrets/default/early", NEW)
    async with there.observed() as observer:
        for _ in range(3):
            there.write("/registry/secrets/default/a", NEW)
        there.write("/registry/secrets/default/b", BOX)
        there.write("/registry/minions/n1", NEW)
        there.write("/registry/configmaps/default/not-governed", NEW)
        there.store.delete(b"/registry/secrets/default/a")
        await until(lambda: observer.counts == {FP_NEW: 4, FP_BOX: 1})
        assert observer.lag == 0
    assert dict((await there.recorded()).counts) == {FP_NEW: 4, FP_BOX: 1}


async def test_what_opens_with_no_key_counts_for_each_key_whose_name_it_carries() -> None:
    there = await scene()
    with capture_logs() as logs:
        async with there.observed() as observer:
            there.write("/registry/secrets/default/a", IMPOSTOR)
            there.store.put(b"/registry/secrets/default/b", b"k8s:enc:aesgcm:v1:unheard-of:???")
            await until(lambda: observer.counts == {FP_NEW: 1})
            # Both were seen: the second one counts for nobody.
            there.write("/registry/secrets/default/c", BOX)
            await until(lambda: observer.counts == {FP_NEW: 1, FP_BOX: 1})
    (told,) = [log for log in logs if log["event"] == "observer.unreadable"]
    assert (told["key"], told["reason"]) == ("/registry/secrets/default/a", "authentication_failed")
    assert there.drifted == [("secrets", "default")]


async def test_while_values_are_tried_out_no_drift_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("scheduler.pausing.MOST_FRESH", 20)
    there = await scene()
    with capture_logs() as logs:
        async with there.observed() as observer:
            there.write("/registry/secrets/first/a", OLD)
            await until(lambda: there.drifted == [("secrets", "first")])
            for number in range(300):
                there.write(f"/registry/secrets/guess/{number}", IMPOSTOR)
            there.write("/registry/secrets/hit/a", OLD)
            await until(lambda: observer.counts == {FP_NEW: 300, FP_OLD: 2})
    assert there.drifted == [("secrets", "first")]
    assert [log["event"] for log in logs if log["event"].startswith("drift.")] == ["drift.found", "drift.muted"]


async def test_drift_is_told_with_its_namespace_and_the_key_that_was_used() -> None:
    there = await scene()
    with capture_logs() as logs:
        async with there.observed():
            there.write("/registry/secrets/kube-system/a", OLD)
            there.write("/registry/secrets/kube-system/b", NEW)
            there.write("/registry/minions/n1", IdentityProvider())
            await until(lambda: len(there.drifted) == 2)
    assert there.drifted == [("secrets", "kube-system"), ("nodes", "")]
    told = [log for log in logs if log["event"] == "drift.found"]
    assert [log["key"] for log in told] == ["/registry/secrets/kube-system/a", "/registry/minions/n1"]
    assert all(part in told[0]["because"] for part in ("old", FP_OLD))


# --------------------------------------------------------------------------------------------------------- restarts


async def test_the_next_observer_goes_on_behind_the_last_count() -> None:
    there = await scene()
    async with there.observed() as first:
        there.write("/registry/secrets/default/a", NEW)
        await until(lambda: first.counts == {FP_NEW: 1})
    there.write("/registry/secrets/default/a", NEW)
    there.write("/registry/secrets/default/b", NEW)
    async with there.observed() as second:
        there.write("/registry/secrets/default/c", NEW)
        await until(lambda: second.counts == {FP_NEW: 4})
    assert dict((await there.recorded()).counts) == {FP_NEW: 4}


async def test_who_lost_the_lead_records_nothing_more_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "_FLUSH_SECONDS", 0.01)
    there = await scene()
    observer = there.observer()
    task = asyncio.create_task(observer.run())
    there.write("/registry/secrets/default/a", NEW)
    await until(lambda: observer._recorded.revision > 0)
    await there.store.commit([], [Put(b"/kube-rewrap/v1/other", b"")])
    there.store.delete(LEADER)
    before = await there.recorded()
    there.write("/registry/secrets/default/b", NEW)
    with pytest.raises(FencedError):
        await task
    assert await there.recorded() == before


async def test_who_finds_that_another_observer_wrote_stops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(observing, "_FLUSH_SECONDS", 0.01)
    there = await scene()
    observer = there.observer()
    task = asyncio.create_task(observer.run())
    await until(lambda: observer._recorded.revision > 0)
    theirs = Observations({"x": 7}, {}, 1, revision=observer._recorded.revision)
    await save(there.store, there.engine.keyspace, theirs, [])
    there.write("/registry/secrets/default/b", NEW)
    with pytest.raises(FencedError):
        await task
    assert dict((await there.recorded()).counts) == {"x": 7}


async def test_a_damaged_record_is_not_taken_for_none() -> None:
    there = await scene()
    await there.store.commit([], [Put(there.engine.keyspace.observer, b'{"v":1,"counts":{"x":"many"},"following":{}}')])
    with pytest.raises(RecordError, match="observer"):
        await there.observer().run()


# -------------------------------------------------------------------------------------------------------------- gaps


async def test_a_gap_counts_as_its_growth_for_each_key_that_wears_out() -> None:
    there = await scene()
    there = replace(there, ranges=(SECRETS,))
    async with there.observed():
        pass
    began = (await there.recorded()).following["/registry/secrets/"]
    for number in range(9):
        there.write(f"/registry/secrets/default/s{number}", NEW)
    there.store.compact()
    compacted = await there.store.revision()
    with capture_logs() as logs:
        async with there.observed() as second:
            await until(lambda: there.gaps == 1)
            await until(lambda: second.counts.get(FP_NEW, 0) > compacted - began)
    # The one at the compaction itself can still be read, and is counted by itself.
    assert dict((await there.recorded()).counts) == {FP_NEW: compacted - began + 1, FP_OLD: compacted - began}
    assert [log["growth"] for log in logs if log["event"] == "observer.gap"] == [compacted - began]


# ------------------------------------------------------------------------------------------------------------ budgets


async def test_what_others_wrote_is_used_and_our_own_swaps_are_not_used_twice() -> None:
    there = await scene()
    ledger = there.engine.ledger
    await ledger.first_sight([ref(NEW)], {FP_NEW: 5})
    async with there.observed() as observer:
        assert await ledger.spend(ref(NEW), 10, 10) == 10
        for number in range(10):
            there.write(f"/registry/secrets/default/s{number}", NEW)  # a swap of ours is a PUT as any other
            ledger.landed(ref(NEW))
        await ledger.settle()
        for _ in range(7):
            there.write("/registry/secrets/default/foreign", NEW)
        await until(lambda: observer.counts == {FP_NEW: 17})
    budget = (await ledger.all())[FP_NEW]
    assert (budget.reserved, budget.committed, budget.observed, budget.estimated) == (10, 10, 17, 5)
    assert budget.used == 10 + 5 + 7


async def test_what_we_wrote_before_anybody_observed_hides_no_writes_of_others() -> None:
    there = await scene()
    ledger = there.engine.ledger
    await ledger.first_sight([ref(NEW)], {})
    assert await ledger.spend(ref(NEW), 10, 10) == 10
    for _ in range(10):
        ledger.landed(ref(NEW))
    await ledger.settle()
    async with there.observed() as observer:
        for _ in range(4):
            there.write("/registry/secrets/default/foreign", NEW)
        await until(lambda: observer.counts == {FP_NEW: 14})
    assert (await ledger.all())[FP_NEW].used == 10 + 4


async def test_no_token_is_given_for_a_key_that_others_have_used_up() -> None:
    there = await scene(limit=20)
    ledger = there.engine.ledger
    await ledger.first_sight([ref(NEW)], {})
    async with there.observed() as observer:
        for _ in range(20):
            there.write("/registry/secrets/default/foreign", NEW)
        await until(lambda: observer.counts == {FP_NEW: 20})
    with pytest.raises(BudgetExhaustedError, match="has used 20"):
        await ledger.spend(ref(NEW), 1, 1)


# ------------------------------------------------------------------------------------------- ranges that come later


async def test_a_gap_over_several_ranges_counts_once() -> None:
    there = await scene()
    async with there.observed():
        pass
    following = (await there.recorded()).following
    assert len(set(following.values())) == 1
    for number in range(9):
        there.write(f"/registry/secrets/default/s{number}", BOX)
    there.store.compact()
    growth = await there.store.revision() - following["/registry/secrets/"]
    async with there.observed() as second:
        await until(lambda: there.gaps == 2)
        assert second.counts[FP_NEW] == second.counts[FP_OLD] == growth


@pytest.mark.parametrize(
    ("gaps", "counted"),
    [
        pytest.param([(10, 50), (10, 50)], [40, 0], id="the same"),
        pytest.param([(10, 50), (20, 40)], [40, 0], id="one inside the other"),
        pytest.param([(20, 40), (10, 50)], [20, 20], id="one around the other"),
        pytest.param([(10, 50), (30, 70)], [40, 20], id="one behind the other"),
        pytest.param([(30, 70), (10, 50)], [40, 20], id="one before the other"),
        pytest.param([(10, 20), (20, 30)], [10, 10], id="one after the other"),
        pytest.param([(10, 20), (60, 70)], [10, 10], id="apart"),
        pytest.param([(60, 70), (10, 20), (60, 70)], [10, 10, 10], id="what is no longer known counts again"),
    ],
)
async def test_revisions_that_several_gaps_share_count_once(gaps: list[tuple[int, int]], counted: list[int]) -> None:
    observer = (await scene()).observer()
    assert [observer._growth("fingerprint", *gap) for gap in gaps] == counted


async def test_what_gets_its_first_object_later_is_counted_from_that_object_on() -> None:
    there = replace(await scene(), ranges=(SECRETS,))
    there.surveyed = await there.store.revision()
    async with there.observed() as observer:
        there.write("/registry/minions/n1", NEW)
        there.write("/registry/secrets/default/a", NEW)
        await until(lambda: observer.counts == {FP_NEW: 1})
        observer.extend(Survey((SECRETS, NODES), await there.store.revision()))
        await until(lambda: observer.counts == {FP_NEW: 2})
        there.write("/registry/minions/n1", NEW)
        there.write("/registry/secrets/default/a", NEW)
        await until(lambda: observer.counts == {FP_NEW: 4})
    recorded = await there.recorded()
    assert set(recorded.following) == {"/registry/secrets/", "/registry/minions/"}
    assert recorded.surveyed > there.surveyed


async def test_what_came_while_nobody_looked_is_counted_from_the_last_survey_on() -> None:
    there = replace(await scene(), ranges=(SECRETS,))
    there.surveyed = await there.store.revision()
    async with there.observed():
        pass
    there.write("/registry/minions/n1", NEW)
    there = replace(there, ranges=(SECRETS, NODES))
    async with there.observed() as observer:
        await until(lambda: observer.counts == {FP_NEW: 1})


async def test_after_a_restore_the_watch_begins_at_what_is_there() -> None:
    there = await scene()
    seen = Observations({FP_NEW: 7}, {"/registry/secrets/": 10_000}, 9_000)
    await save(there.store, there.engine.keyspace, seen, [])
    with capture_logs() as logs:
        async with there.observed() as observer:
            there.write("/registry/secrets/default/a", NEW)
            await until(lambda: observer.counts == {FP_NEW: 8})
    assert [log["event"] for log in logs] == ["observer.rewound"]
