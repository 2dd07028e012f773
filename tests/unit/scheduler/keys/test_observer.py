"""What the observer counts, tells and records, on a store in memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    IdentityProvider,
    Key,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import BudgetSettings, Settings
from kube_rewrap.scheduler.campaigns.service import Service
from kube_rewrap.scheduler.dispatch.local import Engine
from kube_rewrap.scheduler.keys import observer as observing
from kube_rewrap.scheduler.keys.observer import Listeners, Observer
from kube_rewrap.worker.errors import BudgetExhaustedError, FencedError, RecordError, RequestRefusedError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect, Page, Put, Watched, WatchFrom
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.inventory import Look
from kube_rewrap.worker.records.observations import load, save
from kube_rewrap.worker.records.observed import Followed, Observations
from kube_rewrap.worker.verdict import KeyRef
from tests.fakes.plugins import MemoryPlugins, new_data_key
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.timeout(20)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was seen goes on record at once."""
    monkeypatch.setattr(observing, "_FLUSH_SECONDS", 0.01)


OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{}}'
NEW = KeyedProvider(ProviderType.AESGCM, (Key("new", SecretBytes(b"n" * 32)),))
OLD = KeyedProvider(ProviderType.AESGCM, (Key("old", SecretBytes(b"o" * 32)),))
BOX = KeyedProvider(ProviderType.SECRETBOX, (Key("box", SecretBytes(b"b" * 32)),))
IMPOSTOR = KeyedProvider(ProviderType.AESGCM, (Key("new", SecretBytes(b"x" * 32)),))
LEADER = b"/kube-rewrap/v1/leader"


def ref(provider: Provider) -> KeyRef:
    return Chain([provider]).primary


FP_NEW, FP_OLD, FP_BOX = (ref(provider).fingerprint for provider in (NEW, OLD, BOX))


@dataclass
class Scene:
    """A cluster in memory, its leader's lock, and what the observer told."""

    store: MemoryStore
    engine: Engine
    service: Service
    drifted: list[tuple[str, str]] = field(default_factory=list)
    gaps: int = 0

    def _gap(self) -> None:
        self.gaps += 1

    def write(self, name: str, provider: Provider) -> None:
        """As kube-apiserver would."""
        self.store.put(name.encode(), Chain([provider]).seal(OBJECT, name.encode()))

    def observer(self) -> Observer:
        """Whoever was elected last observes; the others are fenced."""
        self.store.delete(LEADER)
        guard = Expect(LEADER, self.store.put(LEADER, b"me").mod_revision, created=True)
        listeners = Listeners(lambda resource, namespace: self.drifted.append((resource, namespace)), self._gap)
        return Observer(self.service, guard, listeners)

    @asynccontextmanager
    async def observed(self) -> AsyncIterator[Observer]:
        """An observer at work, cancelled at the end."""
        before, observer = (await self.recorded()).revision, self.observer()
        task = asyncio.create_task(observer.run())
        try:
            # Its record is there: from now on it sees what is written.
            await until(lambda: task.done() or observer.recorded.revision > before)
            await until(lambda: task.done() or not observer.lag)
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


async def scene(
    *providers: Provider,
    limit: int = 200_000,
    resources: tuple[str, ...] = ("secrets", "nodes"),
    store: MemoryStore | None = None,
) -> Scene:
    """A registry that is empty but for a namespace; with `store`, another configuration on the same one."""
    store = store or MemoryStore()
    if not await store.count(KeyRange.of_prefix(b"/registry/")):
        store.put(b"/registry/namespaces/default", b"x")
    return await scene_of([ResourceEntry(resources, providers or (NEW, OLD, BOX, IdentityProvider()))], store, limit)


async def scene_of(entries: Sequence[ResourceEntry], store: MemoryStore, limit: int = 200_000) -> Scene:
    generation = Generation("sha256:0", EncryptionConfiguration(tuple(entries)), "test")
    settings = replace(Settings(), budget=BudgetSettings(gcm_limit=limit, block=10))
    engine = Engine(store, settings, generation, LocalPace(0))
    return Scene(store, engine, Service(settings, generation, Layout(), engine))


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


@pytest.mark.parametrize(("targets", "drifted"), [({"vault": "kek-1"}, ["other"]), ({}, [])], ids=["known", "unknown"])
async def test_values_of_kms_count_for_their_provider_and_drift_under_another_key_id(
    targets: dict[str, str], drifted: list[str]
) -> None:
    vault = KmsProvider("v2", "vault", "unix:///s", 3.0, None)
    there = await scene(vault, OLD)
    there.engine = Engine(there.store, Settings(), there.engine.generation, LocalPace(0), MemoryPlugins())
    there.engine.chains.aim(targets)
    there.service = Service(Settings(), there.engine.generation, Layout(), there.engine)
    async with there.observed() as observer:
        for namespace, key_id in (("same", "kek-1"), ("other", "kek-2")):
            name = f"/registry/secrets/{namespace}/a".encode()
            chain = Chain([vault], targets={"vault": key_id})
            assert chain.kms_primary is not None
            there.store.put(name, chain.seal(OBJECT, name, new_data_key(*chain.kms_primary)))
        there.write("/registry/secrets/local/a", OLD)
        await until(lambda: observer.counts == {"kms": 2, FP_OLD: 1})
    assert there.drifted == [("secrets", name) for name in (*drifted, "local")]


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
    monkeypatch.setattr("kube_rewrap.scheduler.campaigns.pausing.MOST_FRESH", 20)
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
    assert sorted(there.drifted) == [("nodes", ""), ("secrets", "kube-system")]
    told = sorted((log for log in logs if log["event"] == "drift.found"), key=lambda log: log["resource"], reverse=True)
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


async def test_who_lost_the_lead_records_nothing_more_and_says_so() -> None:
    there = await scene()
    observer = there.observer()
    task = asyncio.create_task(observer.run())
    there.write("/registry/secrets/default/a", NEW)
    await until(lambda: observer.recorded.revision > 0)
    there.store.delete(LEADER)
    before = await there.recorded()
    there.write("/registry/secrets/default/b", NEW)
    with pytest.raises(FencedError):
        await task
    assert await there.recorded() == before


async def test_who_finds_that_another_observer_wrote_stops() -> None:
    there = await scene()
    observer = there.observer()
    task = asyncio.create_task(observer.run())
    await until(lambda: observer.recorded.revision > 0)
    theirs = Observations({"x": 7}, revision=observer.recorded.revision)
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


async def recorded_until(there: Scene) -> int:
    """An observer came and went."""
    async with there.observed():
        pass
    return (await there.recorded()).until


async def test_a_gap_counts_what_may_have_been_written_for_each_key_that_wears_out() -> None:
    there = await scene()
    began = await recorded_until(there)
    for number in range(9):
        there.write(f"/registry/secrets/default/s{number % 3}", NEW)
    there.store.compact()
    compacted = await there.store.revision()
    with capture_logs() as logs:
        async with there.observed() as second:
            await until(lambda: there.gaps == 2)
            # The one at the compaction itself can still be read, and is counted by itself.
            await until(lambda: second.counts.get(FP_NEW, 0) == compacted - began + 1 - 1)
    # Our own record is at one of these revisions. Two more were the last writes of objects that are there.
    assert dict((await there.recorded()).counts) == {FP_NEW: 9, FP_OLD: 9 - 1 - 2}
    told = [log for log in logs if log["event"] == "observer.gap"]
    assert [(log["growth"], log["counted"]) for log in told] == [(compacted - began, 8), (compacted - began, 0)]


async def test_a_range_that_is_quiet_while_others_are_not_has_no_gap() -> None:
    there = await scene()
    for _ in range(5):
        async with there.observed():
            for _ in range(20):
                there.store.put(b"/registry/leases/default/x", b"noise")
        there.store.compact()
    there.write("/registry/secrets/default/a", NEW)
    async with there.observed() as observer:
        await until(lambda: observer.counts == {FP_NEW: 1})
    assert there.gaps == 0


async def test_a_gap_from_before_a_key_was_there_is_none_of_its_use() -> None:
    there = await scene(OLD, IdentityProvider())
    async with there.observed():
        pass
    for _ in range(250):
        there.write("/registry/secrets/default/brief", OLD)
        there.store.delete(b"/registry/secrets/default/brief")
    await there.engine.ledger.begin_new(ref(NEW))
    there.store.put(b"/registry/leases/default/x", b"noise")
    there.store.put(b"/registry/leases/default/x", b"noise")
    there.store.compact()
    there = await scene(NEW, OLD, IdentityProvider(), store=there.store)
    async with there.observed() as observer:
        await until(lambda: observer.lag == 0)
        assert 250 <= observer.counts[FP_OLD] <= 503
    assert there.gaps == 1
    assert (await there.engine.ledger.all())[FP_NEW].used == 0


async def test_what_objects_of_other_resources_and_our_own_records_tell_is_no_gap() -> None:
    there = await scene(NEW, IdentityProvider())
    there.write("/registry/secrets/default/old", NEW)
    async with there.observed():
        pass
    for number in range(400):
        there.store.put(f"/registry/pods/default/p{number % 50}".encode(), b"noise")
    await there.engine.ledger.begin_new(ref(OLD))
    there.store.compact()
    with capture_logs() as logs:
        async with there.observed() as observer:
            there.write("/registry/secrets/default/new", NEW)
            await until(lambda: observer.counts == {FP_NEW: 1})
    assert there.gaps == 0
    assert not [log for log in logs if log["event"] == "observer.gap"]


async def test_of_older_objects_of_other_resources_only_the_last_write_is_sure_to_lie_in_a_gap() -> None:
    there = await scene(NEW, IdentityProvider())
    for name in (b"/registry/leases/default/x", b"/registry/leases/default/y"):
        there.store.put(name, b"noise")
    await recorded_until(there)
    for _ in range(10):
        there.store.put(b"/registry/leases/default/x", b"noise")
    there.store.put(b"/registry/secrets/default/a", b"plaintext")
    there.write("/registry/secrets/default/brief", NEW)
    there.store.delete(b"/registry/secrets/default/brief")
    there.store.compact()
    async with there.observed() as observer:
        await until(lambda: there.gaps == 2)
        await until(lambda: observer.lag == 0)
    # Nine writes of the older object, and one of what came and went: nothing else tells whose they were.
    assert observer.counts[FP_NEW] == 9 + 1


# ------------------------------------------------------------------------------------------------------------ budgets


async def test_what_others_wrote_is_used_and_our_own_swaps_are_not_used_twice() -> None:
    there = await scene()
    ledger = there.engine.ledger
    await ledger.first_sight([ref(NEW)], Look(await there.store.revision(), {"secrets": {FP_NEW: 5}}))
    async with there.observed() as observer:
        assert await ledger.spend(ref(NEW), 10, 10) == 10
        for number in range(10):
            there.write(f"/registry/secrets/default/s{number}", NEW)  # a swap of ours is a PUT as any other
            ledger.landed(ref(NEW), "secrets", await there.store.revision())
        await ledger.settle()
        for _ in range(7):
            there.write("/registry/secrets/default/foreign", NEW)
        await until(lambda: observer.counts == {FP_NEW: 17})
    budget = (await ledger.all())[FP_NEW]
    assert (budget.reserved, budget.committed, budget.observed, budget.estimated) == (10, 10, 17, 5)
    assert budget.used == 10 + 5 + 7


async def swap(there: Scene, count: int, by: Provider = NEW, name: str = "/registry/secrets/default/ours") -> None:
    """As a run of ours: tokens, writes, and what landed."""
    ledger, done = there.engine.ledger, 0
    while done < count:
        for _ in range(await ledger.spend(ref(by), 1, count - done)):
            there.write(f"{name}{done}", by)
            ledger.landed(ref(by), "secrets", await there.store.revision())
            done += 1
    await ledger.settle()


async def test_what_we_write_while_nobody_observes_hides_no_writes_of_others() -> None:
    there = await scene(NEW)
    await there.engine.ledger.first_sight([ref(NEW)])
    async with there.observed() as observer:
        for _ in range(1_200):
            there.write("/registry/secrets/default/foreign", NEW)
        await until(lambda: observer.counts == {FP_NEW: 1_200})
    for _ in range(5):
        await swap(there, 320)
    budget = (await there.engine.ledger.all())[FP_NEW]
    assert budget.used == 1_200 + 1_600
    assert budget.until <= await there.store.revision() - 1_600
    # Whoever observes next sees our swaps, too, and takes none of them for another's.
    async with there.observed() as observer:
        await until(lambda: observer.counts == {FP_NEW: 2_800})
    assert (await there.engine.ledger.all())[FP_NEW].used == 2_800


@pytest.mark.parametrize("is_compacted", [False, True])
async def test_a_key_that_was_made_while_nobody_observes_is_followed_from_then_on_in_all_that_a_wildcard_names(
    is_compacted: bool,
) -> None:
    there = await scene(NEW, resources=("*.*",))
    await there.engine.ledger.begin_new(ref(NEW))
    for _ in range(50):
        there.write("/registry/secrets/default/brief", NEW)
    there.store.delete(b"/registry/secrets/default/brief")
    if is_compacted:
        there.store.compact()
    async with there.observed():
        pass
    budget = (await there.engine.ledger.all())[FP_NEW]
    assert budget.used == (0 if is_compacted else 50)
    assert (budget.estimated_at_most or 0) >= 50 if is_compacted else budget.estimated_at_most == 0


async def test_a_resource_that_comes_to_a_known_key_brings_its_use_along() -> None:
    there = await scene(NEW, resources=("secrets",))
    for number in range(100):
        there.write(f"/registry/secrets/default/s{number}", NEW)
    for number in range(3_000):
        there.write(f"/registry/configmaps/default/c{number}", NEW)
    async with there.observed():
        pass
    assert (await there.engine.ledger.all())[FP_NEW].used == 100
    there = await scene(NEW, resources=("secrets", "configmaps"), store=there.store)
    async with there.observed() as observer:
        assert (await there.engine.ledger.all())[FP_NEW].used == 3_100
        there.write("/registry/configmaps/default/c1", NEW)
        await until(lambda: observer.counts == {FP_NEW: 1})
    assert (await there.engine.ledger.all())[FP_NEW].used == 3_101
    # Looked at again by whomever: it is on record by now.
    await there.service.look_at_keys()
    assert (await there.engine.ledger.all())[FP_NEW].used == 3_101


@pytest.mark.parametrize("resources", [("secrets", "nodes"), ("*.*",), ("*.",), ("secrets", "*.*", "nodes")])
async def test_objects_that_live_for_a_moment_are_counted_once(resources: tuple[str, ...]) -> None:
    there = await scene(NEW, resources=resources)
    for turn in range(3):
        async with there.observed() as observer:
            for _ in range(100):
                for name in ("/registry/secrets/default/brief", "/registry/minions/brief"):
                    there.write(name, NEW)
                    there.store.delete(name.encode())
            await until(lambda turn=turn, observer=observer: observer.counts == {FP_NEW: 200 * (turn + 1)})  # type: ignore[misc]
        assert (await there.engine.ledger.all())[FP_NEW].used == 200 * (turn + 1)


async def test_what_a_wildcard_spans_is_sorted_by_resource() -> None:
    entries = [ResourceEntry(("secrets",), (BOX,)), ResourceEntry(("*.example.com", "*."), (NEW,))]
    store = MemoryStore()
    store.put(b"/registry/namespaces/default", Chain([NEW]).seal(OBJECT, b"/registry/namespaces/default"))
    there = await scene_of(entries, store)
    async with there.observed() as observer:
        there.write("/registry/secrets/default/a", BOX)
        there.write("/registry/configmaps/default/a", NEW)
        there.write("/registry/example.com/widgets/default/a", NEW)
        for ungoverned in ("/registry/deployments/default/a", "/registry/other.com/widgets/default/a"):
            there.write(ungoverned, NEW)
        await until(lambda: observer.counts == {FP_BOX: 1, FP_NEW: 2})
        await until(lambda: not observer.lag)
        assert observer.counts == {FP_BOX: 1, FP_NEW: 2}
    assert (await there.engine.ledger.all())[FP_NEW].used == 1 + 2
    assert there.drifted == []


async def test_what_a_newer_configuration_swaps_while_an_older_one_observes_hides_nothing() -> None:
    old = await scene(OLD, BOX, resources=("secrets",))
    async with old.observed() as observer:
        new = await scene(NEW, OLD, BOX, resources=("secrets",), store=old.store)
        await new.service.look_at_keys()
        for _ in range(50):
            new.write("/registry/secrets/default/foreign", NEW)
        await swap(new, 30)
        old.write("/registry/secrets/default/last", OLD)
        await until(lambda: observer.counts == {FP_OLD: 1})
    # The leader could not tell whose they are, and came past them.
    assert (await new.recorded()).until > await new.store.revision() - 1
    assert (await new.engine.ledger.all())[FP_NEW].used == 30
    async with new.observed() as observer:
        await until(lambda: observer.counts == {FP_OLD: 1, FP_NEW: 80})
    assert (await new.engine.ledger.all())[FP_NEW].used == 80


async def test_a_key_that_comes_back_to_a_resource_is_counted_from_where_it_left() -> None:
    both = [ResourceEntry(("secrets", "nodes"), (NEW,))]
    there = await scene(NEW)
    async with there.observed() as observer:
        there.write("/registry/minions/n1", NEW)
        await until(lambda: observer.counts == {FP_NEW: 1})
    there = await scene(NEW, resources=("secrets",), store=there.store)
    async with there.observed() as observer:
        there.write("/registry/minions/n1", NEW)
        await until(lambda: not observer.lag)
    there = await scene_of(both, there.store)
    async with there.observed() as observer:
        await until(lambda: observer.counts == {FP_NEW: 2})
    assert (await there.engine.ledger.all())[FP_NEW].used == 2


async def test_what_was_written_before_anybody_ever_observed_is_counted_while_etcd_remembers() -> None:
    there = await scene(NEW)
    await there.service.look_at_keys()
    for _ in range(40):
        there.write("/registry/secrets/default/foreign", NEW)
    await swap(there, 25)
    assert (await there.engine.ledger.all())[FP_NEW].until == 0
    async with there.observed():
        pass
    assert (await there.engine.ledger.all())[FP_NEW].used == 40 + 25


async def test_what_was_written_before_anybody_ever_observed_is_estimated_when_etcd_forgot() -> None:
    there = await scene(NEW, OLD)
    for number in range(25):
        for _ in range(10):
            there.write(f"/registry/secrets/default/ours{number}", OLD)
    await there.service.look_at_keys()
    for _ in range(40):
        there.write("/registry/secrets/default/foreign", NEW)
    await swap(there, 25)
    for _ in range(1_000):
        there.store.put(b"/registry/leases/default/x", b"noise")
    there.store.compact()
    async with there.observed():
        pass
    budget = (await there.engine.ledger.all())[FP_NEW]
    assert (budget.reserved, budget.estimated) == (25, 40)
    there.write("/registry/secrets/default/foreign", NEW)
    await swap(there, 5)
    async with there.observed() as observer:
        await until(lambda: observer.counts == {FP_NEW: 6})
    assert (await there.engine.ledger.all())[FP_NEW].used == 40 + 25 + 6


async def test_writes_to_objects_that_were_deleted_before_anybody_looked_are_said_to_be_possible() -> None:
    there = await scene(NEW)
    for _ in range(4_000):
        there.write("/registry/secrets/default/brief", NEW)
    there.store.delete(b"/registry/secrets/default/brief")
    await there.engine.ledger.begin_new(ref(OLD))
    there = await scene(NEW, OLD, store=there.store)
    async with there.observed():
        pass
    budgets = await there.engine.ledger.all()
    assert (budgets[FP_NEW].used, budgets[FP_OLD].used) == (0, 0)
    assert (budgets[FP_NEW].estimated_at_most or 0) >= 4_000
    assert budgets[FP_OLD].estimated_at_most == 0


async def test_no_token_is_given_for_a_key_that_others_have_used_up() -> None:
    there = await scene(limit=20)
    ledger = there.engine.ledger
    await ledger.first_sight([ref(NEW)])
    async with there.observed() as observer:
        for _ in range(20):
            there.write("/registry/secrets/default/foreign", NEW)
        await until(lambda: observer.counts == {FP_NEW: 20})
    there.store.put(b"/registry/leases/default/x", b"noise")
    beyond = rf"before revision {(await there.recorded()).until} \(at most \d writes since are in no count\)"
    with pytest.raises(BudgetExhaustedError, match=f"has used 20, with what others wrote {beyond}"):
        await ledger.spend(ref(NEW), 1, 1)


async def test_the_revision_alone_goes_on_record_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    there = await scene()
    async with there.observed() as observer:
        first = observer.recorded.revision
        for _ in range(20):
            there.store.put(b"/registry/leases/default/x", b"noise")
            await asyncio.sleep(0.01)
        assert observer.recorded.revision == first
        monkeypatch.setattr(observing, "_POSITION_SECONDS", 0.0)
        await until(lambda: observer.recorded.revision > first)
    assert (await there.recorded()).until > first


async def test_after_a_restore_the_watch_begins_at_what_is_there() -> None:
    there = await scene()
    seen = Observations(
        {FP_NEW: 7}, (Followed({"secrets": 10_000, "nodes": 10_000}, {"secrets": (FP_NEW,), "nodes": (FP_NEW,)}),)
    )
    await save(there.store, there.engine.keyspace, seen, [])
    with capture_logs() as logs:
        async with there.observed() as observer:
            there.write("/registry/secrets/default/a", NEW)
            await until(lambda: observer.counts == {FP_NEW: 8})
    assert [log["event"] for log in logs] == ["observer.rewound"]


async def test_swaps_from_before_a_first_sight_hide_nothing_when_it_is_looked_at_again() -> None:
    plain = Chain([IdentityProvider()])
    there = await scene(OLD, IdentityProvider(), resources=("secrets",))
    for number in range(300):
        there.store.put(f"/registry/secrets/default/o{number}".encode(), plain.seal(OBJECT, b"x"))
    await there.service.look_at_keys()
    await swap(there, 300, OLD, "/registry/secrets/default/o")
    there = await scene(NEW, OLD, IdentityProvider(), resources=("secrets",), store=there.store)
    await there.service.look_at_keys()
    await swap(there, 300, NEW, "/registry/secrets/default/o")
    for _ in range(250):
        there.write("/registry/secrets/default/o7", NEW)
    # Nobody observed, and what could have been watched is gone: the versions tell.
    there.store.compact()
    async with there.observed():
        pass
    assert (await there.engine.ledger.all())[FP_NEW].used == 300 + 250


async def test_a_budget_that_cannot_be_read_costs_its_key_and_no_other() -> None:
    there = await scene(NEW, OLD, resources=("secrets",))
    await there.service.look_at_keys()
    there.store.put(there.engine.keyspace.ledger(FP_OLD), b"{garbage")
    async with there.observed() as observer:
        for _ in range(50):
            there.write("/registry/secrets/default/a", NEW)
        await until(lambda: observer.recorded.counts.get(FP_NEW) == 50)
    budgets = await there.engine.ledger.all()
    assert (budgets[FP_NEW].used, budgets[FP_OLD].left(200_000)) == (50, 0)


async def test_a_budget_whose_count_of_others_was_deleted_is_refused_until_it_is_accepted() -> None:
    there = await scene(NEW, resources=("secrets",))
    await there.service.look_at_keys()
    await swap(there, 30)
    async with there.observed() as observer:
        for _ in range(40):
            there.write("/registry/secrets/default/a", NEW)
        await until(lambda: observer.recorded.counts.get(FP_NEW) == 70)
        await swap(there, 10)
    there.store.delete(there.engine.keyspace.observer)
    assert (await there.engine.ledger.all())[FP_NEW].left(200_000) == 0
    await there.service.note_restore()
    async with there.observed():
        pass
    assert (await there.engine.ledger.all())[FP_NEW].restored
    accepted = await there.service.accept_budget(FP_NEW)
    assert accepted is not None
    assert not accepted.restored


class RefusingStore(MemoryStore):
    """Its watch is refused while the first look at the objects goes on."""

    async def watch(self, ranges: Sequence[WatchFrom]) -> AsyncGenerator[Watched]:
        if ranges:
            raise RequestRefusedError(f"etcd refused to watch {len(ranges)} ranges")
        yield Watched(0, (), 0, 0)

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        if keys.start.startswith(b"/registry/secrets"):
            await asyncio.Event().wait()
        return await super().page(keys, limit, revision=revision, since=since)


async def test_a_watch_that_fails_during_the_first_look_ends_the_observer_with_its_error() -> None:
    store = RefusingStore()
    store.put(b"/registry/namespaces/default", b"x")
    early = b"/registry/secrets/default/early"
    store.put(early, Chain([NEW]).seal(OBJECT, early))
    there = await scene(store=store)
    with pytest.raises(RequestRefusedError):
        async with asyncio.timeout(10):
            await there.observer().run()
