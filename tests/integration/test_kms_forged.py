"""Forged KMS values by an attacker who writes to etcd, and a plugin that lies, through the whole engine."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from kube_rewrap.config.encryption.configuration import (
    EncryptionConfiguration,
    Key,
    KeyedProvider,
    KmsProvider,
    ProviderType,
    ResourceEntry,
)
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import KmsSettings, PageSettings, Settings
from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.errors import KmsRefusedError, KmsTargetError, KmsUnavailableError, QuarantineGrewError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.kms.client import KmsClient
from kube_rewrap.worker.kms.plugin_keys import PluginKeys
from kube_rewrap.worker.kms.plugins import open_plugins
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.brake import Brake
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.batch import BatchSpec, Checkpoint
from kube_rewrap.worker.records.budget import has_budget
from kube_rewrap.worker.records.campaign import NO_QUARANTINE_LIMIT, QuarantineLimit
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.records.table import Stored
from kube_rewrap.worker.verdict import Quarantine, Reason
from kube_rewrap.worker.wrapped import hash_of_key_id
from tests.fakes.store import MemoryStore
from tests.servers.kms_plugin import Behaviour, KmsPlugin, start_plugin
from tests.unit.worker.providers.kms_values import cbc, gcm, type_1, v1_body, v2_body

pytestmark = pytest.mark.timeout(120)

OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}'
SECRETS = KeyRange.of_prefix(b"/registry/secrets/")
KEY = KeyedProvider(ProviderType.AESGCM, (Key("key", SecretBytes(b"k" * 32)),))
V2, V1 = b"k8s:enc:kms:v2:new:", b"k8s:enc:kms:v1:old:"


@dataclass
class Scene:
    """A registry in memory, and an engine beside a real plugin."""

    store: MemoryStore
    engine: Engine
    plugin: KmsPlugin

    def does(self, **behaviour: Any) -> None:
        self.plugin.behaviour = replace(self.plugin.behaviour, **behaviour)

    def put(self, name: str, value: bytes) -> bytes:
        self.store.put(key_of(name), value)
        return value

    async def run(self, quarantine_limit: QuarantineLimit = NO_QUARANTINE_LIMIT) -> BatchReport:
        spec = BatchSpec(
            campaign=f"c{await self.store.revision()}",
            number=0,
            resource="secrets",
            range=SECRETS,
            generation=self.engine.generation.hash,
        )
        await Checkpoints(self.store, self.engine.keyspace).save(Stored(Checkpoint(spec=spec)))
        await self.engine.ledger.first_sight([key for key in self.engine.chains["secrets"].keys if has_budget(key)])
        return await self.engine.run(spec, None, Brake(), quarantine_limit=quarantine_limit)

    async def values(self) -> dict[bytes, bytes]:
        return {item.key: item.value for item in (await self.store.page(SECRETS, 1_000)).items}

    async def reasons(self) -> set[tuple[Reason, str]]:
        """Why objects are left alone, with the details."""
        examined = [await self.engine.examine(key, "secrets") for key in await self.values()]
        verdicts = [one.verdict for one in examined if one is not None]
        return {(one.reason, one.detail) for one in verdicts if isinstance(one, Quarantine)}


def key_of(name: str) -> bytes:
    return f"/registry/secrets/default/{name}".encode()


def v2(name: str, seed: bytes, key_id: bytes = b"kek-1", **fields: Any) -> bytes:
    return V2 + v2_body(type_1(seed, OBJECT, key_of(name)), key_id, base64.b64encode(seed), **fields)


@asynccontextmanager
async def scene_of(plugin: KmsPlugin, *, kms_first: bool) -> AsyncIterator[Scene]:
    new = KmsProvider("v2", "new", plugin.endpoint, 1.0, None)
    old = KmsProvider("v1", "old", plugin.endpoint, 1.0, 1000)
    providers = (new, old, KEY) if kms_first else (KEY, new, old)
    configuration = EncryptionConfiguration((ResourceEntry(("secrets",), providers),))
    generation = Generation("sha256:0", configuration, "test").aimed({"new": hash_of_key_id("kek-1")})
    settings = replace(Settings(), page=PageSettings(objects=50), kms=KmsSettings(v1_rate=0, v2_rate=0))
    store = MemoryStore()
    async with open_plugins(KmsClient, lambda _: LocalPace(0)) as plugins:
        keys = PluginKeys(plugins, settings.kms)
        yield Scene(store, Engine(store, settings, generation, LocalPace(0), keys), plugin)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    with start_plugin(str(tmp_path / "kms.sock"), Behaviour(old_key_ids=("kek-0",))) as process:
        yield process


@pytest.mark.parametrize(
    "code", ["UNKNOWN", "FAILED_PRECONDITION", "PERMISSION_DENIED", "NOT_FOUND", "UNAUTHENTICATED"]
)
async def test_a_forged_source_that_the_plugin_refuses_by_any_code_costs_its_object_only(
    plugin: KmsPlugin, code: str
) -> None:
    async with scene_of(plugin, kms_first=False) as scene:
        forged = [os.urandom(32) for _ in range(12)]
        for number, seed in enumerate(forged):
            scene.put(f"forged-{number:02}", v2(f"forged-{number:02}", seed))
        for number in range(20):
            scene.put(f"sound-{number:02}", v2(f"sound-{number:02}", bytes([number]) * 32))
        scene.does(fail_sources={hashlib.sha256(base64.b64encode(one)).hexdigest(): code for one in forged})
        report = await scene.run()
        assert (report.rewritten, report.quarantined) == (20, 12)


async def test_case_3_swapped_relabelled_and_re_typed_values_are_left_alone_or_prove_themselves(
    plugin: KmsPlugin,
) -> None:
    async with scene_of(plugin, kms_first=True) as scene:
        seed = os.urandom(32)
        source = base64.b64encode(seed)
        values = {
            "swapped-a": v2("swapped-b", seed),
            "swapped-b": v2("swapped-a", seed),
            "type-0": V2 + v2_body(gcm(seed, OBJECT, key_of("type-0")), b"kek-1", source, kind=0),
            "as-type-0": V2 + v2_body(type_1(seed, OBJECT, key_of("as-type-0")), b"kek-1", source, kind=0),
            "as-v1": V1 + v1_body(source, type_1(seed, OBJECT, key_of("as-v1"))),
            "v1-as-v2": V2 + v1_body(source, gcm(seed, OBJECT, key_of("v1-as-v2"))),
            "relabelled": v2("relabelled", seed, b"kek-9"),
            "sound": v2("sound", seed),
        }
        for name, value in values.items():
            scene.put(name, value)
        report = await scene.run()
        after = await scene.values()
        kept = {name for name, value in values.items() if after[key_of(name)] == value}
        # A plugin that does not look at the key id opens the relabelled one: it is authentic, and stale.
        assert kept == {"swapped-a", "swapped-b", "as-type-0", "as-v1", "v1-as-v2", "sound"}
        assert (report.rewritten, report.current, report.quarantined) == (2, 1, 5)
        assert (await scene.run()).rewritten == 0


@pytest.mark.parametrize("inner", [cbc, lambda key, text: gcm(key, text, b"elsewhere")], ids=["cbc", "gcm"])
async def test_law_13_each_way_in_which_a_v1_value_does_not_open_looks_the_same(plugin: KmsPlugin, inner: Any) -> None:
    """Bad padding, good padding over other content, a wrong key: one reason, one detail, and each is a try."""
    async with scene_of(plugin, kms_first=False) as scene:
        data_key = os.urandom(32)
        wrapped = base64.b64encode(data_key)
        sealed = bytearray(inner(data_key, OBJECT))
        for number in range(64):
            sealed[-17] = number
            scene.put(f"padding-{number:02}", V1 + v1_body(wrapped, bytes(sealed)))
        scene.put("garbage", V1 + v1_body(wrapped, cbc(data_key, b"no object")))
        scene.put("other-key", V1 + v1_body(base64.b64encode(os.urandom(32)), cbc(data_key, OBJECT)))
        scene.put("sound", V1 + v1_body(wrapped, gcm(data_key, OBJECT, key_of("sound"))))
        [(reason, _)] = await scene.reasons()
        assert reason is Reason.NOT_RECOGNISED
        before = await scene.values()
        with pytest.raises(QuarantineGrewError):
            await scene.run(QuarantineLimit(since=0, most=20))
        assert await scene.values() == before


@pytest.mark.parametrize("code", ["INVALID_ARGUMENT", "UNKNOWN"])
async def test_law_13_sources_that_the_plugin_refuses_are_tries(plugin: KmsPlugin, code: str) -> None:
    """Each says whether its padding is valid, where the KMS unwraps by RSA with PKCS#1 v1.5."""
    async with scene_of(plugin, kms_first=False) as scene:
        guesses = [os.urandom(32) for _ in range(21)]
        for number, seed in enumerate(guesses[:20]):
            scene.put(f"guess-{number:02}", v2(f"guess-{number:02}", seed))
        scene.put("sound", v2("sound", bytes(32)))
        scene.does(fail_sources={hashlib.sha256(base64.b64encode(one)).hexdigest(): code for one in guesses})
        assert (await scene.run(QuarantineLimit(since=0, most=20))).quarantined == 20
        scene.put("guess-20", v2("guess-20", guesses[20]))
        scene.put("late", v2("late", bytes(32)))
        before = await scene.values()
        with pytest.raises(QuarantineGrewError):
            await scene.run(QuarantineLimit(since=0, most=20))
        assert await scene.values() == before
        assert (await scene.run()).rewritten == 1  # an operator asked


async def test_law_13_a_refused_source_is_one_try_whatever_the_number_of_its_objects(plugin: KmsPlugin) -> None:
    """A KEK that only the plugin of kube-apiserver has must not look like an attack."""
    async with scene_of(plugin, kms_first=False) as scene:
        seed = os.urandom(32)
        for number in range(60):
            scene.put(f"object-{number:02}", v2(f"object-{number:02}", seed))
        scene.does(fail_sources={hashlib.sha256(base64.b64encode(seed)).hexdigest(): "UNKNOWN"})
        for _ in range(3):
            report = await scene.run(QuarantineLimit(since=0, most=1))
            assert (report.quarantined, report.fresh) == (60, 0)
        other = os.urandom(32)
        scene.put("older", v2("older", other))
        scene.does(fail_sources={hashlib.sha256(base64.b64encode(one)).hexdigest(): "UNKNOWN" for one in (seed, other)})
        report = await scene.run(QuarantineLimit(since=await scene.store.revision(), most=1))
        assert report.quarantined == 61  # none is newer than the last campaign
        with pytest.raises(QuarantineGrewError):
            await scene.run(QuarantineLimit(since=0, most=1))


LARGE = b"\x0a\x80\x80\x08" + bytes(2**17)
LIES: dict[str, tuple[dict[str, Any], type[Exception]]] = {
    "fresh seeds come back as other bytes": ({"wrong_fresh": True}, KmsRefusedError),
    "every Decrypt gives other bytes": ({"wrong_bytes": -1}, KmsRefusedError),
    "Encrypt names another key id": ({"encrypt_key_id": "kek-2"}, KmsRefusedError),
    "Status names another key id": ({"status_key_id": "kek-2"}, KmsTargetError),
    "not healthy": ({"healthz": "degraded"}, KmsRefusedError),
    "never answers": ({"hang": ("*",)}, KmsUnavailableError),
    "Encrypt never answers": ({"hang": ("v2.Encrypt",)}, KmsUnavailableError),
    "Encrypt of 128 KiB": ({"raw": {"v2.Encrypt": LARGE.hex()}}, KmsUnavailableError),
    "Encrypt that does not decode": ({"raw": {"v2.Encrypt": "ffff"}}, KmsUnavailableError),
    "Encrypt with a key id that is not UTF-8": ({"raw": {"v2.Encrypt": "0a01611202ff61"}}, KmsUnavailableError),
    "Encrypt of nothing": ({"raw": {"v2.Encrypt": ""}}, KmsRefusedError),
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_lying_plugin_has_nothing_written_and_nothing_quarantined(plugin: KmsPlugin, lie: str) -> None:
    behaviour, expected = LIES[lie]
    async with scene_of(plugin, kms_first=True) as scene:
        local = Chain([KEY])
        for number in range(10):
            scene.put(f"{number}", local.seal(OBJECT, key_of(f"{number}")))
        before = await scene.values()
        scene.does(**behaviour)
        async with asyncio.timeout(20):
            with pytest.raises(expected):
                await scene.run()
        assert await scene.values() == before
