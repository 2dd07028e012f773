"""What one process looks at and does on a store in memory: scans that start over, fencing, consent to plaintext."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.errors import SettingsError
from kube_rewrap.config.settings.schema import Settings
from kube_rewrap.scheduler.campaigns.embedded import run_embedded
from kube_rewrap.scheduler.campaigns.lock import hold_lock
from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.campaigns.take_up import take_up
from kube_rewrap.scheduler.engine import Engine, describe
from kube_rewrap.scheduler.registry.budgets import estimate_use, note_restore
from kube_rewrap.scheduler.registry.cluster import Cluster
from kube_rewrap.scheduler.registry.history import last_proof
from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.scheduler.registry.scope import EVERYTHING, CampaignSpec
from kube_rewrap.worker.errors import (
    CompactedError,
    FencedError,
    RecordError,
    RefusedError,
    StoppedError,
    WorkerError,
)
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect, Page
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.batch import BatchSpec
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Scope
from kube_rewrap.worker.records.codec import decode, encode
from kube_rewrap.worker.records.generation import History
from kube_rewrap.worker.records.generations import Generations
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.standing import Standing
from kube_rewrap.worker.records.table import Stored
from tests.fakes.objects import NEW, OBJECT, OLD, fill, seal
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.campaigns.harness import NOW, PLAIN, new_cluster, run

pytestmark = pytest.mark.timeout(30)


class Compacting(MemoryStore):
    """Compacts everything away, and writes something, behind some pinned pages."""

    left = 0

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        page = await super().page(keys, limit, revision=revision, since=since)
        if revision and self.left:
            self.left -= 1
            seal(self, f"/registry/secrets/late/{self.left}", NEW)
            self.compact()
        return page


async def test_a_scan_starts_over_when_its_revision_is_compacted_away() -> None:
    store = Compacting()
    fill(store, NEW)
    store.left = 4
    _, found = await scan_cluster(new_cluster(store, NEW))
    assert (found.objects, found.revision) == (12 + 4, await store.revision())


async def test_a_scan_that_never_comes_to_its_end_says_what_to_do() -> None:
    store = Compacting()
    fill(store, NEW)
    store.left = 1_000
    with pytest.raises(CompactedError, match="5 times; compact less often, or scan less"):
        await scan_cluster(new_cluster(store, NEW))


async def test_without_a_registry_nothing_is_complete() -> None:
    with pytest.raises(RefusedError, match="no key exists under /registry/"):
        await scan_cluster(new_cluster(MemoryStore(), NEW))


LATE = "/registry/configmaps/default/late"


@pytest.mark.parametrize(
    ("resources", "end"),
    [
        pytest.param(("*.*",), (CampaignState.INCOMPLETE, 12, 1), id="under a wildcard => the proof finds it"),
        pytest.param(("secrets", "configmaps"), (CampaignState.COMPLETE, 13, 0), id="named => it is swept"),
    ],
)
async def test_a_resource_that_gets_its_first_object_after_the_plan(
    resources: tuple[str, ...], end: tuple[CampaignState, int, int]
) -> None:
    store = MemoryStore()
    fill(store, OLD)
    one, brake = new_cluster(store, NEW, OLD, resources=resources), Brake()
    async with hold_lock(one, brake) as lock:
        plan = await plan_run(one, EVERYTHING)
        seal(store, LATE, OLD)
        ended = await run_embedded(one, plan, lock, brake, lambda _report, _batches: None)
    assert (ended.campaign.state, ended.report.rewritten, ended.proof.stale) == end


async def test_after_a_restore_the_key_of_an_entry_that_governs_nothing_is_marked_too() -> None:
    store = MemoryStore()
    fill(store, OLD)
    await run(new_cluster(store, OLD))
    store.log_lead = -2_996
    entries = (ResourceEntry(("secrets",), (OLD,)), ResourceEntry(("*.apps",), (NEW,)))
    generation = Generation("sha256:1", EncryptionConfiguration(entries), "test")
    one = Cluster(Settings(), Layout(), Engine(store, Settings(), generation, LocalPace(0)))
    await note_restore(one)
    assert {budget.names: budget.restored for budget in (await one.engine.ledger.all()).values()} == {
        ("old",): True,
        ("new",): True,
    }


async def test_plaintext_is_not_written_without_consent_even_when_it_was_not_foreseen() -> None:
    store = MemoryStore()
    fill(store, OLD)
    entries = (ResourceEntry(("secrets",), (NEW, OLD)), ResourceEntry(("configmaps",), (PLAIN, OLD)))
    generation = Generation("sha256:0", EncryptionConfiguration(entries), "test")
    one = Cluster(Settings(), Layout(), Engine(store, Settings(), generation, LocalPace(0)))
    brake = Brake()
    async with hold_lock(one, brake) as lock:
        plan = await plan_run(one, EVERYTHING)
        seal(store, LATE, OLD)
        with pytest.raises(RefusedError, match="/registry/configmaps/default/late would be decrypted"):
            await run_embedded(one, plan, lock, brake, lambda _report, _batches: None)
    late = await store.get(LATE.encode())
    assert late is not None
    assert late.value.startswith(b"k8s:enc:aescbc:v1:old:")


async def test_who_lost_the_lock_swaps_nothing() -> None:
    store = MemoryStore()
    fill(store, OLD)
    one, brake = new_cluster(store, NEW, OLD), Brake()
    before = {item.key: item.value for item in (await store.page(KeyRange(b"/registry/", b"/registry0"), 100)).items}
    item = await store.get(b"/registry/secrets/default/00")
    assert item is not None
    async with hold_lock(one, brake) as lock:
        stale_guard = Expect(lock.guard.key, lock.guard.revision - 1, created=True)
        (end,) = await store.swap_all([(item, b"undone")], stale_guard)
        assert isinstance(end, FencedError)
    after = {item.key: item.value for item in (await store.page(KeyRange(b"/registry/", b"/registry0"), 100)).items}
    assert after == before


async def test_a_complete_campaign_has_nothing_in_quarantine() -> None:
    store = MemoryStore()
    fill(store, OLD)
    store.put(b"/registry/secrets/default/poison", b"garbage")
    one, brake = new_cluster(store, NEW, OLD), Brake()

    def heal(_campaign: Campaign, standing: Standing) -> None:
        if standing.report.quarantined:
            store.delete(b"/registry/secrets/default/poison")

    async with asyncio.timeout(20), hold_lock(one, brake) as lock:
        ended = await run_embedded(one, await plan_run(one, EVERYTHING), lock, brake, heal)
    assert (ended.campaign.state, ended.quarantined) == (CampaignState.COMPLETE, ())


async def test_a_second_run_finds_nothing_to_do() -> None:
    store = MemoryStore()
    fill(store, OLD)
    assert (await run(new_cluster(store, NEW, OLD))).report.rewritten == 12
    again = await run(new_cluster(store, NEW, OLD))
    assert (again.campaign.state, again.report) == (CampaignState.COMPLETE, BatchReport())


@pytest.mark.parametrize("keys", [b"/registry/deployments/", b"/registry/", b"/registry/secrets"])
async def test_a_batch_record_makes_nothing_governed(keys: bytes) -> None:
    store = MemoryStore()
    store.put(b"/registry/deployments/default/a", OBJECT)
    one = new_cluster(store, NEW)
    spec = BatchSpec(
        campaign="c", number=0, resource="secrets", range=KeyRange.of_prefix(keys), generation=one.generation.hash
    )
    with pytest.raises(RecordError, match="its range does not lie inside"):
        await one.engine.run(spec, None, Brake())
    left = await store.get(b"/registry/deployments/default/a")
    assert left is not None
    assert (left.value, left.version) == (OBJECT, 1)


# ------------------------------------------------------------------------------------------------ what holds nothing


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        (CampaignSpec(namespaces=("nosuch",)), "--namespace: nosuch: no object is there"),
        (
            CampaignSpec(namespaces=("default", "nosuch", "nor-this")),
            "--namespace: nosuch, nor-this: no object is there",
        ),
        (CampaignSpec(("configmaps",)), "--resource: configmaps: no object is there"),
        (CampaignSpec(("configmaps",), ("default",)), "--resource: configmaps: no object is there"),
    ],
    ids=str,
)
async def test_what_is_named_and_holds_no_object_is_refused_unless_that_is_allowed(
    spec: CampaignSpec, said: str
) -> None:
    store = MemoryStore()
    fill(store, NEW)
    one = new_cluster(store, NEW, OLD, resources=("secrets", "configmaps"))
    with pytest.raises(SettingsError, match=said):
        await plan_run(one, spec)
    plan = await plan_run(one, replace(spec, options=CampaignOptions(allow_empty=True)))
    assert plan.refusals == ()


async def test_what_is_named_and_holds_objects_is_planned() -> None:
    store = MemoryStore()
    fill(store, OLD)
    one = new_cluster(store, NEW, OLD, resources=("secrets", "configmaps"))
    assert (await plan_run(one, CampaignSpec(("secrets",), ("default",)))).found.stale == 12
    assert (await plan_run(one, EVERYTHING)).found.stale == 12


async def test_keys_are_seen_in_a_resource_of_which_the_last_object_went_a_moment_ago() -> None:
    store = MemoryStore()
    fill(store, OLD)
    one = new_cluster(store, NEW, OLD, resources=("*.*",))
    await estimate_use(one, ["configmaps"])
    budgets = await one.engine.ledger.all()
    assert {budget.names: budget.begins("configmaps") is not None for budget in budgets.values()} == {
        ("new",): True,
        ("old",): True,
    }


async def test_a_configuration_of_which_no_name_governs_anything_is_no_success() -> None:
    store = MemoryStore()
    fill(store, OLD)
    with pytest.raises(
        RefusedError, match=r"no name in the configuration governs anything: deployments .*deployments\.apps"
    ):
        await run(new_cluster(store, NEW, OLD, resources=("deployments", "leases")))
    assert (await run(new_cluster(store, NEW, OLD, resources=("deployments", "secrets")))).report.rewritten == 12


async def test_a_proof_from_an_earlier_term_of_the_same_file_is_none() -> None:
    store = MemoryStore()
    fill(store, OLD)
    one = new_cluster(store, NEW, OLD)
    generations = Generations(store, one.engine.keyspace)
    in_force = await generations.save(Stored(History(describe(one.generation))))
    await run(one)
    assert await last_proof(one) is not None
    mine = in_force.value.generation
    away = await generations.save(in_force.holding(in_force.value.followed_by(replace(mine, hash="sha256:1"))))
    await generations.save(away.holding(away.value.followed_by(mine)))
    assert await last_proof(one) is None
    await run(one)
    assert await last_proof(one) is not None


async def test_what_was_proven_over_everything_stays_so_when_more_is_governed_and_a_part_never_becomes_it() -> None:
    store = MemoryStore()
    fill(store, OLD)
    one = new_cluster(store, NEW, OLD, resources=("*.*",))
    whole = await run(one)
    seal(store, LATE, NEW)  # the first object of a resource that the wildcard governs
    part = await run(one, CampaignSpec(resources=("secrets",)))
    assert (whole.campaign.whole, part.campaign.whole) == (True, False)
    store.delete(LATE.encode())
    assert await last_proof(one) == whole.campaign


async def test_a_campaign_that_is_taken_up_is_as_wide_as_what_it_is_taken_up_for() -> None:
    store = MemoryStore()
    fill(store, OLD)
    one, brake = new_cluster(store, NEW, OLD, resources=("*.*",)), Brake()
    async with hold_lock(one, brake) as lock:
        first = await take_up(one, await plan_run(one, EVERYTHING), lock.guard)
        seal(store, LATE, NEW)
        part = CampaignSpec(resources=("secrets",))
        ended = await run_embedded(one, await plan_run(one, part), lock, brake, lambda _report, _batches: None)
    assert (ended.campaign.id, first.value.whole, ended.campaign.whole) == (first.value.id, True, False)


def test_a_record_that_does_not_say_so_is_not_of_everything() -> None:
    record = Campaign(
        id="c",
        state=CampaignState.COMPLETE,
        generation="g",
        scope=Scope(("secrets",)),
        batches=0,
        planned_at=NOW,
        because="why",
        whole=True,
    ).to_json()
    assert Campaign.from_json(record).whole
    del record["whole"]
    assert not Campaign.from_json(record).whole


class CompactingInAProof(MemoryStore):
    """Compacts the proof's revision away behind a page of secrets, once; configmaps are read slowly meanwhile."""

    is_armed = has_compacted = False

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        is_pinned = revision > 0 and self.is_armed
        if is_pinned and b"configmaps" in keys.start and not self.has_compacted:
            await asyncio.sleep(0.3)
        page = await super().page(keys, limit, revision=revision, since=since)
        if is_pinned and b"secrets" in keys.start and not self.has_compacted:
            self.has_compacted = True
            seal(self, "/registry/secrets/late", NEW)
            self.compact()
        return page


async def test_a_part_that_is_at_work_when_the_proof_starts_over_does_not_end_the_run() -> None:
    store = CompactingInAProof()
    for resource in ("secrets", "configmaps"):
        fill(store, OLD, resource=resource)
    one, brake = new_cluster(store, NEW, OLD, resources=("secrets", "configmaps")), Brake()

    def watch(_campaign: Campaign, standing: Standing) -> None:
        store.is_armed = not standing.batches_left

    async with hold_lock(one, brake) as lock:
        plan = await plan_run(one, EVERYTHING)
        ended = await run_embedded(one, plan, lock, brake, watch)
    assert (ended.campaign.state, ended.proof.objects, store.has_compacted) == (CampaignState.COMPLETE, 25, True)


class Ending(MemoryStore):
    """Another process ends the campaign, before a swap or before a record of batches is written."""

    def __init__(self, at: str, state: CampaignState) -> None:
        super().__init__(self._end)
        self._at = at
        self._end_state = state

    def _end(self, kind: str, key: bytes) -> None:
        [*campaigns] = self._items(KeyRange.of_prefix(b"/kube-rewrap/v1/campaigns/"), self._revision)
        is_batch = key.startswith(b"/kube-rewrap/v1/batches/")
        if not campaigns or not (kind == self._at == "swap" or (kind == self._at and is_batch)):
            return
        self._at = ""
        record = {**decode(campaigns[0].key, campaigns[0].value), "state": self._end_state.value}
        self.put(campaigns[0].key, encode(record))
        for claim in self._items(KeyRange.of_prefix(b"/kube-rewrap/v1/claims/"), self._revision):
            self.delete(claim.key)


@pytest.mark.parametrize("at", ["swap", "commit"])
@pytest.mark.parametrize(
    ("state", "kind"),
    [
        pytest.param(CampaignState.CANCELLED, StoppedError, id="an operator cancelled it"),
        pytest.param(CampaignState.SUPERSEDED, FencedError, id="another process took it over"),
    ],
)
async def test_the_end_by_another_process_has_one_error_whoever_meets_it_first(
    at: str, state: CampaignState, kind: type[Exception]
) -> None:
    store = Ending(at, state)
    fill(store, OLD, 20)
    with pytest.raises(WorkerError, match=f"is {state.value}: another process ended it") as raised:
        await run(new_cluster(store, NEW, OLD))
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("stale", "most"),
    [
        pytest.param(1, 1, id="one"),
        pytest.param(20, 40, id="few"),
        pytest.param(400, 420, id="all"),
    ],
)
async def test_what_a_run_reserves_and_does_not_spend_is_bounded_by_what_it_spends(stale: int, most: int) -> None:
    """A run that ends loses the rest: a key would be used up by runs that each rewrite one object of many."""
    store = MemoryStore()
    fill(store, NEW, 400)
    fill(store, OLD, stale)
    one = new_cluster(store, NEW, OLD)
    await run(one)
    [budget] = [budget for budget in (await one.engine.ledger.all()).values() if budget.names == ("new",)]
    assert stale <= budget.reserved <= most
