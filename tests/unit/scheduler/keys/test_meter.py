"""How a leader measures and records write rates, over an hour and a change of leader."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from kube_rewrap.scheduler.keys.meter import Meter, MeterFacts
from kube_rewrap.worker.etcd.store import Put
from kube_rewrap.worker.records.budget import Budget
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.generation import GenerationRecord
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.usage import NOTHING, Usage
from kube_rewrap.worker.records.usages import Usages
from kube_rewrap.worker.verdict import KeyRef
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.timeout(20)

KEYSPACE = Keyspace()
KEY = KeyRef("aesgcm", "a-key", "a" * 16)
GENERATION = GenerationRecord("sha256:0", (("secrets", (KEY,)),))
LIMIT = 100_000


@dataclass
class Watch:
    """What an observer says of itself."""

    count: int = 0
    lag: int = 0

    @property
    def opened(self) -> dict[str, int]:
        return {KEY.fingerprint: self.count}


@dataclass
class Leaders:
    """One store, and leaders one after the other, on a clock that is set forward."""

    store: MemoryStore
    now: float = 1_000.0
    budget: Budget = field(
        default_factory=lambda: Budget(fingerprint=KEY.fingerprint, provider="aesgcm", names=("a-key",))
    )

    async def lead(self) -> None:
        self.watch = Watch()
        self.meter = Meter(Usages(self.store, KEYSPACE), Campaigns(self.store, KEYSPACE), self.watch)
        await self.after(0)

    async def after(self, seconds: float, *, others: int = 0, ours: int = 0) -> Usage:
        """Looks again after some seconds, in which so much was written."""
        self.now += seconds
        self.watch.count += others + ours
        self.budget = replace(self.budget, reserved=self.budget.reserved + ours, committed=self.budget.committed + ours)
        return await self.meter.measure(
            MeterFacts(self.now, 10**9 + self.now, {KEY.fingerprint: self.budget}, (), GENERATION, LIMIT)
        )

    async def lengths(self) -> list[tuple[int, int]]:
        """The intervals on record: their seconds, and the writes."""
        found = (await Usages(self.store, KEYSPACE).load()).value
        return [(one.seconds, one.writes[KEY.fingerprint]) for one in found.intervals]


@pytest.fixture
def leaders() -> Leaders:
    return Leaders(MemoryStore())


async def test_the_first_minute_says_nothing_and_then_each_one_is_on_record(leaders: Leaders) -> None:
    await leaders.lead()
    await leaders.after(59, others=9_000)  # what the watch catches up with
    await leaders.after(1)
    await leaders.after(30, others=20)
    await leaders.after(31, others=20)
    await leaders.after(300)  # nothing was written
    await leaders.after(5, others=3)
    assert await leaders.lengths() == [(61, 40), (305, 3)]


async def test_quiet_hours_do_not_thin_out_what_comes_after_them(leaders: Leaders) -> None:
    await leaders.lead()
    await leaders.after(60)
    for _ in range(10):
        await leaders.after(3_601)
    usage = await leaders.after(600, others=60_000)
    assert usage.rate(KEY.fingerprint, 10**9 + leaders.now) == 100


async def test_another_leader_continues_and_unwatched_time_is_left_out(leaders: Leaders) -> None:
    await leaders.lead()
    await leaders.after(60)
    await leaders.after(60, others=40)
    leaders.now += 3_000
    await leaders.lead()
    await leaders.after(60, others=70_000)
    await leaders.after(60, others=20)
    assert await leaders.lengths() == [(60, 40), (60, 20)]


async def test_rewraps_own_writes_are_no_rate_and_nothing_is_compared_in_the_middle_of_a_campaign(
    leaders: Leaders,
) -> None:
    await leaders.lead()
    await leaders.after(60)
    campaigns = Campaigns(leaders.store, KEYSPACE)
    campaign = Campaign(
        id="c",
        state=CampaignState.RUNNING,
        generation="sha256:0",
        scope=Scope(("secrets",)),
        batches=0,
        planned_at="2026-01-01T00:00:00+00:00",
        because="",
    )
    stored = await campaigns.create(campaign, [])
    await leaders.after(70, others=5, ours=20_000)
    assert await leaders.lengths() == []
    await campaigns.save(replace(stored, value=campaign.moved(CampaignState.COMPLETE, "")))
    leaders.watch.lag = 3
    await leaders.after(10)
    leaders.watch.lag = 0
    usage = await leaders.after(10, ours=50_000)
    assert await leaders.lengths() == [(90, 5)]
    assert usage.due_by_rate == {}


async def test_a_fast_writer_makes_a_key_due_before_its_share_is_used_and_it_stays_due(leaders: Leaders) -> None:
    await leaders.lead()
    await leaders.after(60)
    usage = NOTHING
    while not usage.due_by_rate:
        leaders.budget = replace(leaders.budget, estimated=leaders.budget.estimated + 3_000)
        usage = await leaders.after(60, others=3_000)
    assert leaders.budget.used < 0.2 * LIMIT
    await leaders.lead()
    for _ in range(3):
        usage = await leaders.after(3_600)
    assert list(usage.due_by_rate) == [KEY.fingerprint]


async def test_a_damaged_record_costs_itself_only(leaders: Leaders) -> None:
    await leaders.store.commit(
        [], [Put(KEYSPACE.usage, b'{"v": 1, "intervals": [[1e999, -5, {}]], "due_by_rate": {}}')]
    )
    await leaders.lead()
    await leaders.after(60)
    await leaders.after(60, others=40)
    assert await leaders.lengths() == [(60, 40)]
