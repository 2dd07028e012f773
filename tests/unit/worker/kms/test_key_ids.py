"""What the plugins of a generation name, and how long it takes to find out."""

from __future__ import annotations

from kube_rewrap.config.encryption.configuration import EncryptionConfiguration, KmsProvider, ResourceEntry
from kube_rewrap.config.encryption.generation import Generation
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError
from kube_rewrap.worker.kms.guard import TRIES
from kube_rewrap.worker.kms.key_ids import read_key_ids, why_away
from kube_rewrap.worker.kms.plugins import open_plugins
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.wrapped import hash_of_key_id
from tests.unit.clock import without_waiting
from tests.unit.worker.kms.scripted import CALL_SECONDS, ScriptedClient, always, now

NAMES = tuple(f"kms-{number}" for number in range(10))
GENERATION = Generation(
    "sha256:0",
    EncryptionConfiguration(
        tuple(ResourceEntry((f"r{name}",), (KmsProvider("v2", name, "unix:///k", 3.0, None),)) for name in NAMES)
    ),
    "test",
)


@without_waiting
async def test_ten_plugins_that_hang_cost_the_time_of_one() -> None:
    client = ScriptedClient(script=always(KmsUnavailableError("did not answer")))
    async with open_plugins(lambda _: client, lambda _: LocalPace(0)) as plugins:
        began = now()
        named = await read_key_ids(plugins, GENERATION)
        assert {name: type(answer) for name, answer in named.items()} == dict.fromkeys(NAMES, KmsUnavailableError)
        assert now() - began <= TRIES * (CALL_SECONDS + 1.5)


@without_waiting
async def test_a_plugin_that_names_another_key_id_at_each_call_names_none() -> None:
    clients = {name: ScriptedClient() for name in NAMES}
    clients["kms-3"].named = str
    async with open_plugins(lambda plugin: clients[plugin.name], lambda _: LocalPace(0)) as plugins:
        named = dict(await read_key_ids(plugins, GENERATION))
        assert isinstance(named.pop("kms-3"), KmsRefusedError)
        assert set(named.values()) == {hash_of_key_id("kek-1")}


@without_waiting
async def test_plugins_that_do_not_serve_are_named_with_those_of_v1_and_of_readers() -> None:
    readers = (KmsProvider("v2", "writes", "unix:///k", 3.0, None), KmsProvider("v1", "reads", "unix:///k", 3.0, 1000))
    generation = Generation("sha256:0", EncryptionConfiguration((ResourceEntry(("secrets",), readers),)), "test")
    clients = {
        "writes": ScriptedClient(),
        "reads": ScriptedClient(script=always(KmsUnavailableError("the plugin of 'reads' is away"))),
    }
    async with open_plugins(lambda plugin: clients[plugin.name], lambda _: LocalPace(0)) as plugins:
        assert await why_away(plugins, generation) == "the plugin of 'reads' is away"
