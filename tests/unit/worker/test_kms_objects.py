"""Objects under KMS through the engine: fetched by group and page, rewritten both ways, and left alone in an outage."""

from __future__ import annotations

import base64
import itertools
from dataclasses import dataclass, field

import pytest

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
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import PageSettings, Settings
from kube_rewrap.worker.data_keys import NoPlugins
from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, UnsupportedPrimaryError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect, Item, SwapResult
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.batch import BatchSpec, Checkpoint
from kube_rewrap.worker.records.budget import has_budget
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.inventory import Inventory, ResourceRange
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import Keep, KeyRef, Quarantine, Reason, Rewrap
from kube_rewrap.worker.wrapped import Plugin, fingerprint_of_key_id, hash_of_key_id
from tests.fakes.plugins import MemoryPlugins, new_data_key
from tests.fakes.store import MemoryStore
from tests.unit.worker.providers.kms_values import gcm, type_1, v1_body, v2_body

pytestmark = pytest.mark.timeout(20)

OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}'
KEY = KeyedProvider(ProviderType.AESGCM, (Key("key", SecretBytes(b"k" * 32)),))
V1 = KmsProvider("v1", "old", "unix:///1.sock", 3.0, 1000)
V2 = KmsProvider("v2", "new", "unix:///2.sock", 3.0, None)
KEK_1, KEK_2 = (KeyRef("kms", "new", fingerprint_of_key_id(f"kek-{number}")) for number in (1, 2))
OF_V1, OF_KEY = KeyRef("kms", "old", "v1"), Chain([KEY]).primary
SECRETS = KeyRange.of_prefix(b"/registry/secrets/")
COUNT = 10


class Raced(MemoryStore):
    """A kube-apiserver writes the object `late` just before it is swapped, once."""

    late = b""

    async def swap(self, item: Item, value: bytes, guard: Expect | None = None) -> SwapResult:
        if item.key == self.late:
            self.late = b""
            self.put(item.key, item.value)
        return await super().swap(item, value, guard)


@dataclass
class Scene:
    """A registry in memory, one generation after another, and the plugins."""

    store: MemoryStore = field(default_factory=MemoryStore)
    plugins: MemoryPlugins = field(default_factory=MemoryPlugins)
    numbers: itertools.count[int] = field(default_factory=itertools.count)

    def engine(self, *providers: Provider, target: str = "kek-1", kms: bool = True) -> Engine:
        configuration = EncryptionConfiguration((ResourceEntry(("secrets",), providers),))
        settings = Settings(page=PageSettings(objects=3))
        plugins = self.plugins if kms else None
        generation = Generation("sha256:0", configuration, "test")
        if kms:
            generation = generation.aimed({"new": hash_of_key_id(target)})
        return Engine(self.store, settings, generation, LocalPace(0), plugins)

    def fill(self, provider: Provider, count: int = COUNT, key_id: str = "kek-1") -> None:
        """As a kube-apiserver would: with one seed in v2."""
        chain = Chain([provider], targets={"new": hash_of_key_id(key_id)})
        data_key = new_data_key(chain.kms_primary[0], key_id) if chain.kms_primary else None
        for number in range(count):
            key = b"/registry/secrets/%d" % number
            if chain.kms_primary and chain.kms_primary[0].version == "v1":
                data_key = new_data_key(chain.kms_primary[0])
            self.store.put(key, chain.seal(OBJECT, key, data_key))

    async def batch(self, engine: Engine) -> BatchSpec:
        spec = BatchSpec(
            campaign=f"c{next(self.numbers)}",
            number=0,
            resource="secrets",
            range=SECRETS,
            generation=engine.generation.hash,
        )
        await Checkpoints(self.store, engine.keyspace).save(Stored(Checkpoint(spec=spec)))
        await engine.ledger.first_sight([key for key in engine.chains["secrets"].keys if has_budget(key)])
        return spec

    async def run(self, engine: Engine, kek_since: int = 0) -> BatchReport:
        return await engine.run(await self.batch(engine), None, Brake(), kek_since=kek_since)

    async def count(self, engine: Engine, kek_since: int = 0) -> Inventory:
        ranges, revision = [ResourceRange("secrets", SECRETS)], await self.store.revision()
        return await engine.inventory(ranges, revision, kek_since=kek_since)

    async def values(self) -> dict[bytes, bytes]:
        page = await self.store.page(SECRETS, 1000)
        return {item.key: item.value for item in page.items}


PROVIDERS: dict[str, tuple[Provider, KeyRef]] = {"key": (KEY, OF_KEY), "v1": (V1, OF_V1), "v2": (V2, KEK_1)}


@pytest.mark.parametrize(("before", "after"), list(itertools.permutations(PROVIDERS, 2)), ids=str)
async def test_objects_move_between_local_keys_and_kms_both_ways(before: str, after: str) -> None:
    scene = Scene()
    (old, was), (new, now) = PROVIDERS[before], PROVIDERS[after]
    scene.fill(old)
    engine = scene.engine(new, old)
    found = await scene.count(engine)
    assert (found.stale, set(found.resources[0].keys)) == (COUNT, {was})
    report = await scene.run(engine)
    assert (report.rewritten, report.encryptions, report.quarantined) == (COUNT, COUNT, 0)
    found = await scene.count(engine)
    assert (found.is_clean, set(found.resources[0].keys)) == (True, {now})
    again = await scene.run(engine)
    assert (again.rewritten, again.current) == (0, COUNT)


async def test_v2_costs_one_call_a_source_and_v1_one_an_object() -> None:
    scene = Scene()
    scene.fill(V2)
    await scene.run(scene.engine(KEY, V2, V1))
    assert len(scene.plugins.asked) == 1
    scene.fill(V1)
    await scene.run(scene.engine(KEY, V2, V1))
    assert len(scene.plugins.asked) == 1 + COUNT


async def test_v1_gets_a_data_key_for_each_object_and_v2_one_seed() -> None:
    scene = Scene()
    scene.fill(KEY)
    await scene.run(scene.engine(V1, KEY))
    assert len(scene.plugins.made) == COUNT
    engine = scene.engine(V1, KEY)
    assert len(engine.chains["secrets"].all_wanted((await scene.values()).values())) == COUNT
    await scene.run(scene.engine(V2, V1))
    assert len(scene.plugins.made) == COUNT + 1


async def test_no_write_budget_is_kept_for_kms() -> None:
    scene = Scene()
    scene.fill(KEY)
    engine = scene.engine(V2, KEY)
    await scene.run(engine)
    assert list(await engine.ledger.all()) == [OF_KEY.fingerprint]


async def test_case_18_a_new_target_makes_stale_what_is_under_the_former_one() -> None:
    scene = Scene()
    scene.fill(V2)
    moved = scene.engine(V2, target="kek-2")
    found = await scene.count(moved)
    assert (found.stale, found.is_clean) == (COUNT, False)
    assert (await scene.run(moved)).rewritten == COUNT
    found = await scene.count(moved)
    assert (found.is_clean, set(found.resources[0].keys)) == (True, {KEK_2})
    assert not (await scene.count(scene.engine(V2))).is_clean


async def test_case_18_a_plugin_that_answers_another_key_id_seals_nothing() -> None:
    scene = Scene()
    scene.fill(KEY)
    before = await scene.values()
    scene.plugins.key_id = "kek-2"
    with pytest.raises(KmsRefusedError):
        await scene.run(scene.engine(V2, KEY))
    assert await scene.values() == before


@pytest.mark.parametrize("providers", [(KEY, V2), (V2, KEY)], ids=["reading", "writing"])
async def test_an_outage_quarantines_nothing_and_the_batch_goes_on_after_it(providers: tuple[Provider, ...]) -> None:
    scene = Scene()
    scene.fill(V2 if providers[0] is KEY else KEY)
    before, engine = await scene.values(), scene.engine(*providers)
    spec = await scene.batch(engine)
    scene.plugins.failing = KmsUnavailableError("no answer")
    with pytest.raises(KmsUnavailableError):
        await engine.run(spec, None, Brake())
    assert await scene.values() == before
    stored = await Checkpoints(scene.store, engine.keyspace).load(spec.campaign, spec.number)
    assert (stored.value.cursor, stored.value.report) == (b"", BatchReport())
    report = await engine.run(spec, None, Brake())
    assert (report.rewritten, report.quarantined) == (COUNT, 0)


async def test_a_key_that_the_plugin_refuses_costs_its_objects_only() -> None:
    scene = Scene()
    scene.fill(V2)
    bad = b"/registry/secrets/bad"
    scene.store.put(bad, b"k8s:enc:kms:v2:new:" + v2_body(type_1(b"s" * 32, OBJECT, bad), source=b"???"))
    engine = scene.engine(KEY, V2)
    report = await scene.run(engine)
    assert (report.rewritten, report.quarantined, report.fresh) == (COUNT, 1, 0)
    found = await scene.count(engine)
    assert found.unreadable_by == {("secrets", Reason.KMS_REFUSED): 1}


async def test_an_object_is_examined_with_its_key() -> None:
    scene = Scene()
    scene.fill(V2, 1)
    key = b"/registry/secrets/0"
    for engine, verdict in ((scene.engine(V2), Keep(KEK_1)), (scene.engine(KEY, V2), Rewrap(KEK_1, OBJECT))):
        examined = await engine.examine(key, "secrets")
        assert examined is not None
        assert examined.verdict == verdict


@pytest.mark.parametrize(("wrong", "opens"), [(1, True), (2, False)])
async def test_an_object_is_examined_with_its_key_asked_for_once_more(wrong: int, opens: bool) -> None:
    """As a batch does: a plugin may have unwrapped it to wrong bytes once."""
    scene = Scene()
    scene.fill(V2, 1)
    scene.plugins.wrong = wrong
    examined = await scene.engine(KEY, V2).examine(b"/registry/secrets/0", "secrets")
    assert examined is not None
    assert isinstance(examined.verdict, Rewrap if opens else Quarantine)
    assert len(scene.plugins.asked) == 2


async def test_a_value_is_recognised_by_what_it_says_and_no_plugin_is_asked() -> None:
    scene = Scene()
    engine = scene.engine(V2, V1, KEY)
    values = {
        b"k8s:enc:kms:v2:new:" + v2_body(b"x", key_id=b"kek-2"): KEK_2,
        b"k8s:enc:kms:v1:old:" + v1_body(b"w", b"x"): OF_V1,
    }
    for value, expected in values.items():
        assert engine.recognise(Item(b"/k", value, 1, 1, 0), "secrets") == expected
    malformed = engine.recognise(Item(b"/k", b"k8s:enc:kms:v2:new:x", 1, 1, 0), "secrets")
    assert isinstance(malformed, Quarantine)
    assert scene.plugins.asked == []


async def test_without_plugins_kms_values_are_quarantined_and_a_kms_primary_is_refused() -> None:
    scene = Scene()
    scene.fill(V2)
    before, engine = await scene.values(), scene.engine(KEY, V2, kms=False)
    report = await scene.run(engine)
    assert (report.rewritten, report.quarantined, report.fresh) == (0, COUNT, 0)
    key = b"/registry/secrets/0"
    recognised = engine.recognise(Item(key, before[key], 1, 1, 0), "secrets")
    assert isinstance(recognised, Quarantine)
    assert (recognised.reason, recognised.claimed) == (Reason.KMS_REFUSED, (KeyRef("kms", "new", "kms"),))
    assert await scene.values() == before
    with pytest.raises(UnsupportedPrimaryError):
        await scene.run(scene.engine(V2, KEY, kms=False))
    with pytest.raises(UnsupportedPrimaryError):
        await NoPlugins().data_keys(Plugin("new", "v2", "unix:///2.sock"), "kek-1", 1)


async def test_invented_key_ids_do_not_make_an_inventory_grow() -> None:
    scene = Scene()
    scene.fill(V2, 1)
    source = base64.b64encode(b"s" * 32)
    for number in range(300):
        key = b"/registry/secrets/x/%d" % number
        body = v2_body(type_1(b"s" * 32, OBJECT, key), key_id=b"invented-%d" % number, source=source)
        scene.store.put(key, b"k8s:enc:kms:v2:new:" + body)
    (tally,) = (await scene.count(scene.engine(V2))).resources
    assert (tally.objects, tally.stale, len(tally.keys)) == (301, 300, 201)
    assert tally.keys[KeyRef("kms", "new", "others")].objects == 101
    assert (tally + tally).stale == 600


async def test_a_v1_value_under_a_local_primary_is_opened_with_its_own_key() -> None:
    scene = Scene()
    key, dek = b"/registry/secrets/one", bytes(range(32))
    scene.store.put(key, b"k8s:enc:kms:v1:old:" + v1_body(base64.b64encode(dek), gcm(dek, OBJECT, key)))
    assert (await scene.run(scene.engine(KEY, V1))).rewritten == 1


async def test_case_12_wrong_bytes_once_are_asked_for_again_before_an_object_is_judged() -> None:
    scene = Scene()
    scene.fill(V2)
    scene.plugins.wrong = 1
    engine = scene.engine(KEY, V2)
    assert (await scene.count(engine)).unreadable == 0
    assert len(scene.plugins.asked) == 2
    scene = Scene()
    scene.fill(V2)
    scene.plugins.wrong = 1
    report = await scene.run(scene.engine(KEY, V2))
    assert (report.rewritten, report.quarantined) == (COUNT, 0)


async def test_case_12_wrong_bytes_always_cost_two_calls_and_those_objects_alone() -> None:
    scene = Scene()
    scene.fill(V2)
    scene.plugins.wrong = 1_000
    report = await scene.run(scene.engine(KEY, V2))
    assert (report.rewritten, report.quarantined) == (0, COUNT)
    assert len(scene.plugins.asked) == 2
    scene.fill(V1)
    scene.plugins.wrong = 0
    assert (await scene.run(scene.engine(KEY, V2, V1))).rewritten == COUNT


@pytest.mark.parametrize("provider", [V1, V2], ids=["v1", "v2"])
async def test_what_was_written_before_a_rotation_that_nothing_shows_is_rewritten_once(provider: Provider) -> None:
    scene = Scene()
    scene.fill(provider)
    engine, since = scene.engine(provider), await scene.store.revision()
    late = b"/registry/secrets/3"
    scene.store.put(late, (await scene.values())[late])
    before = await scene.values()
    assert (await scene.run(engine)).rewritten == 0
    assert (await scene.count(engine)).is_clean
    found = await scene.count(engine, since)
    assert (found.stale, found.outdated, found.is_clean) == (COUNT - 1, COUNT - 1, False)
    assert found.stale_bytes == sum(len(value) for key, value in before.items() if key != late)
    report = await scene.run(engine, since)
    assert (report.rewritten, report.current, report.quarantined) == (COUNT - 1, 1, 0)
    after = await scene.values()
    assert [key for key in before if before[key] == after[key]] == [late]
    assert (await scene.count(engine, since)).is_clean
    again = await scene.run(engine, since)
    assert (again.rewritten, again.current) == (0, COUNT)


async def test_an_object_that_a_kube_apiserver_wrote_meanwhile_is_not_written_again() -> None:
    store = Raced()
    scene = Scene(store)
    scene.fill(V2)
    engine, since, values = scene.engine(V2), await store.revision(), await scene.values()
    store.late = b"/registry/secrets/2"
    report = await scene.run(engine, since)
    assert (report.rewritten, report.current, report.conflicts) == (COUNT - 1, 1, 1)
    assert (await scene.values())[b"/registry/secrets/2"] == values[b"/registry/secrets/2"]


async def test_a_revision_does_not_concern_objects_under_a_local_primary() -> None:
    scene = Scene()
    scene.fill(KEY)
    engine, since = scene.engine(KEY), await scene.store.revision()
    assert (await scene.count(engine, since)).is_clean
    assert (await scene.run(engine, since)).rewritten == 0


async def test_growth_is_what_a_stored_value_has_more_than_its_plaintext() -> None:
    for provider in (V1, V2):
        scene = Scene()
        scene.store.put(b"/registry/secrets/0", OBJECT + b" " * 200)
        engine = scene.engine(provider, IdentityProvider())
        await scene.run(engine)
        [value] = (await scene.values()).values()
        assert await engine.growth("secrets") == len(value) - len(OBJECT) - 200
    assert await Scene().engine(KEY, V2).growth("secrets") == 0
