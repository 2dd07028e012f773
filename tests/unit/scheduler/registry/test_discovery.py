"""What lies where: every count is the truth, and etcd counts each key a few times only."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, IdentityProvider, ResourceEntry
from kube_rewrap.config.encryption.resources import Layout
from kube_rewrap.config.settings.schema import PageSettings
from kube_rewrap.scheduler.campaigns.batches import plan_batches
from kube_rewrap.scheduler.registry import discovery
from kube_rewrap.scheduler.registry.discovery import cut, survey
from kube_rewrap.scheduler.registry.territory import Territory
from kube_rewrap.worker.etcd.pages import PageSizer
from kube_rewrap.worker.etcd.parts import Borders
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Page
from kube_rewrap.worker.inventory import take_inventory
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.records.census import BATCH_OBJECTS, NamespaceCount, ResourceCensus
from kube_rewrap.worker.records.inventory import ResourceRange
from tests.fakes.store import MemoryStore

pytestmark = pytest.mark.timeout(60)

ROOT = b"/registry/secrets/"
SECRETS = ResourceRange("secrets", KeyRange.of_prefix(ROOT))
NEIGHBOURS = [b"/registry/secret/a/1", b"/registry/secrets", b"/registry/secretsfoo/a/1", b"/registry/secrets0"]


def filled(keys: list[bytes]) -> MemoryStore:
    store = MemoryStore()
    for key in [*keys, *NEIGHBOURS]:
        store.put(key, b"v")
    return store


def names(count: int) -> list[bytes]:
    return [b"%05d" % number for number in range(count)]


async def take_census(store: MemoryStore, wanted: ResourceRange = SECRETS) -> ResourceCensus:
    """Count by namespace, as the scan of a plan does."""
    chains = {"secrets": Chain([IdentityProvider()])}
    revision = await store.revision()
    found = await take_inventory(store, [wanted], chains, PageSizer(PageSettings()), revision, by_namespace=True)
    (census,) = found.census
    assert sum(one.objects for one in census.namespaces) == found.objects
    return census


# ----------------------------------------------------------------------------------------------------------- census

NAMESPACES = st.sampled_from([b"a", b"a-b", b"a.b", b"a0", b"b", b"kube-system", b"z"])
SIZES = st.sampled_from([1, 2, 3, 250, 498, 499, 500, 501, 999, 1_000, 1_001, 2_000, 2_001])


@settings(max_examples=40)
@given(st.dictionaries(NAMESPACES, SIZES, max_size=5), st.sets(st.sampled_from([b"a", b"a-a", b"aa", b"b!", b"c"])))
@example({b"a": 500, b"b": 500}, set())
@example({b"a": 501}, {b"a", b"a-a", b"aa"})
def test_counts_are_the_truth(sizes: dict[bytes, int], cluster_scoped: set[bytes]) -> None:
    keys = [ROOT + namespace + b"/" + name for namespace, size in sizes.items() for name in names(size)]
    keys += [ROOT + name for name in cluster_scoped]
    store = filled(keys)
    census = asyncio.run(take_census(store))
    counted: Counter[str] = Counter()
    for one in census.namespaces:
        counted[one.namespace] += one.objects
    truth = Counter({namespace.decode(): size for namespace, size in sizes.items()})
    if cluster_scoped:
        truth[""] = len(cluster_scoped)
    assert counted == truth
    check_the_plan(store, census.namespaces, len(keys))


def check_the_plan(store: MemoryStore, namespaces: tuple[NamespaceCount, ...], objects: int) -> None:
    """Each batch holds as many objects as it says, and each object lies in one."""
    starts = [one.start for one in namespaces]
    assert starts == sorted(set(starts))
    batches = plan_batches("c", "g", [asyncio.run(take_census(store))])
    held = [asyncio.run(store.count(batch.range)) for batch in batches]
    assert held == [batch.objects for batch in batches]
    assert sum(held) == objects
    assert max(held, default=0) <= BATCH_OBJECTS


async def test_a_huge_namespace_is_cut_every_so_many_objects() -> None:
    store = filled([ROOT + b"big/" + name for name in names(2 * BATCH_OBJECTS + 1)])
    (big,) = (await take_census(store)).namespaces
    assert big == NamespaceCount(
        "big",
        ROOT + b"big/",
        2 * BATCH_OBJECTS + 1,
        (ROOT + b"big/%05d" % BATCH_OBJECTS, ROOT + b"big/%05d" % (2 * BATCH_OBJECTS)),
    )


async def test_a_namespace_of_just_one_batch_is_not_cut() -> None:
    store = filled([ROOT + b"big/" + name for name in names(BATCH_OBJECTS)])
    (big,) = (await take_census(store)).namespaces
    assert (big.objects, big.cuts) == (BATCH_OBJECTS, ())


async def test_cluster_scoped_objects_are_a_namespace_without_a_name() -> None:
    store = filled([ROOT + name for name in names(3)])
    assert (await take_census(store)).namespaces == (NamespaceCount("", ROOT + b"00000", 3),)


async def test_one_namespace_alone_is_covered_when_it_is_asked_for() -> None:
    store = filled([ROOT + key for key in (b"a/1", b"a-b/1", b"a/2", b"b/1", b"a")])
    one = KeyRange(ROOT + b"a/", ROOT + b"a0")
    census = await take_census(store, ResourceRange("secrets", one, Borders(ROOT, [b"a0"])))
    assert census.range == one
    assert census.namespaces == (NamespaceCount("a", ROOT + b"a/", 2),)


async def test_an_empty_resource_has_no_namespaces() -> None:
    assert (await take_census(filled([]))).namespaces == ()


class Counting(MemoryStore):
    """Adds up the keys of the ranges that it is asked for: etcd visits each of them."""

    counted = requests = most = 0

    async def keys(self, keys: KeyRange, limit: int) -> tuple[list[bytes], int]:
        found, left = await super().keys(keys, limit)
        self._count(len(found) + left)
        return found, left

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        page = await super().page(keys, limit, revision=revision, since=since)
        self._count(len(page.items) + page.left)
        return page

    def _count(self, visited: int) -> None:
        self.counted += visited
        self.requests += 1
        self.most = max(self.most, visited)


@pytest.mark.parametrize("namespaces", [1, 40, 3_000])
async def test_a_scan_and_a_cut_cost_a_few_counts_of_each_key(namespaces: int) -> None:
    store, objects = Counting(), 12_000
    for number in range(objects):
        store.put(ROOT + b"team-%04d/object-%06d" % (number % namespaces, number), b"k8s\x00")
    await take_census(store)
    assert store.counted <= 8 * objects
    assert store.requests <= objects / 30  # pages are small, since the size of the database is not known here
    store.counted = store.requests = 0
    pieces = await cut(store, SECRETS, 1_000)
    assert objects / 1_000 <= len(pieces) <= 2 * objects / 1_000 + 1
    assert store.counted <= 8 * objects
    assert store.requests <= 8 * len(pieces)


async def test_no_request_names_more_than_some_namespaces() -> None:
    """etcd holds up all writes while it counts the keys of a request's range."""
    store, objects = Counting(), 12_000
    for number in range(objects):
        store.put(ROOT + b"team-%04d/object-%06d" % (number % 400, number), b"k8s\x00")
    for number in range(400):
        store.put(b"/registry/namespaces/team-%04d" % number, b"")
    (secrets,) = (await survey(store, configuration(("secrets",)), Layout())).governed
    await take_census(store, secrets)
    await cut(store, secrets, 1_000)
    assert store.most <= 4_000


async def test_invented_namespaces_take_little_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any client that writes to etcd can make keys there, as long and as many as it likes."""
    monkeypatch.setattr(discovery, "_MOST_NAMESPACES", 1_000)
    store = Counting()
    for number in range(3_000):
        store.put(b"/registry/namespaces/%05d" % number, b"")
    store.put(b"/registry/namespaces/", b"")
    store.put(b"/registry/namespaces/" + b"a" * 64, b"")
    (secrets,) = (await survey(store, configuration(("secrets",)), Layout())).governed
    assert secrets.borders is not None
    assert 1_000 <= len(secrets.borders.names) <= 1_500
    assert max(map(len, secrets.borders.names)) <= 64
    assert b"0" not in secrets.borders.names


async def test_a_survey_costs_a_few_counts_of_each_key_however_many_resources_there_are() -> None:
    store, objects = Counting(), 12_000
    for number in range(100):
        store.put(b"/registry/%c%d.example.com/things/default/a" % (97 + number % 26, number), b"")
    for number in range(objects):
        store.put(ROOT + b"team/object-%06d" % number, b"")
    found = await survey(store, configuration(("*.*",)), Layout())
    assert len(found.governed) == 101
    assert store.counted <= 5 * objects
    assert store.requests <= 4 * len(found.governed)


# ----------------------------------------------------------------------------------------------------------- survey

PRESENT = [
    b"/registry/secrets/default/a",
    b"/registry/configmaps/default/a",
    b"/registry/deployments/default/a",
    b"/registry/services/specs/default/a",
    b"/registry/services/endpoints/default/a",
    b"/registry/example.com/widgets/default/a",
    b"/registry/strange/default/a",
    b"/registry/ranges/serviceips",
    b"/registry/masterleases/10.0.0.1",
    b"/registry/stray",
    b"compact_rev_key",
    b"/other/secrets/default/a",
]


def configuration(*entries: tuple[str, ...]) -> EncryptionConfiguration:
    return EncryptionConfiguration(tuple(ResourceEntry(names, (IdentityProvider(),)) for names in entries))


def ranges(**paths: str) -> tuple[ResourceRange, ...]:
    return tuple(
        ResourceRange(name.replace("_", "."), KeyRange.of_prefix(path.encode())) for name, path in paths.items()
    )


CORE = ranges(
    configmaps="/registry/configmaps/",
    endpoints="/registry/services/endpoints/",
    secrets="/registry/secrets/",
    services="/registry/services/specs/",
)
ALL = tuple(
    sorted(
        CORE + ranges(deployments_apps="/registry/deployments/", widgets_example_com="/registry/example.com/widgets/"),
        key=lambda one: one.resource,
    )
)


@pytest.mark.parametrize(
    ("entries", "territory"),
    [
        pytest.param(
            [("secrets",)], Territory(ranges(secrets="/registry/secrets/"), ()), id="an exact name => its path"
        ),
        pytest.param(
            [("pods",)],
            Territory(ranges(pods="/registry/pods/"), ()),
            id="an exact name without objects => its path too",
        ),
        pytest.param(
            [("*.",)],
            Territory(CORE, ("/registry/strange/",)),
            id="the core group => its resources, the strange is named",
        ),
        pytest.param(
            [("*.apps",)],
            Territory(ranges(deployments_apps="/registry/deployments/"), ("/registry/strange/",)),
            id="a group => its resources",
        ),
        pytest.param(
            [("*.*",)], Territory(ALL, ("/registry/strange/",)), id="everything => all but the never encrypted"
        ),
        pytest.param(
            [("widgets.example.com",), ("*.*",)],
            Territory(ALL, ("/registry/strange/",)),
            id="an exact name and everything => each once",
        ),
    ],
)
async def test_the_territory(entries: list[tuple[str, ...]], territory: Territory) -> None:
    store = MemoryStore()
    for key in PRESENT:
        store.put(key, b"v")
    assert await survey(store, configuration(*entries), Layout()) == territory


async def test_a_strange_path_is_known_once_it_has_been_told() -> None:
    store = MemoryStore()
    store.put(b"/registry/strange/default/a", b"v")
    layout = Layout("/registry", (("routes.route.openshift.io", "strange"),))
    assert await survey(store, configuration(("*.*",)), layout) == Territory(
        ranges(routes_route_openshift_io="/registry/strange/"), ()
    )


async def test_another_prefix_is_another_registry() -> None:
    store = MemoryStore()
    for key in PRESENT:
        store.put(key, b"v")
    assert await survey(store, configuration(("*.*",)), Layout("/other")) == Territory(
        ranges(secrets="/other/secrets/"), ()
    )
