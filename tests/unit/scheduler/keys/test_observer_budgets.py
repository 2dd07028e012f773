"""How the observer's counts, estimates and our own swaps add up to the use of a budget."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.configuration import (
    IdentityProvider,
    ResourceEntry,
)
from kube_rewrap.scheduler.keys import observer as observing
from kube_rewrap.scheduler.registry.budgets import accept_budget, estimate_use, note_restore
from kube_rewrap.worker.errors import BudgetExhaustedError, RequestRefusedError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Page, Watched, WatchFrom
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.records.inventory import Estimate
from kube_rewrap.worker.records.observations import ObserverRecords
from kube_rewrap.worker.records.observed import Followed, Observations
from kube_rewrap.worker.records.table import Stored
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.keys.scene import (
    BOX,
    FP_BOX,
    FP_NEW,
    FP_OLD,
    NEW,
    OBJECT,
    OLD,
    ref,
    scene,
    scene_of,
    swap,
    until,
)

pytestmark = pytest.mark.timeout(20)


async def test_what_others_wrote_is_used_and_our_own_swaps_are_not_used_twice() -> None:
    there = await scene()
    ledger = there.engine.ledger
    await ledger.first_sight([ref(NEW)], Estimate(await there.store.revision(), {"secrets": {FP_NEW: 5}}))
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


async def test_what_we_write_while_no_observer_runs_hides_no_writes_of_others() -> None:
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
async def test_a_key_that_was_made_while_no_observer_runs_is_followed_from_then_on_in_all_that_a_wildcard_names(
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
    await estimate_use(there.cluster)
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
        await estimate_use(new.cluster)
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


async def test_what_was_written_before_any_observer_ran_is_counted_while_etcd_remembers() -> None:
    there = await scene(NEW)
    await estimate_use(there.cluster)
    for _ in range(40):
        there.write("/registry/secrets/default/foreign", NEW)
    await swap(there, 25)
    assert (await there.engine.ledger.all())[FP_NEW].until == 0
    async with there.observed():
        pass
    assert (await there.engine.ledger.all())[FP_NEW].used == 40 + 25


async def test_what_was_written_before_any_observer_ran_is_estimated_when_etcd_forgot() -> None:
    there = await scene(NEW, OLD)
    for number in range(25):
        for _ in range(10):
            there.write(f"/registry/secrets/default/ours{number}", OLD)
    await estimate_use(there.cluster)
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


async def test_writes_to_objects_that_were_deleted_before_the_first_estimate_are_said_to_be_possible() -> None:
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
    beyond = rf"before revision {(await there.recorded()).until} \(at most \d later writes are not counted\)"
    with pytest.raises(BudgetExhaustedError, match=f"has used 20, with the writes of other clients {beyond}"):
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
        counts={FP_NEW: 7},
        followed=(Followed({"secrets": 10_000, "nodes": 10_000}, {"secrets": (FP_NEW,), "nodes": (FP_NEW,)}),),
    )
    await ObserverRecords(there.store, there.engine.keyspace).save(Stored(seen))
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
    await estimate_use(there.cluster)
    await swap(there, 300, OLD, "/registry/secrets/default/o")
    there = await scene(NEW, OLD, IdentityProvider(), resources=("secrets",), store=there.store)
    await estimate_use(there.cluster)
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
    await estimate_use(there.cluster)
    there.store.put(there.engine.keyspace.ledger(FP_OLD), b"{garbage")
    async with there.observed() as observer:
        for _ in range(50):
            there.write("/registry/secrets/default/a", NEW)
        await until(lambda: observer.recorded.value.counts.get(FP_NEW) == 50)
    budgets = await there.engine.ledger.all()
    assert (budgets[FP_NEW].used, budgets[FP_OLD].left(200_000)) == (50, 0)


async def test_a_budget_whose_count_of_others_was_deleted_is_refused_until_it_is_accepted() -> None:
    there = await scene(NEW, resources=("secrets",))
    await estimate_use(there.cluster)
    await swap(there, 30)
    async with there.observed() as observer:
        for _ in range(40):
            there.write("/registry/secrets/default/a", NEW)
        await until(lambda: observer.recorded.value.counts.get(FP_NEW) == 70)
        await swap(there, 10)
    there.store.delete(there.engine.keyspace.observer)
    assert (await there.engine.ledger.all())[FP_NEW].left(200_000) == 0
    await note_restore(there.cluster)
    async with there.observed():
        pass
    assert (await there.engine.ledger.all())[FP_NEW].restored
    accepted = await accept_budget(there.cluster, FP_NEW)
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
