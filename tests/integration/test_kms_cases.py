"""Keyring and writer beside plugins that fail, hang, lag and lie, over a real Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import BrokerSettings, KmsSettings
from kube_rewrap.worker.errors import KmsRefusedError, KmsTargetError, KmsUnavailableError, WorkerError
from kube_rewrap.worker.kms.circuit import FAILURES
from kube_rewrap.worker.kms.client import KmsClient
from kube_rewrap.worker.kms.guard import AT_ONCE, TRIES, GuardedPlugin, NotAskedError
from kube_rewrap.worker.kms.keyring import UNDECIDED_TRIES, Keyring
from kube_rewrap.worker.kms.pace import CallPace, ceiling, pace_name
from kube_rewrap.worker.kms.plugins import open_plugins
from kube_rewrap.worker.kms.writer import Writer
from kube_rewrap.worker.rate.local import LocalPace
from kube_rewrap.worker.rate.shared import open_pace
from kube_rewrap.worker.wrapped import Plugin, RefusedKey, WrappedKey, hash_of_key_id
from tests.servers.kms_plugin import Behaviour, KmsPlugin, start_plugin
from tests.servers.redis import RedisServer

pytestmark = pytest.mark.timeout(120)

SECONDS = 1.0
"""The timeout of a plugin that hangs."""

PATIENCE = 20.0
"""That of the others: a busy machine is no fault of theirs."""


@dataclass(frozen=True)
class Bench:
    """One process of rewrap's, beside one plugin."""

    plugin: Plugin
    guarded: GuardedPlugin
    keyring: Keyring
    writer: Writer

    async def sources(self, number: int) -> list[WrappedKey]:
        """Sources that lie in etcd: another process had them wrapped."""
        client = KmsClient(self.plugin)
        wrapped = [await client.encrypt(secret(n)) for n in range(number)]
        await client.close()
        return wrapped

    async def data_key(self, target: str = "kek-1") -> WrappedKey:
        [key] = await self.writer.data_keys(self.plugin, hash_of_key_id(target), 1)
        return key.wrapped


@asynccontextmanager
async def bench(process: KmsPlugin, pace: CallPace | None = None, seconds: float = PATIENCE) -> AsyncIterator[Bench]:
    plugin = Plugin("cloud", "v2", process.endpoint, timeout_seconds=seconds)
    async with open_plugins(KmsClient, lambda _: pace or LocalPace(0)) as plugins:
        keyring = Keyring(plugins, KmsSettings())
        yield Bench(plugin, plugins[plugin], keyring, Writer(plugins, keyring, KmsSettings()))


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    with start_plugin(str(tmp_path / "kms.sock")) as process:
        yield process


def does(plugin: KmsPlugin, **behaviour: Any) -> None:
    plugin.behaviour = replace(plugin.behaviour, **behaviour)


def failing(*sources: WrappedKey) -> dict[str, str]:
    return {hashlib.sha256(wrapped.wrapped).hexdigest(): "UNKNOWN" for wrapped in sources}


def secret(number: int) -> SecretBytes:
    return SecretBytes(bytes([number + 1]) * 32)


async def test_case_10_ten_thousand_objects_of_one_source_64_at_once_need_one_decrypt(plugin: KmsPlugin) -> None:
    async with bench(plugin) as one:
        [wrapped] = await one.sources(1)
        objects = [replace(wrapped) for _ in range(10_000)]
        found = await asyncio.gather(*(one.keyring.fetch(objects[n::64]) for n in range(64)))
        assert found == [{wrapped: secret(0)}] * 64
        assert plugin.calls["v2.Decrypt"] == 1


@pytest.mark.parametrize(("code", "tries"), [("UNAVAILABLE", TRIES), ("UNKNOWN", UNDECIDED_TRIES)])
async def test_case_10_a_decrypt_that_fails_is_called_a_few_times_for_all(
    plugin: KmsPlugin, code: str, tries: int
) -> None:
    """UNKNOWN takes six calls, not three: so many tell a damaged key from a plugin that throttles."""
    async with bench(plugin) as one:
        [wrapped] = await one.sources(1)
        does(plugin, fail_sources=dict.fromkeys(failing(wrapped), code))
        fetches = [one.keyring.fetch([replace(wrapped)] * 157) for _ in range(64)]
        await asyncio.gather(*fetches, return_exceptions=True)
        canaries = plugin.calls["v2.Encrypt"] - 1
        assert canaries == tries - TRIES + 1
        assert plugin.calls["v2.Decrypt"] - canaries == tries


async def test_case_12_wrong_bytes_once_are_asked_for_again(plugin: KmsPlugin) -> None:
    async with bench(plugin) as one:
        [bad, good] = await one.sources(2)
        await one.keyring.fetch([good])
        does(plugin, wrong_bytes=1)
        found = await one.keyring.fetch([bad, good])
        assert (found[bad] == secret(0), found[good]) == (False, secret(1))
        one.keyring.forget(bad)
        assert await one.keyring.fetch([bad, good]) == {bad: secret(0), good: secret(1)}
        assert plugin.calls["v2.Decrypt"] == 3


async def test_case_12_wrong_bytes_always_cost_two_calls_and_harm_no_other_source(plugin: KmsPlugin) -> None:
    async with bench(plugin) as one:
        [bad, good] = await one.sources(2)
        await one.keyring.fetch([good])
        does(plugin, wrong_bytes=-1)
        for _ in range(50):
            found = await one.keyring.fetch([bad, good])
            assert (found[bad] == secret(0), found[good]) == (False, secret(1))
            one.keyring.forget(bad)
        assert plugin.calls["v2.Decrypt"] == 1 + 2


async def test_case_13_one_bad_source_among_good_ones_is_refused_alone(plugin: KmsPlugin) -> None:
    async with bench(plugin) as one:
        sources = await one.sources(20)
        bad = sources[7]
        does(plugin, fail_sources=failing(bad))
        found = await one.keyring.fetch(sources)
        assert [wrapped for wrapped, outcome in found.items() if isinstance(outcome, RefusedKey)] == [bad]
        assert all(found[wrapped] == secret(n) for n, wrapped in enumerate(sources) if wrapped != bad)
        calls = plugin.calls["v2.Decrypt"]
        await one.keyring.fetch(sources)
        assert plugin.calls["v2.Decrypt"] == calls


async def test_case_13_all_unknown_refuses_nothing_and_ends_by_itself(plugin: KmsPlugin) -> None:
    async with bench(plugin) as one:
        sources = await one.sources(20)
        does(plugin, fail={"*": "UNKNOWN"})
        for _ in range(2):
            assert await errors_of([one.keyring.fetch(sources)]) == {KmsUnavailableError}
        does(plugin, fail={})
        found = await until_fetched(one, sources)
        assert found == {wrapped: secret(n) for n, wrapped in enumerate(sources)}


async def test_case_14_killed_hung_and_back_under_a_new_socket(plugin: KmsPlugin) -> None:
    """The keyring's part: nothing is refused, calls and time are bounded, and the plugin is found again."""
    async with bench(plugin, LocalPace(40), SECONDS) as one:
        sources = await one.sources(60)
        page = asyncio.create_task(one.keyring.fetch(sources))
        await until(lambda: plugin.calls["v2.Decrypt"] >= 2 * AT_ONCE)
        await asyncio.to_thread(plugin.stop)
        with pytest.raises(KmsUnavailableError):
            await page
        does(plugin, hang=("*",))
        plugin.start()
        asked, began = plugin.calls["v2.Decrypt"], now()
        assert await errors_of([one.keyring.fetch(sources) for _ in range(20)]) == {KmsUnavailableError}
        assert now() - began < 15 * SECONDS
        assert plugin.calls["v2.Decrypt"] - asked <= 3 * AT_ONCE
        await asyncio.to_thread(plugin.stop)
        does(plugin, hang=())
        plugin.start()
        found = await until_fetched(one, sources)
        assert found == {wrapped: secret(n) for n, wrapped in enumerate(sources)}
        assert "kms calls" not in {task.get_name() for task in asyncio.all_tasks()}


async def test_case_15_no_seed_until_status_and_encrypt_agree_twice(plugin: KmsPlugin) -> None:
    does(plugin, status_key_id="kek-0")
    async with bench(plugin) as one:
        with pytest.raises(KmsTargetError):
            await one.data_key("kek-1")
        with pytest.raises(KmsRefusedError, match="by Status and"):
            await one.data_key("kek-0")
        assert (plugin.calls["v2.Decrypt"], one.guarded.seeds) == (0, 0)
        does(plugin, status_key_id=None)
        before = Counter(plugin.calls)
        assert (await one.data_key("kek-1")).key_id == "kek-1"
        assert Counter(plugin.calls) - before == {"v2.Status": 2, "v2.Encrypt": 2, "v2.Decrypt": 1}


async def test_case_15_googles_first_status_after_a_start_is_not_believed(plugin: KmsPlugin) -> None:
    does(plugin, kind="google")
    async with bench(plugin) as one:
        assert (await one.data_key(plugin.behaviour.current)).key_id == plugin.behaviour.current


async def test_case_16_a_seed_that_does_not_come_back_is_never_used(plugin: KmsPlugin) -> None:
    does(plugin, wrong_fresh=True)
    async with bench(plugin) as one:
        with pytest.raises(KmsRefusedError, match="to other bytes"):
            await one.data_key()
        assert one.guarded.seeds == 0
        does(plugin, wrong_fresh=False)
        await one.data_key()
        assert plugin.calls["v2.Decrypt"] == 2


@pytest.mark.parametrize(
    "status",
    [
        pytest.param({"healthz": "err"}, id="healthz is not ok"),
        pytest.param({"v2_version": "v1beta1"}, id="wrong version"),
        pytest.param({"key_id": ""}, id="no key id"),
        pytest.param({"key_id": "k" * 1025}, id="key id of 1,025 bytes"),
    ],
)
async def test_case_17_no_seed_from_a_plugin_that_is_not_healthy(plugin: KmsPlugin, status: dict[str, str]) -> None:
    async with bench(plugin) as one:
        does(plugin, **status)
        with pytest.raises(KmsRefusedError):
            await one.data_key(status.get("key_id", "kek-1"))
        assert plugin.calls == {"v2.Status": 1}


async def test_case_19_of_two_workers_with_two_plugins_one_hands_back(tmp_path: Path) -> None:
    with (
        start_plugin(str(tmp_path / "a"), Behaviour(key_id="kek-a")) as first,
        start_plugin(str(tmp_path / "b"), Behaviour(key_id="kek-b")) as second,
    ):
        async with bench(first) as here, bench(second) as there:
            for _ in range(3):
                assert (await here.data_key("kek-a")).key_id == "kek-a"
                with pytest.raises(KmsTargetError):
                    await there.data_key("kek-a")
            assert there.guarded.seeds == second.calls["v2.Encrypt"] == 0
            does(second, key_id="kek-a")
            assert (await there.data_key("kek-a")).key_id == "kek-a"


async def test_case_25_nothing_of_secrets_key_ids_and_the_plugins_text_is_told(
    plugin: KmsPlugin, caplog: pytest.LogCaptureFixture
) -> None:
    """In no log line, error, traceback, repr or count."""
    key_id, told = "arn:aws:kms:eu-1:123456789012:key/\x1b[31mRED", list[str]()
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logs:
        annotations = {"canary.example.com": "ANNOTATION"}
        does(plugin, key_id=key_id, fail_text="\x1b[31mRED account 123456789012", annotations=annotations)
        async with bench(plugin) as one:
            [seed] = await one.writer.data_keys(one.plugin, hash_of_key_id(key_id), 1)
            [bad, wrong, good] = await one.sources(3)
            does(plugin, fail_sources=failing(bad))
            told += [repr(await one.keyring.fetch([bad, good])), repr(seed), repr(one.guarded.counts())]
            does(plugin, wrong_bytes=-1)
            await one.keyring.fetch([wrong])
            told += await tracebacks(one.data_key("kek-1"))
            does(plugin, status_key_id="other")
            told += await tracebacks(one.data_key("other"))
            does(plugin, fail={"*": "UNKNOWN"})
            for _ in range(FAILURES):
                one.keyring.forget(wrong)
                told += await tracebacks(one.keyring.fetch([wrong]))
            told += [repr(one.keyring), repr(one.writer), str(one.guarded), repr(one.guarded.counts())]
    told += [repr(line) for line in logs] + [record.getMessage() for record in caplog.records]
    everything = "\n".join(told)
    assert {"kms.seed_made", "kms.source_refused", "kms.circuit_opened"} <= {line["event"] for line in logs}
    secrets = [seed.secret, *(secret(number) for number in range(3))]
    for text in (
        *("arn:aws", "123456789012", "RED", "\x1b", "\\x1b", "ANNOTATION", "canary.example.com"),
        *(form for one_secret in secrets for form in forms(one_secret.reveal())),
        *(form for wrapped in (seed.wrapped, bad, wrong, good) for form in forms(wrapped.wrapped)),
    ):
        assert text not in everything, text


async def test_two_workers_share_the_ceiling_of_a_provider(plugin: KmsPlugin, redis: RedisServer) -> None:
    settings = BrokerSettings(url=SecretBytes(redis.url.encode()), timeout=10.0)
    stanza = Plugin("cloud", "v2", plugin.endpoint)
    name, rate = f"cluster:{pace_name(stanza)}", ceiling(stanza, KmsSettings(v2_rate=20.0))
    async with (
        open_pace(settings, name, rate, 8) as first,
        open_pace(settings, name, rate, 8) as second,
        bench(plugin, first) as here,
        bench(plugin, second) as there,
    ):
        sources, began = await here.sources(40), now()
        await asyncio.gather(here.keyring.fetch(sources), there.keyring.fetch(sources))
        assert plugin.calls["v2.Decrypt"] == 80
        assert now() - began >= 80 / 20 - 0.1 - 0.05


def forms(raw: bytes) -> list[str]:
    return [raw.hex(), repr(raw)[2:-1], raw.decode("latin-1")]


async def tracebacks(work: Awaitable[object]) -> list[str]:
    """What an error of this work tells, its causes and frames included."""
    try:
        await work
    except WorkerError as error:
        return [repr(error), str(error), *traceback.format_exception(error)]
    raise AssertionError("it did not fail")


async def errors_of(fetches: Iterable[Awaitable[object]]) -> set[type]:
    """Of their types; that the circuit is open, so that no call was made, is no type of its own here."""
    kinds = {type(outcome) for outcome in await asyncio.gather(*fetches, return_exceptions=True)}
    return {KmsUnavailableError if kind is NotAskedError else kind for kind in kinds}


async def until_fetched(one: Bench, sources: list[WrappedKey]) -> object:
    """As a batch does: again and again, until it is done."""
    for _ in range(60):
        with contextlib.suppress(KmsUnavailableError):
            return await one.keyring.fetch(sources)
        await asyncio.sleep(0.5)
    raise AssertionError("the plugin was not found again")


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():  # noqa: ASYNC110 - another process makes it so
            await asyncio.sleep(0.01)


def now() -> float:
    return asyncio.get_running_loop().time()
