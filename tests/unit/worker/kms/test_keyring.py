"""One Decrypt for each wrapped key, whatever number of tasks and objects need it; and what a cancellation leaves."""

from __future__ import annotations

import asyncio

import pytest

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.errors import KmsUnavailableError, KmsUndecidedError
from kube_rewrap.worker.kms.keyring import WAVERED_SECONDS
from kube_rewrap.worker.wrapped import Plugin, RefusedKey
from tests.unit.clock import without_waiting
from tests.unit.worker.kms.scripted import (
    CALL_SECONDS,
    PLUGIN,
    V1,
    Call,
    ScriptedClient,
    always,
    bench,
    failing,
    source,
)


@without_waiting
async def test_each_key_is_asked_for_once_and_then_known() -> None:
    wanted = [source(f"{n % 20}") for n in range(500)]
    async with bench() as one:
        found = await one.keyring.fetch(wanted)
        assert found == {source(f"{n}"): SecretBytes(f"{n}".encode()) for n in range(20)}
        await one.keyring.fetch(wanted)
        assert one.client.number_of("decrypt") == 20
        assert one.plugins.counts()[0].sources == 20


@without_waiting
async def test_a_fetch_of_more_keys_than_the_cache_holds_returns_all_of_them() -> None:
    async with bench(settings=KmsSettings(cache_entries=2)) as one:
        assert len(await one.keyring.fetch([source(f"{n}") for n in range(50)])) == 50


@without_waiting
async def test_a_cancelled_waiter_does_not_cancel_the_call_for_the_others() -> None:
    async with bench() as one:
        first, second, third = (asyncio.create_task(one.keyring.fetch([source("a")])) for _ in range(3))
        await asyncio.sleep(CALL_SECONDS / 2)
        second.cancel()
        assert await first == await third == {source("a"): SecretBytes(b"a")}
        assert one.client.number_of("decrypt") == 1


@without_waiting
async def test_another_waiter_makes_the_call_when_the_caller_is_cancelled() -> None:
    async with bench() as one:
        first, second, third = (asyncio.create_task(one.keyring.fetch([source("a")])) for _ in range(3))
        await asyncio.sleep(CALL_SECONDS / 2)
        first.cancel()
        assert await second == await third == {source("a"): SecretBytes(b"a")}
        assert one.client.number_of("decrypt") == 2


@without_waiting
async def test_a_failed_fetch_leaves_the_keys_that_it_was_asking_for_to_the_others() -> None:
    def script(call: Call) -> Exception | None:
        return KmsUnavailableError("away") if call.wrapped == source("bad") else None

    async with bench(ScriptedClient(script=script)) as one:
        failed = asyncio.create_task(one.keyring.fetch([source("bad"), source("good")]))
        other = asyncio.create_task(one.keyring.fetch([source("good")]))
        with pytest.raises(KmsUnavailableError):
            await failed
        assert await other == {source("good"): SecretBytes(b"good")}


@without_waiting
async def test_nothing_is_left_after_all_tasks_are_cancelled_at_any_moment() -> None:
    """As a worker's child does between two messages."""
    async with bench(ScriptedClient(script=failing(source("7")))) as one:
        for moment in range(60):
            tasks = [asyncio.create_task(one.keyring.fetch([source(f"{n}") for n in range(20)])) for _ in range(5)]
            await asyncio.sleep(moment * CALL_SECONDS / 5)
            for task in asyncio.all_tasks() - {asyncio.current_task()}:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert one.client.at_once == 0
        found = await one.keyring.fetch([source(f"{n}") for n in range(20)])
        assert [type(found[source(f"{n}")]) for n in (6, 7, 8)] == [SecretBytes, RefusedKey, SecretBytes]
        assert len(found) == 20


@without_waiting
async def test_a_failure_for_one_is_a_failure_for_all_who_wait_for_that_call() -> None:
    async with bench(ScriptedClient(script=always(KmsUnavailableError("away")))) as one:
        outcomes = await asyncio.gather(*(one.keyring.fetch([source("a")]) for _ in range(64)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {KmsUnavailableError}
        assert one.client.number_of("decrypt") == 2  # the canary fails before the third


@without_waiting
async def test_a_key_that_opened_an_object_is_not_asked_for_again_for_one_that_it_does_not_open() -> None:
    async with bench() as one:
        known = await one.keyring.fetch([source("a")])
        one.keyring.prove(source("a"))
        one.client.script = failing(source("a"))
        one.keyring.forget(source("a"))
        assert await one.keyring.fetch([source("a")]) == known
        assert one.client.decrypts_of(source("a")) == 1


@without_waiting
@pytest.mark.parametrize("error", [KmsUnavailableError("away"), KmsUndecidedError("unknown")], ids=["away", "unknown"])
async def test_a_key_that_is_asked_for_again_in_vain_stays_what_it_was(error: Exception) -> None:
    """It may be that of sound objects that come later."""
    async with bench() as one:
        known = await one.keyring.fetch([source("a")])
        one.keyring.forget(source("a"))
        one.client.script = always(error)
        with pytest.raises(KmsUnavailableError):
            await one.keyring.fetch([source("a")])
        assert await one.keyring.fetch([source("a")]) == known
        one.keyring.forget(source("a"))
        one.client.script = failing(source("a"))
        await asyncio.sleep(2 * WAVERED_SECONDS)
        assert await one.keyring.fetch([source("a")]) == known


@without_waiting
async def test_a_key_that_opens_nothing_is_asked_for_once_more_whatever_the_number_of_objects() -> None:
    async with bench() as one:
        one.client.unwraps = lambda _: b"wrong"
        for _ in range(1000):
            await one.keyring.fetch([source("a")])
            one.keyring.forget(source("a"))
            assert await one.keyring.fetch([source("a")]) == {source("a"): SecretBytes(b"wrong")}
        assert one.client.decrypts_of(source("a")) == 2


@pytest.mark.parametrize("plugin", [PLUGIN, V1], ids=["v2", "v1"])
def test_ten_thousand_sources_take_bounded_memory(plugin: Plugin) -> None:
    """In entries and in bytes, page by page."""
    number, page = 10_000, 500
    settings = KmsSettings(cache_entries=1_000, cache_bytes=2**20)
    sources = [source(f"{n}".ljust(400, "."), plugin=plugin) for n in range(number)]
    client = ScriptedClient(plugin=plugin, seconds=0.0)

    async def run() -> None:
        async with bench(client, settings) as one:
            for start in range(0, number, page):
                assert len(await one.keyring.fetch(sources[start : start + page])) == page
                assert len(one.keyring._cache) <= settings.cache_entries
                assert one.keyring._cache.size <= settings.cache_bytes
            assert client.made["decrypt"] == number
            assert one.keyring._flights == {}
            assert len(one.keyring._suspects) == len(one.keyring._canaries) == 0

    asyncio.run(run(), debug=False)
