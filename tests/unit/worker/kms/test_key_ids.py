"""What the plugins of a generation name, and how long it takes to find out."""

from __future__ import annotations

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
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, KmsUndecidedError
from kube_rewrap.worker.kms.guard import TRIES
from kube_rewrap.worker.kms.key_ids import read_key_ids, why_away
from kube_rewrap.worker.kms.plugins import open_plugins
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.wrapped import SourceType, WrappedKey, hash_of_key_id, plugin_of
from tests.unit.clock import without_waiting
from tests.unit.worker.kms.scripted import CALL_SECONDS, Call, Script, ScriptedClient, always, now

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


DENIED, UNDECIDED = KmsRefusedError("no permission"), KmsUndecidedError("failed")
READER = KmsProvider("v2", "reads", "unix:///k", 3.0, None)
WRITER = KmsProvider("v2", "writes", "unix:///k", 3.0, None)
LOCAL = KeyedProvider(ProviderType.AESGCM, (Key("key", SecretBytes(b"k" * 32)),))


def wrapped(provider: KmsProvider, content: bytes) -> WrappedKey:
    return WrappedKey(plugin_of(provider), content, "kek-1", (), SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED)


def fails(errors: dict[str, Exception], *, content: bytes = b"") -> Script:
    """These methods fail; of Decrypt, with this content only, if one is given."""

    def answer(call: Call) -> Exception | None:
        is_other = call.wrapped is not None and content not in {b"", call.wrapped.wrapped}
        return None if is_other else errors.get(call.method)

    return answer


@pytest.mark.parametrize(
    ("provider", "errors", "samples", "because"),
    [
        pytest.param(WRITER, {"decrypt": DENIED}, [], "no permission", id="a writer that may not decrypt"),
        pytest.param(WRITER, {"encrypt": UNDECIDED}, [], "failed", id="a writer whose encryption fails"),
        pytest.param(READER, {"decrypt": DENIED}, [], "", id="of a reader, no object needs a key"),
        pytest.param(READER, {"decrypt": DENIED}, [b"wrapped:a"], "no permission", id="a reader that may not decrypt"),
        pytest.param(READER, {"encrypt": UNDECIDED, "decrypt": UNDECIDED}, [b"wrapped:a"], "failed", id="all fails"),
        pytest.param(READER, {"encrypt": DENIED}, [b"wrapped:a"], "", id="a reader that may not encrypt, and reads"),
    ],
)
@without_waiting
async def test_a_plugin_with_a_healthy_status_is_tried_by_real_calls(
    provider: KmsProvider, errors: dict[str, Exception], samples: list[bytes], because: str
) -> None:
    providers = (WRITER,) if provider is WRITER else (LOCAL, READER)
    generation = Generation("sha256:0", EncryptionConfiguration((ResourceEntry(("secrets",), providers),)), "test")
    client = ScriptedClient(plugin_of(provider), script=fails(errors))
    async with open_plugins(lambda _: client, lambda _: LocalPace(0)) as plugins:
        assert await why_away(plugins, generation, [wrapped(provider, one) for one in samples]) == because


@without_waiting
async def test_keys_that_a_plugin_does_not_unwrap_are_to_blame_if_it_unwraps_its_own() -> None:
    generation = Generation("sha256:0", EncryptionConfiguration((ResourceEntry(("s",), (LOCAL, READER)),)), "test")
    for error in (DENIED, UNDECIDED, KmsUnavailableError("overloaded")):
        client = ScriptedClient(plugin_of(READER), script=fails({"decrypt": error}, content=b"forged"))
        async with open_plugins(lambda _: client, lambda _: LocalPace(0)) as plugins:  # noqa: B023 - used in this round
            assert await why_away(plugins, generation, [wrapped(READER, b"forged")]) == ""
