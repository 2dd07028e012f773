"""How often a plan and an embedded run read the store: each object and each checkpoint once; etcd's work is linear."""

from __future__ import annotations

from collections import Counter

import pytest

from kube_rewrap.scheduler.campaigns.planning import plan_run
from kube_rewrap.scheduler.registry.scope import EVERYTHING, CampaignSpec
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Item, Page, Stamp
from tests.fakes.objects import NEW, OLD, fill, seal
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.campaigns.harness import new_cluster, run

pytestmark = pytest.mark.timeout(30)

ROOT = KeyRange.of_prefix(b"/registry/")
SECRETS = KeyRange.of_prefix(b"/registry/secrets/")
RESOURCES = ("secrets", "configmaps")


class Counting(MemoryStore):
    """Counts reads: of single keys, of the objects in pages, and the surveys, which begin at the registry's root."""

    def __init__(self) -> None:
        super().__init__()
        self.got: Counter[bytes] = Counter()
        self.paged: Counter[bytes] = Counter()
        self.surveys = 0

    async def get(self, key: bytes) -> Item | None:
        self.got[key] += 1
        return await super().get(key)

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        page = await super().page(keys, limit, revision=revision, since=since)
        self.paged.update(item.key for item in page.items if item.key in ROOT)
        return page

    async def keys(self, keys: KeyRange, limit: int) -> tuple[list[bytes], int]:
        self.surveys += keys == ROOT
        return await super().keys(keys, limit)


def filled() -> Counting:
    """Return a store with objects of two resources in two namespaces."""
    store = Counting()
    for resource in RESOURCES:
        fill(store, OLD, 12, resource)
        seal(store, f"/registry/{resource}/other/1", OLD)
        seal(store, f"/registry/{resource}/aaa/1", NEW)
    return store


@pytest.mark.parametrize(
    "spec",
    [
        pytest.param(EVERYTHING, id="everything"),
        pytest.param(CampaignSpec(("secrets",)), id="a resource, and the rest for the estimate of the keys' use"),
        pytest.param(CampaignSpec(namespaces=("default",)), id="a namespace, and the rest for the estimate"),
        pytest.param(CampaignSpec(("secrets",), ("other", "default")), id="two namespaces of a resource, and the rest"),
    ],
)
async def test_a_plan_surveys_once_and_reads_each_object_once(spec: CampaignSpec) -> None:
    store = filled()
    plan = await plan_run(new_cluster(store, NEW, OLD, resources=RESOURCES), spec)
    assert (store.surveys, set(store.paged.values()), len(store.paged)) == (1, {1}, 28)
    everything = await plan_run(new_cluster(store, NEW, OLD, resources=RESOURCES), EVERYTHING)
    assert plan.estimate == everything.estimate


async def test_a_plan_of_a_part_reads_only_the_part_when_the_use_of_each_key_is_known() -> None:
    store = filled()
    await run(new_cluster(store, NEW, OLD, resources=RESOURCES))
    store.surveys, store.paged = 0, Counter()
    plan = await plan_run(new_cluster(store, NEW, OLD, resources=RESOURCES), CampaignSpec(("secrets",)))
    assert (store.surveys, plan.estimate) == (1, None)
    assert (len(store.paged), {key.split(b"/")[2] for key in store.paged}) == (14, {b"secrets"})


class CompactingAfterPart(Counting):
    """Compacts everything away, and writes an object, after the last page of secrets at a pinned revision."""

    is_compacted = False

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        page = await super().page(keys, limit, revision=revision, since=since)
        if revision and not page.more and not self.is_compacted and keys.end == SECRETS.end:
            self.is_compacted = True
            seal(self, "/registry/configmaps/default/late", NEW)
            self.compact()
        return page


async def test_when_the_revision_of_the_part_is_compacted_away_the_estimate_scans_everything() -> None:
    store = CompactingAfterPart()
    for resource in RESOURCES:
        fill(store, OLD, 12, resource)
    plan = await plan_run(new_cluster(store, NEW, OLD, resources=RESOURCES), CampaignSpec(("secrets",)))
    everything = await plan_run(new_cluster(store, NEW, OLD, resources=RESOURCES), EVERYTHING)
    assert (store.is_compacted, plan.found.objects, plan.estimate) == (True, 12, everything.estimate)


async def test_an_embedded_run_reads_each_checkpoint_once() -> None:
    store = filled()
    cluster = new_cluster(store, NEW, OLD, resources=RESOURCES)
    ended = await run(cluster)
    batches = cluster.engine.keyspace.batches(ended.campaign.id)
    read = {key: count for key, count in store.got.items() if key in batches}
    assert (ended.report.rewritten, set(read.values()), len(read)) == (26, {1}, ended.campaign.batches)


class Visited(MemoryStore):
    """Adds up the registry's keys in the ranges that it is asked for: etcd visits each of them, whatever the limit."""

    visits = 0

    def _note(self, keys: KeyRange, count: int) -> None:
        self.visits += count if keys.start in ROOT else 0

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        self._note(keys, await MemoryStore.count(self, keys))
        return await super().page(keys, limit, revision=revision, since=since)

    async def keys(self, keys: KeyRange, limit: int) -> tuple[list[bytes], int]:
        found, left = await super().keys(keys, limit)
        self._note(keys, len(found) + left)
        return found, left

    async def stamps(self, keys: KeyRange, limit: int, *, revision: int = 0) -> tuple[list[Stamp], int]:
        found, left = await super().stamps(keys, limit, revision=revision)
        self._note(keys, len(found) + left)
        return found, left

    async def count(self, keys: KeyRange) -> int:
        count = await super().count(keys)
        self._note(keys, count)
        return count


async def test_a_run_costs_etcd_no_more_for_each_object_when_there_are_more_objects() -> None:
    """The plan, the batches and the proof together. Pages of five objects make a whole range's pages expensive."""
    costs = []
    for objects in (600, 2_400):
        store = Visited()
        for number in range(objects):
            seal(store, f"/registry/secrets/team-{number % 40:02d}/{number:05d}", OLD)
        ended = await run(new_cluster(store, NEW, OLD))
        assert ended.report.rewritten == objects
        costs.append(store.visits / objects)
    assert costs[1] <= 1.3 * costs[0]
