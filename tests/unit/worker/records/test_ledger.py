"""No key encrypts before its token is on record, whatever happens between."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

import pytest

from kube_rewrap.config.settings.schema import BudgetSettings
from kube_rewrap.worker.errors import BudgetExhaustedError, RecordError, TemporaryError
from kube_rewrap.worker.etcd.store import Outcome
from kube_rewrap.worker.records.budget import Budget, Landed, Mark, Own, Sight
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.inventory import Estimate
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.ledger import Ledger
from kube_rewrap.worker.records.observations import ObserverRecords
from kube_rewrap.worker.verdict import KeyRef
from tests.fakes.store import Fault, MemoryStore
from tests.unit.clock import without_waiting

pytestmark = pytest.mark.timeout(20)

KEY = KeyRef("aesgcm", "k1", "fp-1")
SPACE = Keyspace()
MADE_IN = Mark(cluster_id=1, lead=4)
"""What a memory store says of itself until it is restored."""


def ledger(store: MemoryStore, *, block: int = 10, limit: int = 100) -> Ledger:
    """One process' view."""
    return Ledger(store, SPACE, BudgetSettings(gcm_limit=limit, block=block))


SIGHTED = {"secrets": Sight(7, 42)}


def found(versions: int, *, revision: int = 7) -> Estimate:
    """What a scan found under the key."""
    return Estimate(revision, {"secrets": {"fp-1": versions}})


async def begun(fault: Fault | None = None) -> MemoryStore:
    """A store in which the key has a budget."""
    store = MemoryStore(fault)
    await ledger(store).first_sight([KEY])
    return store


async def budget_of(store: MemoryStore, key: KeyRef = KEY) -> Budget:
    return (await ledger(store).all())[key.fingerprint]


async def spend(one: Ledger, times: int, ahead: int = 1_000) -> None:
    for _ in range(times):
        assert await one.spend(KEY, 1, ahead) == 1


async def overwrite(store: MemoryStore, budget: Budget) -> None:
    """As a restored backup would."""
    key = SPACE.ledger(budget.fingerprint)
    store.put(key, encode(budget.to_json()))


# ------------------------------------------------------------------------------------------------------ first sight


async def test_first_sight_begins_a_budget_with_the_estimate() -> None:
    store = MemoryStore()
    await ledger(store).first_sight([KEY, KeyRef("secretbox", "box", "fp-2")], found(42))
    assert await ledger(store).all() == {
        "fp-1": Budget(
            fingerprint="fp-1", provider="aesgcm", names=("k1",), estimated=42, made_in=MADE_IN, sights=SIGHTED
        ),
        "fp-2": Budget(fingerprint="fp-2", provider="secretbox", names=("box",), made_in=MADE_IN),
    }


async def test_the_same_material_under_two_names_is_one_budget() -> None:
    store = MemoryStore()
    await ledger(store).first_sight([KEY, replace(KEY, name="k0")])
    assert (await budget_of(store)).names == ("k0", "k1")


async def test_a_second_sight_adds_a_name_and_keeps_the_counts() -> None:
    store = await begun()
    await spend(ledger(store), 1, ahead=5)
    await ledger(store).first_sight([KEY], found(42))
    await ledger(store).first_sight([replace(KEY, name="renamed")], found(99, revision=9))
    assert await budget_of(store) == Budget(
        fingerprint="fp-1",
        provider="aesgcm",
        names=("k1", "renamed"),
        reserved=5,
        estimated=42,
        made_in=MADE_IN,
        sights=SIGHTED,
    )


async def test_a_resource_that_a_known_key_comes_to_govern_is_estimated_once() -> None:
    store = await begun()
    later = Estimate(9, {"secrets": {"fp-1": 50}, "configmaps": {"fp-1": 3_000}})
    for estimate in (found(42), later, later, replace(later, revision=30)):
        await ledger(store).first_sight([KEY], estimate)
    budget = await budget_of(store)
    assert budget.estimated == 42 + 3_000
    assert budget.sights == {**SIGHTED, "configmaps": Sight(9, 3_000)}


async def test_a_key_of_our_own_making_begins_at_nothing_everywhere() -> None:
    store = MemoryStore()
    await ledger(store).begin_new(KEY)
    born = await store.revision()
    await ledger(store).first_sight([KEY], found(99))
    budget = await budget_of(store)
    assert (budget.estimated, budget.begins("secrets"), budget.begins("anything")) == (0, born, born)


async def test_what_landed_is_recorded_before_more_is_reserved() -> None:
    store = await begun()
    one = ledger(store, block=2)
    await spend(one, 2)
    for revision in (11, 12):
        one.landed(KEY, "secrets", revision)
    await spend(one, 1)
    assert (await budget_of(store)).own == {"secrets": Own(landed=(Landed(2, 11, 12),))}


async def test_a_record_of_an_earlier_version_counts_what_it_counted() -> None:
    store = await begun()
    earlier = {
        "fingerprint": "fp-1",
        "provider": "aesgcm",
        "names": ["k1"],
        "reserved": 70,
        "committed": 60,
        "observed": 80,
        "estimated": 5,
        "restored": False,
        "cluster_id": "1",
        "log_lead": 4,
        "accepted": 0,
    }
    store.put(SPACE.ledger("fp-1"), encode(earlier))
    store.put(SPACE.observer, encode({"counts": {"fp-1": 100}, "following": {"/registry/secrets/": 20}, "surveyed": 9}))
    budget = await budget_of(store)
    assert (budget.observed, budget.committed, budget.until) == (100, 60, 20)
    assert budget.used == 70 + 5 + 40
    # What was followed is counted; of what was not, nobody can tell what is in its estimate.
    estimate = Estimate(30, {"secrets": {"fp-1": 99}, "configmaps": {"fp-1": 7}})
    await ledger(store).first_sight([KEY], estimate)
    assert (await budget_of(store)).estimated == 5 + 7
    assert (await budget_of(store)).begins("configmaps") == 31


async def test_what_an_earlier_version_estimated_where_nobody_observed_was_for_all_that_was_there() -> None:
    store = await begun()
    await overwrite(store, replace(await budget_of(store), estimated=5, sights=None))
    await ledger(store).first_sight([KEY], found(99, revision=30))
    assert (await budget_of(store)).estimated == 5


async def test_the_place_of_an_earlier_versions_observer_is_that_of_the_ranges_it_names() -> None:
    store = MemoryStore()
    following = {"/registry/secrets/": 20, "/registry/minions/": 30, "/elsewhere/configmaps/": 40}
    store.put(SPACE.observer, encode({"counts": {}, "following": following, "surveyed": 50}))
    seen = (await ObserverRecords(store, SPACE).load()).value
    places = {name: seen.position(name, "fp-1") for name in ("secrets", "nodes", "configmaps", "widgets.example.com")}
    assert places == {"secrets": 20, "nodes": 30, "configmaps": 0, "widgets.example.com": 0}


async def test_a_second_sight_of_nothing_new_writes_nothing() -> None:
    store = await begun()
    before = await store.revision()
    await ledger(store).first_sight([KEY])
    assert await store.revision() == before


async def test_two_processes_may_begin_the_same_budget() -> None:
    store = MemoryStore()
    await asyncio.gather(*(ledger(store).first_sight([KEY], found(3)) for _ in range(5)))
    assert (await budget_of(store)).estimated == 3


# --------------------------------------------------------------------------------------------------------- spending


async def test_the_token_is_on_record_before_it_may_be_used() -> None:
    store = await begun()
    one = ledger(store, block=1)
    for spent in range(1, 6):
        await one.spend(KEY, 1, 1)
        assert (await budget_of(store)).reserved == spent


@pytest.mark.parametrize(
    ("ahead", "block", "spends", "reserved"),
    [
        pytest.param(1_000, 10, 1, 10, id="much ahead => a whole block"),
        pytest.param(4, 10, 1, 4, id="little ahead => no more than that"),
        pytest.param(0, 10, 1, 1, id="nothing ahead => one token"),
        pytest.param(1_000, 10, 10, 10, id="a block spent => no more than the block"),
        pytest.param(1_000, 10, 11, 20, id="one past the block => a second block"),
    ],
)
async def test_tokens_are_reserved_in_blocks(ahead: int, block: int, spends: int, reserved: int) -> None:
    store = await begun()
    await spend(ledger(store, block=block), spends, ahead)
    assert (await budget_of(store)).reserved == reserved


@pytest.mark.parametrize(
    ("tokens", "ahead", "taken", "reserved"),
    [
        pytest.param(4, 4, 4, 4, id="as many as wanted"),
        pytest.param(4, 1_000, 4, 10, id="the rest of the block stays for later"),
        pytest.param(25, 25, 10, 10, id="more than a block => a block, and the caller asks again"),
    ],
)
async def test_many_tokens_are_taken_at_once(tokens: int, ahead: int, taken: int, reserved: int) -> None:
    store = await begun()
    assert await ledger(store).spend(KEY, tokens, ahead) == taken
    assert (await budget_of(store)).reserved == reserved


async def test_near_the_limit_what_is_left_is_given() -> None:
    store = await begun()
    one = ledger(store, block=10, limit=13)
    assert [await one.spend(KEY, 10, 10) for _ in range(2)] == [10, 3]
    with pytest.raises(BudgetExhaustedError):
        await one.spend(KEY, 10, 10)


async def test_a_crash_loses_the_rest_of_its_block() -> None:
    store = await begun()
    await spend(ledger(store), 3)
    await spend(ledger(store), 1)
    assert (await budget_of(store)).reserved == 20


async def test_tasks_of_one_process_share_a_block() -> None:
    store = await begun()
    one = ledger(store, block=10)
    await asyncio.gather(*(one.spend(KEY, 1, 1_000) for _ in range(30)))
    assert (await budget_of(store)).reserved == 30


async def test_processes_on_one_record_never_hand_out_a_token_twice() -> None:
    store = await begun()
    processes = [ledger(store, block=3, limit=1_000) for _ in range(6)]
    await asyncio.gather(*(spend(one, 9) for one in processes))
    assert (await budget_of(store)).reserved == 6 * 9


async def test_the_limit_is_reached_exactly() -> None:
    store = await begun()
    one = ledger(store, block=30, limit=100)
    await spend(one, 100)
    with pytest.raises(BudgetExhaustedError, match=r"aesgcm:k1 \(fp-1\) may encrypt 100 times and has used 100"):
        await one.spend(KEY, 1, 1)
    assert (await budget_of(store)).reserved == 100


async def test_a_key_without_a_budget_on_record_does_not_encrypt() -> None:
    with pytest.raises(BudgetExhaustedError, match="no write budget on record"):
        await ledger(MemoryStore()).spend(KEY, 1, 1)


async def test_secretbox_reserves_too_and_has_no_limit() -> None:
    store, box = MemoryStore(), KeyRef("secretbox", "box", "fp-2")
    one = ledger(store, block=50, limit=100)
    await one.first_sight([box])
    for _ in range(150):
        await one.spend(box, 1, 1_000)
    assert (await budget_of(store, box)).reserved == 150


async def test_what_landed_is_recorded_when_it_is_settled() -> None:
    store = await begun()
    one = ledger(store)
    await spend(one, 4)
    for revision in (11, 12, 20):
        one.landed(KEY, "secrets", revision)
    await one.settle()
    await one.settle()
    budget = await budget_of(store)
    assert (budget.reserved, budget.own) == (10, {"secrets": Own(landed=(Landed(3, 11, 20),))})


# ------------------------------------------------------------------------------------------------------ lost answers


def losing(outcomes: list[Outcome | None]) -> Fault:
    return lambda _kind, _key: outcomes.pop(0) if outcomes else None


@pytest.mark.parametrize(
    "outcomes",
    [
        pytest.param([Outcome.UNKNOWN], id="applied, answer lost"),
        pytest.param([Outcome.LOST], id="refused once"),
        pytest.param([Outcome.LOST, Outcome.UNKNOWN, Outcome.LOST, Outcome.UNKNOWN], id="both, by turns"),
    ],
)
async def test_an_unknown_outcome_never_leaves_less_on_record_than_was_handed_out(
    outcomes: list[Outcome | None],
) -> None:
    faults: list[Outcome | None] = []
    store = await begun(losing(faults))
    faults += outcomes
    await spend(ledger(store, block=5), 10)
    assert (await budget_of(store)).reserved >= 10


@without_waiting
async def test_where_every_reservation_is_refused_nothing_is_handed_out() -> None:
    refusing = False
    store = await begun(lambda _kind, _key: Outcome.LOST if refusing else None)
    refusing = True
    with pytest.raises(TemporaryError, match=r"compare-and-swaps of .*fp-1 in a row to other writers"):
        await ledger(store).spend(KEY, 1, 1)
    assert (await budget_of(store)).reserved == 0


# --------------------------------------------------------------------------------------------------------- restored


def move(store: MemoryStore) -> None:
    """As a restore with a new cluster token."""
    store.status = replace(store.status, cluster_id=8)


def cut(store: MemoryStore) -> None:
    """As a restore in place: a new raft log, and the cluster's id is what it was."""
    store.log_lead = -2_996


Restore = Callable[[MemoryStore], None]
RESTORES = pytest.mark.parametrize("restore", [move, cut])


@RESTORES
async def test_a_restore_marks_the_key_until_it_is_accepted(restore: Restore) -> None:
    store = await begun()
    restore(store)
    one = ledger(store)
    assert (await one.all())["fp-1"].restored
    with pytest.raises(BudgetExhaustedError, match="rewrap keys --accept fp-1"):
        await one.spend(KEY, 1, 1)
    accepted = await one.accept("fp-1")
    assert accepted is not None
    assert not accepted.restored
    await one.spend(KEY, 1, 1)
    assert not (await ledger(store).all())["fp-1"].restored


@RESTORES
async def test_a_key_without_a_record_in_a_restored_etcd_may_be_younger_than_the_backup(restore: Restore) -> None:
    younger, made_now, made_later = (KeyRef("aesgcm", name, name) for name in ("k2", "k3", "k4"))
    store = await begun()
    restore(store)
    foreseen = await ledger(store).foreseen([KEY, younger], None)
    assert {name: budget.restored for name, budget in foreseen.items()} == {"fp-1": True, "k2": True}
    await ledger(store).begin_new(made_now)
    await ledger(store).first_sight([KEY, younger, made_now])
    await ledger(store).first_sight([KEY, younger, made_now, made_later])
    restored = {name: budget.restored for name, budget in (await ledger(store).all()).items()}
    assert restored == {"fp-1": True, "k2": True, "k3": False, "k4": False}


@RESTORES
async def test_what_was_accepted_stays_so_when_somebody_else_notes_the_restore_late(restore: Restore) -> None:
    refuse_next, was_refused = asyncio.Event(), asyncio.Event()

    def fault(_kind: str, _key: bytes) -> Outcome | None:
        if not refuse_next.is_set():
            return None
        refuse_next.clear()
        was_refused.set()
        return Outcome.LOST

    store = await begun(fault)
    restore(store)
    refuse_next.set()
    late = asyncio.create_task(ledger(store).first_sight([KEY]))
    await was_refused.wait()
    await ledger(store).accept("fp-1")
    await late
    assert not (await budget_of(store)).restored


@pytest.fixture
def attentive(monkeypatch: pytest.MonkeyPatch) -> None:
    """No measurement of the store is recent enough."""
    monkeypatch.setattr("kube_rewrap.worker.records.ledger._MEASURE_SECONDS", 0.0)


@pytest.mark.usefixtures("attentive")
async def test_a_process_that_works_on_spends_no_token_from_before_a_restore() -> None:
    store = await begun()
    one = ledger(store, block=10)
    await spend(one, 4)
    one.landed(KEY, "secrets", 11)
    cut(store)
    with pytest.raises(BudgetExhaustedError, match="is not known"):
        await one.spend(KEY, 1, 1)
    await ledger(store).accept("fp-1")
    await one.settle()
    budget = await budget_of(store)
    assert (budget.reserved, budget.own, budget.restored) == (10, {}, False)
    await spend(one, 1)
    assert (await budget_of(store)).reserved == 20


@pytest.mark.usefixtures("attentive")
async def test_what_an_operator_accepted_is_not_marked_by_a_process_that_knew_more() -> None:
    store = await begun()
    knowing = ledger(store, block=10)
    await spend(knowing, 20)
    await overwrite(store, replace(await budget_of(store), reserved=10, restored=True))
    await ledger(store).accept("fp-1")
    await spend(knowing, 10)
    budget = await budget_of(store)
    assert (budget.reserved, budget.restored) == (20, False)


async def test_a_log_that_grows_while_it_is_looked_at_raises_no_alarm() -> None:
    """Between two of the requests that a look takes, anything may be written; the lead is never overestimated."""

    class Busy(MemoryStore):
        async def revision(self) -> int:
            self.put(b"/registry/busy", b"x")
            return await super().revision()

    store = Busy()
    await ledger(store).first_sight([KEY])
    for _ in range(5):
        one = ledger(store)
        await spend(one, 1)
        assert not (await one.all())["fp-1"].restored


async def test_a_record_that_went_backwards_marks_the_key_for_every_process() -> None:
    store = await begun()
    one = ledger(store)
    await spend(one, 20)
    await overwrite(store, replace(await budget_of(store), reserved=10))
    with pytest.raises(BudgetExhaustedError, match="went backwards"):
        await one.spend(KEY, 1, 1)
    assert await budget_of(store) == Budget(
        fingerprint="fp-1", provider="aesgcm", names=("k1",), reserved=10, made_in=MADE_IN, restored=True
    )
    with pytest.raises(BudgetExhaustedError, match="went backwards"):
        await ledger(store).spend(KEY, 1, 1)


async def test_an_accepted_record_that_went_backwards_serves_again_in_the_process_that_noticed() -> None:
    store = await begun()
    one = ledger(store)
    await spend(one, 20)
    await overwrite(store, replace(await budget_of(store), reserved=10))
    with pytest.raises(BudgetExhaustedError):
        await one.spend(KEY, 1, 1)
    await ledger(store).accept("fp-1")
    await one.spend(KEY, 1, 1)
    assert (await budget_of(store)).reserved == 11


async def test_accepting_a_key_without_a_budget_does_nothing() -> None:
    assert await ledger(MemoryStore()).accept("fp-1") is None


async def test_a_damaged_record_names_its_key() -> None:
    store = await begun()
    store.put(SPACE.ledger("fp-1"), b'{"v": 1, "fingerprint": "fp-1"}')
    with pytest.raises(RecordError, match="/kube-rewrap/v1/ledger/fp-1 is damaged: "):
        await ledger(store).spend(KEY, 1, 1)
