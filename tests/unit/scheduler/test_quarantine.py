"""The quarantine of a campaign: names up to a bound, exact counts, one log line; counts of older campaigns."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.configuration import KmsProvider
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.pausing import MOST_FRESH
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.campaigns.preflight import space_of_records
from kube_rewrap.scheduler.campaigns.take_up import supersede, take_up
from kube_rewrap.scheduler.registry.budgets import begin_budgets
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.scope import CampaignSpec
from kube_rewrap.worker.errors import QuarantineGrewError
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.records import quarantine as records
from kube_rewrap.worker.records.batch import quarantined_by
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Pause
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.inventory import Inventory, ResourceTally
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.quarantined import QuarantinedObject
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.request import RequestKind
from kube_rewrap.worker.records.requests import controlled
from kube_rewrap.worker.records.tries import DAY, Tries, digest_of
from kube_rewrap.worker.records.try_counter import TryCounter
from kube_rewrap.worker.verdict import KeyRef, Quarantine, Reason
from tests.fakes.objects import NEW, OLD, fill, seal
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.campaigns.harness import new_cluster, run

pytestmark = pytest.mark.timeout(30)

SPACE = Keyspace(Settings().keyspace.state_prefix)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "KEPT", 150)


def spoil(store: MemoryStore, count: int, resource: str = "secrets", value: bytes = b"garbage") -> None:
    for number in range(count):
        store.put(f"/registry/{resource}/spoilt/{number:04}".encode(), value)


async def test_a_campaign_names_so_many_and_counts_all() -> None:
    store = MemoryStore()
    fill(store, OLD)
    spoil(store, 200)
    spoil(store, 30, "configmaps", b"k8s:enc:aesgcm:v1:lost:x")
    ended = await run(new_cluster(store, NEW, OLD, resources=("secrets", "configmaps")))
    assert (ended.campaign.state, ended.quarantined_total) == (CampaignState.INCOMPLETE, 230)
    assert ended.quarantined_by == {
        ("configmaps", Reason.NO_SUCH_KEY): 30,
        ("secrets", Reason.UNKNOWN_BYTES): 200,
    }
    assert ended.proof.unreadable_by == {
        ("secrets", Reason.UNKNOWN_BYTES): 200,
        ("configmaps", Reason.NO_SUCH_KEY): 30,
    }
    # Some tens a batch that is worked on at the same time may be named beyond the bound.
    assert 150 <= len(ended.quarantined) <= 150 + 3 * 5
    assert await store.count(SPACE.quarantine(ended.campaign.id)) == len(ended.quarantined)


async def test_of_older_campaigns_there_are_counts_and_no_names() -> None:
    store = MemoryStore()
    fill(store, OLD)
    spoil(store, 20)
    first = await run(new_cluster(store, NEW, OLD))
    later = [await run(new_cluster(store, NEW, OLD)) for _ in range(3)]
    assert await store.count(SPACE.quarantines) == await store.count(SPACE.quarantine(later[-1].campaign.id)) == 20
    batches = [one.value async for one in Checkpoints(store, SPACE).all(first.campaign.id)]
    assert quarantined_by(batches) == {("secrets", Reason.UNKNOWN_BYTES): 20}


async def test_a_campaign_over_a_part_leaves_the_names_of_the_last_one_over_everything() -> None:
    store = MemoryStore()
    fill(store, OLD)
    spoil(store, 20)
    older, whole = [await run(new_cluster(store, NEW, OLD)) for _ in range(2)]
    part = await run(new_cluster(store, NEW, OLD), CampaignSpec(namespaces=("spoilt",)))
    assert part.campaign.state is CampaignState.INCOMPLETE
    named = [await store.count(SPACE.quarantine(one.campaign.id)) for one in (older, whole, part)]
    assert named == [0, 20, 20]


async def test_the_bound_holds_over_batches_side_by_side_and_pages_that_are_redone() -> None:
    store = MemoryStore()
    pages = [
        [QuarantinedObject(b"/%d/%d" % (page, one), Reason.KMS_REFUSED, "", 1) for one in range(100)]
        for page in range(8)
    ]
    for _ in range(3):
        await asyncio.gather(*(records.QuarantineRecords(store, SPACE, "c").add(page) for page in pages))
    assert 150 <= await store.count(SPACE.quarantine("c")) <= 150 + 8 * 64
    assert len(await records.QuarantineRecords(store, SPACE, "c").some(7)) == 7


async def test_each_object_is_named_once_with_its_reason_and_the_end_is_a_warning() -> None:
    store = MemoryStore()
    fill(store, OLD)
    spoil(store, 3)
    with capture_logs() as logs:
        await run(new_cluster(store, NEW, OLD))
    named = [(one["key"], one["reason"]) for one in logs if one["event"] == "object.quarantined"]
    assert sorted(named) == [(f"/registry/secrets/spoilt/{number:04}", "unknown_bytes") for number in range(3)]
    (counted,) = [one for one in logs if one["event"] == "campaign.quarantined"]
    assert (counted["resource"], counted["reason"], counted["objects"]) == ("secrets", "unknown_bytes", 3)
    assert [one["log_level"] for one in logs if one["event"] == "campaign.finished"] == ["warning"]


async def test_the_log_names_a_hundred_and_counts_the_rest() -> None:
    store = MemoryStore()
    fill(store, OLD)
    spoil(store, 140)
    with capture_logs() as logs:
        await run(new_cluster(store, NEW, OLD))
    events = Counter(one["event"] for one in logs)
    assert (events["object.quarantined"], events["campaign.quarantined"]) == (100, 1)
    assert [one["objects"] for one in logs if one["event"] == "campaign.quarantined"] == [140]


async def test_a_complete_campaign_ends_with_an_information_and_names_nothing() -> None:
    store = MemoryStore()
    fill(store, OLD)
    with capture_logs() as logs:
        ended = await run(new_cluster(store, NEW, OLD))
    assert (ended.quarantined_total, ended.quarantined_by) == (0, {})
    assert [one["log_level"] for one in logs if one["event"] == "campaign.finished"] == ["info"]
    assert not [one for one in logs if one["event"].endswith(".quarantined")]


def scanned(current: int, stale: int, unreadable: int) -> Inventory:
    new, old = KeyRef("aesgcm", "new", "1"), KeyRef("aesgcm", "old", "2")
    tally = ResourceTally("secrets", new, (new, old))
    for key, count in ((new, current), (old, stale)):
        for _ in range(count):
            tally.add_readable(key, 100, 1)
    for number in range(unreadable):
        tally.add_unreadable(b"/%d" % number, Quarantine(Reason.UNKNOWN_BYTES, "why"))
    return Inventory(7, (tally,))


@pytest.mark.parametrize(
    ("found", "least", "most"),
    [
        pytest.param(scanned(5, 0, 0), 0, 0, id="nothing to do => no records"),
        pytest.param(scanned(0, 5_000, 0), 30 * 2_000, 40 * 2_100, id="a record a page and some a batch"),
        pytest.param(scanned(5, 0, 2_000), 2_000 * 1_000, 2_500 * 1_100, id="and one for each unreadable object"),
        pytest.param(scanned(5, 0, 9_000), 4_000 * 1_000, 4_500 * 1_100, id="up to the bound"),
    ],
)
def test_the_space_of_records(found: Inventory, least: int, most: int) -> None:
    assert least <= space_of_records(found, page=500) <= most


# ------------------------------------------------------------------------------------------------ a limit that stops


async def engine_run(one: Cluster, campaign: Campaign, number: int = 0) -> BatchReport:
    """Work on a batch of a campaign, as a worker does."""
    stored = await Checkpoints(one.engine.store, one.engine.keyspace).load(campaign.id, number)
    return await one.engine.run(stored.value.spec, None, Brake(), quarantine_limit=campaign.quarantine_limit)


async def planned(one: Cluster, *, attended: bool) -> Campaign:
    brake = Brake()
    async with hold_lock(one, brake) as lock:
        plan = await plan_run(one, CampaignSpec(options=CampaignOptions(reason="drift")))
        await begin_budgets(one, plan.estimate)
        return (await take_up(one, plan, lock.guard, attended=attended)).value


async def test_a_batch_stops_soon_after_its_quarantine_grew_too_much_and_goes_on_at_a_word() -> None:
    store = MemoryStore()
    fill(store, OLD)
    await run(new_cluster(store, NEW, OLD))
    fill(store, OLD)
    spoil(store, 300, value=b"k8s:enc:aescbc:v1:old:" + bytes(48))
    one = new_cluster(store, NEW, OLD)
    campaign = await planned(one, attended=False)
    assert campaign.quarantine_limit.most == MOST_FRESH
    for _ in range(2):  # a second message changes nothing
        with pytest.raises(QuarantineGrewError, match="more than 200 objects that no key opens were written within"):
            await engine_run(one, campaign)
        report = (await Checkpoints(store, SPACE).load(campaign.id, 0)).value.report
        assert MOST_FRESH - 5 < report.fresh <= MOST_FRESH
    resumed = controlled(campaign.paused(Pause.QUARANTINE, "grew"), RequestKind.RESUME)
    assert (resumed.paused_for, resumed.quarantine_limit) == (
        Pause.SCHEDULER,
        replace(campaign.quarantine_limit, most=None),
    )
    ended = await engine_run(one, resumed)
    assert (ended.rewritten, ended.quarantined, ended.fresh) == (12, 300, 300)


async def fresh_in(store: MemoryStore, campaign: Campaign) -> int:
    """Of how many new objects the records of a campaign tell that nothing opened them."""
    return sum([one.value.report.fresh async for one in Checkpoints(store, SPACE).all(campaign.id)])


async def test_a_days_tries_are_no_more_over_many_batches_and_campaigns_than_over_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kube_rewrap.scheduler.campaigns.batches.BATCH_OBJECTS", 60)
    store = MemoryStore()
    fill(store, OLD)
    for namespace in range(8):
        for number in range(50):
            store.put(b"/registry/secrets/n%d/%02d" % (namespace, number), b"k8s:enc:aescbc:v1:old:" + bytes(48))
    workers = [new_cluster(store, NEW, OLD) for _ in range(9)]
    first = await planned(workers[0], attended=False)
    assert first.batches == len(workers)

    async def work(campaign: Campaign) -> list[object]:
        runs = (engine_run(one, campaign, number) for number, one in enumerate(workers))
        return await asyncio.gather(*runs, return_exceptions=True)

    ends = await work(first)
    assert sum(isinstance(end, QuarantineGrewError) for end in ends) >= 4
    fresh = await fresh_in(store, first)
    assert MOST_FRESH - 5 < fresh <= MOST_FRESH
    # Sent again, what is known costs nothing, and what is not known has no room; as in the next campaign.
    await work(first)
    assert fresh <= await fresh_in(store, first) <= MOST_FRESH
    async with hold_lock(workers[0], Brake()) as lock:
        await supersede(workers[0], await workers[0].campaigns().unfinished(), "a test", lock.guard)
    second = await planned(workers[0], attended=False)
    assert (second.id != first.id, second.quarantine_limit) == (
        True,
        replace(first.quarantine_limit, planned=second.quarantine_limit.planned),
    )
    await work(second)
    assert await fresh_in(store, second) <= MOST_FRESH


async def test_beyond_a_days_tries_nothing_of_a_group_with_a_new_one_is_rewritten_and_other_groups_are() -> None:
    store = MemoryStore()
    fill(store, NEW)
    one = new_cluster(store, NEW, OLD)
    await run(one)
    day = {digest_of(b"/%d" % number, 1): time.time() for number in range(MOST_FRESH)}
    store.put(SPACE.tries, encode(Tries(day).to_json()))
    seal(store, "/registry/secrets/a/honest", OLD)
    spoil(store, 1, value=b"k8s:enc:aescbc:v1:old:" + bytes(48))
    seal(store, "/registry/secrets/spoilt/right-guess", OLD)
    campaign = await planned(one, attended=False)
    with pytest.raises(QuarantineGrewError):
        await engine_run(one, campaign)
    found = [await store.get(b"/registry/secrets/" + name) for name in (b"a/honest", b"spoilt/right-guess")]
    assert [item.value.split(b":")[2] for item in found if item] == [b"aesgcm", b"aescbc"]


async def test_a_record_of_tries_that_cannot_be_read_has_no_room() -> None:
    store = MemoryStore()
    fill(store, OLD)
    spoil(store, 1)
    one = new_cluster(store, NEW, OLD)
    campaign = await planned(one, attended=False)
    store.put(SPACE.tries, b"{")
    with pytest.raises(QuarantineGrewError, match=r"tries is not JSON.*; delete it, then resume the campaign"):
        await engine_run(one, campaign)


D = "0123456789abcdef" * 2
E = D[::-1]


@pytest.mark.parametrize(
    ("at", "digests", "most", "expected"),
    [
        pytest.param({}, [D], 1, {D: 1e6}, id="the first"),
        pytest.param({}, [D], 0, None, id="none is allowed"),
        pytest.param({D: 1e6 - 9}, [D], 0, {D: 1e6 - 9}, id="one that is known costs nothing"),
        pytest.param({D: 1e6 - 9}, [E], 1, None, id="one more than a day has"),
        pytest.param({D: 1e6 - 9 * DAY}, [E], 1, None, id="a worker's clock ages nothing"),
        pytest.param({}, [D, D, E], 1, None, id="all or none"),
        pytest.param({}, [f"{n:032x}" for n in range(1_001)], 2**60, None, id="a record of a bounded size"),
    ],
)
def test_tries_of_a_day(at: dict[str, float], digests: list[str], most: int, expected: dict[str, float] | None) -> None:
    counted = Tries(at).counted(digests, 1e6, most)
    assert (counted.at if counted else None) == expected


def test_the_leaders_clock_ages_tries() -> None:
    """Those of workers may be days apart: one that is ahead would make room for as many tries as it likes."""
    aged = Tries({D: 1e6 - DAY, E: 2e6, "f" * 32: 1e6 - 9}).aged(1e6)
    assert aged.at == {E: 1e6, "f" * 32: 1e6 - 9}


async def test_what_is_a_day_old_has_room_again_once_the_leader_has_looked() -> None:
    store, keyspace = MemoryStore(), Keyspace()
    old = {"tried": {f"{n:032x}": time.time() - 2 * DAY for n in range(3)}}
    store.put(keyspace.tries, encode(old))
    counter = TryCounter(store, keyspace, 3)
    with pytest.raises(QuarantineGrewError):
        await counter.count([D])
    await counter.age()
    await counter.count([D])


async def test_what_an_operator_asked_for_goes_on_and_raises_the_alarm_at_its_end() -> None:
    store = MemoryStore()
    fill(store, OLD)
    spoil(store, 300)
    one = new_cluster(store, NEW, OLD)
    await planned(one, attended=False)
    with capture_logs() as logs:
        ended = await run(one)  # takes it up
    assert (ended.campaign.quarantine_limit.most, ended.report.fresh) == (None, 300)
    assert [log["log_level"] for log in logs if log["event"] == "quarantine.grew"] == ["error"]
    assert "quarantine.grew" in [entry.event async for entry in one.audit.entries()]
    with capture_logs() as logs:
        again = await run(one)
    assert (again.report.quarantined, again.report.fresh) == (300, 0)
    assert not [log for log in logs if log["event"] == "quarantine.grew"]


async def test_values_whose_key_no_plugin_unwraps_are_not_counted_as_new() -> None:
    store = MemoryStore()
    fill(store, OLD)
    spoil(store, 30, value=b"k8s:enc:kms:v1:plugin:\0\0x")
    ended = await run(new_cluster(store, NEW, OLD, KmsProvider("v1", "plugin", "unix:///s", 3.0, 1000)))
    assert (ended.report.quarantined, ended.report.fresh) == (30, 0)
