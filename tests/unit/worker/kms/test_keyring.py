"""One Decrypt for each wrapped key; what becomes of one that fails; and what a cancellation leaves."""

from __future__ import annotations

import asyncio
from functools import partial

import pytest

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, KmsUndecidedError
from kube_rewrap.worker.kms.cache import REFUSED_SECONDS
from kube_rewrap.worker.kms.counts import Method
from kube_rewrap.worker.wrapped import Refused, WrappedKey
from tests.unit.clock import without_waiting
from tests.unit.worker.kms.scripted import CALL_SECONDS, PLUGIN, Call, Script, ScriptedClient, always, bench, source


def failing(*bad: WrappedKey) -> Script:
    return lambda call: KmsUndecidedError("unknown") if call.wrapped in bad else None


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
        assert [type(found[source(f"{n}")]) for n in (6, 7, 8)] == [SecretBytes, Refused, SecretBytes]
        assert len(found) == 20


@without_waiting
async def test_a_failure_for_one_is_a_failure_for_all_who_wait_for_that_call() -> None:
    async with bench(ScriptedClient(script=always(KmsUnavailableError("away")))) as one:
        outcomes = await asyncio.gather(*(one.keyring.fetch([source("a")]) for _ in range(64)), return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} == {KmsUnavailableError}
        assert one.client.number_of("decrypt") == 3


@without_waiting
async def test_a_call_that_fails_once_is_made_again() -> None:
    def script(call: Call) -> Exception | None:
        return KmsUnavailableError("too many calls") if call.number == 0 else None

    async with bench(ScriptedClient(script=script)) as one:
        assert await one.keyring.fetch([source("a")]) == {source("a"): SecretBytes(b"a")}


@without_waiting
@pytest.mark.parametrize("moment", [0, 1, 2])
async def test_a_key_is_refused_only_if_no_try_of_it_met_an_outage(moment: int) -> None:
    def script(call: Call) -> Exception | None:
        if call.wrapped != source("bad"):
            return None
        tries.append(call)
        return KmsUnavailableError("away") if len(tries) == moment + 1 else KmsUndecidedError("unknown")

    tries: list[Call] = []
    async with bench(ScriptedClient(script=script)) as one:
        with pytest.raises(KmsUnavailableError):
            await one.keyring.fetch([source("bad")])
        assert len(tries) == 3


@without_waiting
async def test_a_plugin_that_can_not_serve_is_no_fault_of_a_key() -> None:
    async with bench(ScriptedClient(script=always(KmsRefusedError("no permission")))) as one:
        with pytest.raises(KmsRefusedError):
            await one.keyring.fetch([source("a")])


@without_waiting
async def test_keys_that_the_plugin_refuses_by_a_code_of_its_own_stop_no_other_key() -> None:
    """Forged key ids: as many as would open the circuit, if they counted."""
    forged = [source(f"{n}", f"forged-{n}") for n in range(12)]

    def refused(call: Call) -> Exception | None:
        return KmsRefusedError("another key id") if call.wrapped in forged else None

    async with bench(ScriptedClient(script=refused)) as one:
        found = await one.keyring.fetch([*forged, source("good")])
        assert {wrapped for wrapped in found if isinstance(found[wrapped], Refused)} == set(forged)
        assert found[source("good")] == SecretBytes(b"good")
        assert not one.plugins[PLUGIN].is_open(Method.DECRYPT)


@without_waiting
async def test_an_undecided_failure_is_tried_again() -> None:
    def script(call: Call) -> Exception | None:
        return KmsUndecidedError("unknown") if call.number == 0 else None

    async with bench(ScriptedClient(script=script)) as one:
        assert await one.keyring.fetch([source("a")]) == {source("a"): SecretBytes(b"a")}
        assert one.client.decrypts_of(source("a")) == 2


@without_waiting
async def test_a_refused_key_is_not_asked_for_again_for_a_while() -> None:
    async with bench(ScriptedClient(script=failing(source("bad")))) as one:
        found = await one.keyring.fetch([source("bad")])
        assert found == {source("bad"): Refused("KMS v2 provider 'cloud' does not unwrap it, and unwraps other keys")}
        assert one.plugins.counts()[0].refused == 1
        assert one.client.decrypts_of(source("bad")) == 3
        await asyncio.sleep(REFUSED_SECONDS - 5)
        await asyncio.gather(*(one.keyring.fetch([source("bad")]) for _ in range(100)))
        assert one.client.decrypts_of(source("bad")) == 3
        await asyncio.sleep(10)
        one.client.script = failing()
        assert await one.keyring.fetch([source("bad")]) == {source("bad"): SecretBytes(b"bad")}


@without_waiting
async def test_a_plugin_that_recovers_while_a_key_is_tried_refuses_none() -> None:
    """An outage of any length, of a plugin that says UNKNOWN for all that it can't do."""
    for outage in range(1, 9):
        async with bench() as one:
            one.client.script = partial(while_an_outage_lasts, one.client, outage)
            try:
                found = await one.keyring.fetch([source("a")])
            except KmsUnavailableError:
                continue
            assert found == {source("a"): SecretBytes(b"a")}, outage


def while_an_outage_lasts(client: ScriptedClient, calls: int, _: Call) -> Exception | None:
    return KmsUndecidedError("unknown") if len(client.calls) <= calls else None


@without_waiting
async def test_a_source_that_opened_before_must_open_again_before_another_is_refused() -> None:
    async with bench() as one:
        await one.keyring.fetch([source("good")])
        one.client.script = failing(source("good"), source("bad"))
        with pytest.raises(KmsUnavailableError):
            await one.keyring.fetch([source("bad")])
        one.client.script = failing(source("bad"))
        assert isinstance((await one.keyring.fetch([source("bad")]))[source("bad")], Refused)


@without_waiting
async def test_a_known_key_that_opens_to_other_bytes_is_the_plugins_fault() -> None:
    async with bench(ScriptedClient(script=failing(source("bad")))) as one:
        one.client.unwraps = lambda _: b"other"
        with pytest.raises(KmsUnavailableError, match="to other bytes"):
            await one.keyring.fetch([source("bad")])


@without_waiting
async def test_many_damaged_keys_share_canaries() -> None:
    bad = [source(f"{n}") for n in range(64)]
    async with bench(ScriptedClient(script=failing(*bad))) as one:
        found = await one.keyring.fetch(bad)
        assert {type(outcome) for outcome in found.values()} == {Refused}
        assert one.client.number_of("encrypt") <= len(bad) / 2
        assert all(one.client.decrypts_of(wrapped) == 3 for wrapped in bad)


@without_waiting
async def test_a_canary_answers_only_for_failures_before_it() -> None:
    """A plugin that fails again right after another key's canary must not refuse a sound key."""

    async with bench(ScriptedClient(script=failing(source("bad")))) as one:
        await one.keyring.fetch([source("bad")])
        one.client.script = always(KmsUndecidedError("unknown"))
        with pytest.raises(KmsUnavailableError):
            await one.keyring.fetch([source("sound")])


@without_waiting
async def test_a_key_that_opens_nothing_is_asked_for_once_more_whatever_the_number_of_objects() -> None:
    async with bench() as one:
        one.client.unwraps = lambda _: b"wrong"
        for _ in range(1000):
            await one.keyring.fetch([source("a")])
            one.keyring.forget(source("a"))
            assert await one.keyring.fetch([source("a")]) == {source("a"): SecretBytes(b"wrong")}
        assert one.client.decrypts_of(source("a")) == 2
