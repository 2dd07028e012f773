"""Values whose keys a plugin fails on, through the engine's batches and scans: a scripted plugin, in virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
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
from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.errors import KmsSourceError, KmsUnavailableError, KmsUndecidedError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.kms.plugin_keys import PluginKeys
from kube_rewrap.worker.kms.plugins import open_plugins
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.batch import BatchSpec, Checkpoint
from kube_rewrap.worker.records.budget import has_budget
from kube_rewrap.worker.records.campaign import Campaign, CampaignOptions, CampaignState, Scope
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.inventory import ResourceRange
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.wrapped import hash_of_key_id
from tests.fakes.store import MemoryStore
from tests.unit.clock import without_waiting
from tests.unit.worker.kms.scripted import PLUGIN, V1, Call, ScriptedClient, now
from tests.unit.worker.providers.kms_values import type_1, v1_body, v2_body

OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}'
SECRETS = KeyRange.of_prefix(b"/registry/secrets/")
KEY = KeyedProvider(ProviderType.AESGCM, (Key("key", SecretBytes(b"k" * 32)),))
CLOUD = KmsProvider("v2", PLUGIN.name, PLUGIN.endpoint, 3.0, None)
OLD = KmsProvider("v1", V1.name, V1.endpoint, 3.0, 1000)
LOCAL = Chain([KEY])
SEED = b"s" * 32
CAMPAIGN = Campaign(
    id="rotated",
    state=CampaignState.COMPLETE,
    generation="sha256:0",
    scope=Scope(("secrets",)),
    batches=1,
    planned_at="2026-01-01T00:00:00+00:00",
    because="complete",
)


def key_of(name: str) -> bytes:
    return f"/registry/secrets/default/{name}".encode()


def sound(name: str) -> bytes:
    body = v2_body(type_1(SEED, OBJECT, key_of(name)), b"kek-0", b"wrapped:" + SEED)
    return b"k8s:enc:kms:v2:cloud:" + body


def of_v1(wrapped: bytes) -> bytes:
    return b"k8s:enc:kms:v1:old:" + v1_body(b"wrapped:" + wrapped, bytes(60))


@dataclass
class Scene:
    store: MemoryStore
    engine: Engine

    async def run(self, campaign: str = "c") -> BatchReport:
        spec = BatchSpec(
            campaign=campaign, number=0, resource="secrets", range=SECRETS, generation=self.engine.generation.hash
        )
        await Checkpoints(self.store, self.engine.keyspace).save(Stored(Checkpoint(spec=spec)))
        await self.engine.ledger.first_sight([key for key in self.engine.chains["secrets"].keys if has_budget(key)])
        return await self.engine.run(spec, None, Brake())


@asynccontextmanager
async def scene_of(
    store: MemoryStore, client: ScriptedClient, pace: LocalPace | None = None, primary: Provider = KEY
) -> AsyncIterator[Scene]:
    providers = (primary, *(one for one in (KEY, CLOUD, OLD) if one is not primary))
    configuration = EncryptionConfiguration((ResourceEntry(("secrets",), providers),))
    settings = Settings(page=PageSettings(objects=500))
    async with open_plugins(lambda _: client, lambda _: pace or LocalPace(0)) as plugins:
        keys = PluginKeys(plugins, settings.kms)
        generation = Generation("sha256:0", configuration, "test").aimed({CLOUD.name: hash_of_key_id("kek-1")})
        yield Scene(store, Engine(store, settings, generation, LocalPace(0), keys))


@without_waiting
@pytest.mark.parametrize("error", [KmsUndecidedError("unknown"), KmsUnavailableError("away")], ids=["unknown", "away"])
async def test_a_forged_value_does_not_cost_sound_objects_the_key_that_opened_others(error: Exception) -> None:
    """The plugin fails on that key meanwhile: its KEK was disabled, say."""
    store, client = MemoryStore(), ScriptedClient(seconds=0.1)
    for number in range(60):
        store.put(key_of(f"b-{number:02}"), sound(f"b-{number:02}"))
    async with scene_of(store, client) as scene:
        await scene.engine.examine(key_of("b-00"), "secrets")
        store.put(key_of("a-forged"), sound("elsewhere"))
        client.script = lambda call: error if call.wrapped is not None and call.wrapped.key_id == "kek-0" else None
        report = await scene.run()
    assert (report.rewritten, report.quarantined) == (60, 1)
    assert client.number_of("decrypt") == 1


def unknown(call: Call) -> Exception | None:
    """Fails on all keys but those of the canary."""
    is_stored = call.wrapped is not None and call.wrapped.wrapped.startswith(b"wrapped:forged")
    return KmsUndecidedError("unknown") if is_stored else None


@without_waiting
@pytest.mark.parametrize(("processes", "longest"), [(1, 60), (4, 180)])
async def test_a_slice_over_keys_that_the_plugin_refuses_ends_soon_after_its_time(
    processes: int, longest: float
) -> None:
    """Pages of them at 10 calls a second; a process that scans is given 240 s for a slice of 10 s."""
    store, pace = MemoryStore(), LocalPace(10)
    for number in range(96):
        store.put(key_of(f"{number:03}"), of_v1(b"forged-%03d" % number))

    async def scan() -> int:
        client = ScriptedClient(plugin=V1, script=unknown, seconds=0.05)
        async with scene_of(store, client, pace) as scene:
            began = now()
            wanted = ResourceRange("secrets", SECRETS)
            counted, cursor = await scene.engine.slice_of_inventory(wanted, 0, lambda: now() > began + 10)
            assert now() - began < longest
            scanned = counted.resources[0].unreadable
            assert cursor is not None
            return scanned

    assert all(32 <= scanned < 96 for scanned in await asyncio.gather(*(scan() for _ in range(processes))))


@without_waiting
async def test_keys_on_which_the_plugin_breaks_take_their_minutes_side_by_side() -> None:
    """Not one group of a page after the other: a slice that meets them asks for those of the whole page."""
    store = MemoryStore()
    for number in range(40):
        store.put(key_of(f"{number:03}"), of_v1(b"forged-%03d" % number))

    def away(call: Call) -> Exception | None:
        return KmsUnavailableError("away") if unknown(call) else None

    client = ScriptedClient(plugin=V1, script=away, seconds=0.01)
    async with scene_of(store, client) as scene:
        began, unreadable = now(), 0
        cursor: bytes | None = SECRETS.start
        while cursor is not None:
            until, wanted = now() + 120, ResourceRange("secrets", KeyRange(cursor, SECRETS.end))
            try:
                counted, cursor = await scene.engine.slice_of_inventory(wanted, 0, lambda: now() > until)  # noqa: B023
            except KmsSourceError as error:
                await asyncio.sleep(error.delay)
                continue
            unreadable += counted.resources[0].unreadable
        assert unreadable == 40
        assert now() - began < 7 * 60


@without_waiting
async def test_a_process_that_did_nothing_of_a_campaign_for_a_rotation_makes_a_new_seed_after_it() -> None:
    """AWS rotates behind one alias; two processes have seeds, and one of them alone works on that campaign."""
    store, client = MemoryStore(), ScriptedClient(seconds=0.1)
    async with (
        scene_of(store, client, primary=CLOUD) as one,
        scene_of(store, client, primary=CLOUD) as other,
    ):

        async def wrapped_by(scene: Scene, name: str) -> bytes:
            await scene.engine.load_proven_resources()
            store.put(key_of(name), LOCAL.seal(OBJECT, key_of(name)))
            await scene.run(name)
            item = await store.get(key_of(name))
            assert item is not None
            [wrapped] = scene.engine.chains["secrets"].wanted(item.value)
            return wrapped.wrapped

        first = [await wrapped_by(one, "a"), await wrapped_by(other, "b")]
        since = await store.revision()
        campaigns = Campaigns(store, one.engine.keyspace)
        await campaigns.save(Stored(replace(CAMPAIGN, options=CampaignOptions(since=since))))
        later = [await wrapped_by(one, "c"), await wrapped_by(other, "d"), await wrapped_by(other, "e")]
        assert len({*first, *later}) == 4
        assert later[1] == later[2]


@without_waiting
async def test_a_forged_campaign_of_the_future_hides_no_later_rotation() -> None:
    store = MemoryStore()
    async with scene_of(store, ScriptedClient()) as scene:
        campaigns = Campaigns(store, scene.engine.keyspace)
        await campaigns.save(Stored(replace(CAMPAIGN, options=CampaignOptions(since=2**40))))
        assert await campaigns.kek_since() == 0
        store.put(b"/registry/x", b"")
        await campaigns.save(Stored(replace(CAMPAIGN, id="later", options=CampaignOptions(since=2))))
        assert await campaigns.kek_since() == 2
