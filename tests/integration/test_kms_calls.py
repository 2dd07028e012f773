"""Each single call to a plugin cut off, late, or answered under key ids in turns, through the whole engine."""

from __future__ import annotations

import asyncio
import base64
import os
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, KmsProvider, Provider, ResourceEntry
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.config.settings.schema import KmsSettings, PageSettings, Settings
from kube_rewrap.worker.engine import Engine
from kube_rewrap.worker.errors import KmsRefusedError, KmsTargetError, KmsUnavailableError
from kube_rewrap.worker.kms.client import KmsClient
from kube_rewrap.worker.kms.plugin_keys import PluginKeys
from kube_rewrap.worker.kms.plugins import open_plugins
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.records.report import BatchReport
from kube_rewrap.worker.verdict import Keep
from kube_rewrap.worker.wrapped import hash_of_key_id
from tests.fakes.store import MemoryStore
from tests.integration.test_kms_forged import KEY, OBJECT, V1, Scene, key_of, v2
from tests.servers.kms_plugin import Behaviour, KmsPlugin
from tests.unit.worker.providers.kms_values import gcm, v1_body

pytestmark = pytest.mark.timeout(180)

SECONDS = 1.0


class CutPlugin(KmsPlugin):
    """Closes its socket in the middle of one call, which gets no answer."""

    def __init__(self, socket: str) -> None:
        super().__init__(socket, Behaviour(old_key_ids=("kek-0",)))
        self.cut_at = 0
        """The number of the call, from 1; 0: none."""
        self.names: list[str] = []

    def _before(self, one: Behaviour, name: str, request: Any) -> None:
        self.names.append(name)
        if len(self.names) == self.cut_at:
            stopping = threading.Thread(target=self.stop)
            stopping.start()
            stopping.join()
        super()._before(one, name, request)


class FlappingPlugin(KmsPlugin):
    """Names another key id at each call of a method."""

    flapping = ""

    def _key_id(self, one: Behaviour, method: Any) -> str:
        if method == self.flapping:
            return ("kek-1", "kek-2")[self.calls[f"v2.{method}"] % 2]
        return super()._key_id(one, method)


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[CutPlugin]:
    plugin = CutPlugin(str(tmp_path / "kms.sock"))
    plugin.start()
    yield plugin
    plugin.stop()


@asynccontextmanager
async def engine_of(store: MemoryStore, plugin: KmsPlugin, primary: str) -> AsyncIterator[Scene]:
    """A process. `primary`: `v1`, `v2` or `key`; all three are readable."""
    known: dict[str, Provider] = {
        "v1": KmsProvider("v1", "old", plugin.endpoint, SECONDS, 1000),
        "v2": KmsProvider("v2", "new", plugin.endpoint, SECONDS, None),
        "key": KEY,
    }
    providers = (known.pop(primary), *known.values())
    configuration = EncryptionConfiguration((ResourceEntry(("secrets",), providers),))
    generation = Generation("sha256:0", configuration, "test").aimed({"new": hash_of_key_id("kek-1")})
    settings = replace(Settings(), page=PageSettings(objects=50), kms=KmsSettings(v1_rate=0, v2_rate=0))
    async with open_plugins(KmsClient, lambda _: LocalPace(0)) as plugins:
        keys = PluginKeys(plugins, settings.kms)
        yield Scene(store, Engine(store, settings, generation, LocalPace(0), keys), plugin)


def under_v1(name: str) -> bytes:
    data_key = os.urandom(32)
    return V1 + v1_body(base64.b64encode(data_key), gcm(data_key, OBJECT, key_of(name)))


def filled(under: str) -> MemoryStore:
    """Two objects: under v1, under v2 with another seed each, or under the local key."""
    store, local = MemoryStore(), Chain([KEY])
    for name in ("a", "b"):
        if under == "v1":
            store.put(key_of(name), under_v1(name))
        elif under == "v2":
            store.put(key_of(name), v2(name, os.urandom(32), b"kek-0"))
        else:
            store.put(key_of(name), local.seal(OBJECT, key_of(name)))
    return store


WAYS = {("v1", "key"): 3, ("v2", "key"): 2, ("key", "v1"): 5, ("key", "v2"): 5, ("v2", "v2"): 7}
"""The calls of a rewrap of two objects. v1: a handshake, one to open, two to seal. v2: one a seed, five for its own."""
CUTS = [
    pytest.param(way, number, marks=() if number in {1, calls} else pytest.mark.chaos, id=f"{way[0]}-{way[1]}-{number}")
    for way, calls in WAYS.items()
    for number in range(1, calls + 1)
]


@pytest.mark.parametrize("way", WAYS, ids="-".join)
async def test_the_calls_of_a_rewrap_are_these(plugin: CutPlugin, way: tuple[str, str]) -> None:
    before, after = way
    async with engine_of(filled(before), plugin, after) as scene:
        assert (await scene.run()).rewritten == 2
    assert len(plugin.names) == WAYS[way]


@pytest.mark.parametrize(("way", "number"), CUTS)
async def test_a_socket_that_closes_at_any_call_loses_and_quarantines_nothing(
    plugin: CutPlugin, way: tuple[str, str], number: int
) -> None:
    before, after = way
    store = filled(before)
    plugin.cut_at = number
    async with engine_of(store, plugin, after) as scene:
        values = await scene.values()
        with pytest.raises(KmsUnavailableError):
            await scene.run()
        assert await scene.values() == values
        await asyncio.to_thread(plugin.stop)
        plugin.start()
        report = BatchReport()
        for _ in range(60):  # the circuit may be open for ten seconds
            with suppress(KmsUnavailableError):
                report = await scene.run()
                break
            await asyncio.sleep(0.5)
        assert (report.rewritten, report.quarantined) == (2, 0)
        assert {item.version for name in "ab" if (item := await store.get(key_of(name)))} == {2}
    async with engine_of(store, plugin, after) as later:
        found = [await later.engine.examine(key_of(name), "secrets") for name in "ab"]
        assert all(one is not None and isinstance(one.verdict, Keep) for one in found)


@pytest.mark.parametrize("method", ["Status", "Encrypt", "Decrypt"])
async def test_late_answers_are_not_taken(plugin: CutPlugin, method: str) -> None:
    async with engine_of(filled("key"), plugin, "v2") as scene:
        values = await scene.values()
        scene.does(delay={f"v2.{method}": SECONDS + 0.5})
        with pytest.raises(KmsUnavailableError, match="did not answer"):
            await scene.run()
        assert await scene.values() == values
        scene.does(delay={})
        for _ in range(60):
            with suppress(KmsUnavailableError):
                assert (await scene.run()).rewritten == 2
                return
            await asyncio.sleep(0.5)
    raise AssertionError("the plugin was not found again")


@pytest.mark.parametrize("method", ["Status", "Encrypt"])
async def test_key_ids_in_turns_at_each_call_have_nothing_written(tmp_path: Path, method: str) -> None:
    plugin = FlappingPlugin(str(tmp_path / "kms.sock"))
    plugin.flapping = method
    plugin.start()
    try:
        async with engine_of(filled("key"), plugin, "v2") as scene:
            values = await scene.values()
            for _ in range(3):
                # Status: the second answer names the target, and Encrypt too, so that the seed is sound.
                with suppress(KmsRefusedError, KmsTargetError):
                    await scene.run()
            after = await scene.values()
            if method == "Encrypt":
                assert after == values
            assert all(b"kek-2" not in value for value in after.values())
    finally:
        plugin.stop()


async def test_key_ids_in_turns_between_processes_never_mix(plugin: CutPlugin) -> None:
    """A, B, A, B: aimed at A, a process writes under A alone, and hands back while its plugin names B."""
    store = filled("key")
    for turn in range(4):
        store.put(key_of("a"), Chain([KEY]).seal(OBJECT, key_of("a")))
        async with engine_of(store, plugin, "v2") as scene:
            before = await scene.values()
            scene.does(key_id=f"kek-{1 + turn % 2}", old_key_ids=("kek-1", "kek-2"))
            if turn % 2:
                with pytest.raises(KmsTargetError):
                    await scene.run()
                assert scene.engine.is_refuted
                assert await scene.values() == before
            else:
                assert (await scene.run()).rewritten == (1 if turn else 2)
            assert not any(b"kek-2" in value for value in (await scene.values()).values())
