"""The limits within which one plugin is called."""

from __future__ import annotations

import asyncio

import pytest

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, KmsUndecidedError
from kube_rewrap.worker.kms.counts import LATENCY_BOUNDS, CallOutcome, Calls, Method
from kube_rewrap.worker.kms.guard import AT_ONCE
from tests.unit.clock import without_waiting
from tests.unit.worker.kms.scripted import CALL_SECONDS, PLUGIN, SOUND, Call, ScriptedClient, always, bench, now, source

SECRET = SecretBytes(bytes(32))


@without_waiting
async def test_no_more_than_eight_calls_are_made_side_by_side() -> None:
    async with bench() as one:
        await asyncio.gather(*(one.plugins[PLUGIN].decrypt(source(f"{n}")) for n in range(50)))
        assert one.client.most_at_once == AT_ONCE


@without_waiting
async def test_the_ceiling_bounds_calls_of_all_methods_together() -> None:
    async with bench(rate=2) as one:
        began = now()
        plugin = one.plugins[PLUGIN]
        await asyncio.gather(*(plugin.decrypt(source(f"{n}")) for n in range(25)), plugin.status())
        # 26 calls at 2 a second, of which a tenth of a second's worth comes at once.
        assert 13 - 0.1 + CALL_SECONDS - 0.001 <= now() - began <= 18


@without_waiting
async def test_five_failures_in_a_row_open_the_circuit_and_no_call_is_made() -> None:
    async with bench(ScriptedClient(script=always(KmsUnavailableError("away")))) as one:
        plugin = one.plugins[PLUGIN]
        for _ in range(5):
            with pytest.raises(KmsUnavailableError, match=r"^away$"):
                await plugin.decrypt(source("a"))
        with pytest.raises(KmsUnavailableError, match=r"not asked to decrypt for a while, .* away") as caught:
            await plugin.decrypt(source("a"))
        assert one.client.number_of("decrypt") == 5
        assert 5 < caught.value.delay <= 11
        assert one.plugins.counts()[0].circuits[Method.DECRYPT] == "open"


@without_waiting
async def test_one_probe_at_a_time_closes_the_circuit_and_the_others_wait_for_it() -> None:
    async with bench(ScriptedClient(script=always(KmsUnavailableError("away")))) as one:
        plugin = one.plugins[PLUGIN]
        await opened(one.plugins[PLUGIN].decrypt)
        await asyncio.sleep(11.1)
        assert one.plugins.counts()[0].circuits[Method.DECRYPT] == "half_open"
        one.client.script = SOUND
        one.client.most_at_once = 0
        await asyncio.gather(*(plugin.decrypt(source(f"{n}")) for n in range(3)))
        assert one.client.most_at_once == 1
        assert one.plugins.counts()[0].circuits[Method.DECRYPT] == "closed"


@without_waiting
async def test_a_failed_probe_fails_those_that_wait_for_it_without_a_call() -> None:
    async with bench(ScriptedClient(script=always(KmsUnavailableError("away")))) as one:
        plugin = one.plugins[PLUGIN]
        await opened(plugin.decrypt)
        await asyncio.sleep(11.1)
        outcomes = await asyncio.gather(*(plugin.decrypt(source(f"{n}")) for n in range(20)), return_exceptions=True)
        assert all(isinstance(outcome, KmsUnavailableError) for outcome in outcomes)
        assert one.client.number_of("decrypt") == 5 + 1


@without_waiting
async def test_a_hung_plugin_fails_a_crowd_after_two_rounds() -> None:
    """Each call ends by its own timeout, here `CALL_SECONDS`."""
    async with bench(ScriptedClient(script=always(KmsUnavailableError("no answer")))) as one:
        plugin, began = one.plugins[PLUGIN], now()
        await asyncio.gather(*(plugin.decrypt(source(f"{n}")) for n in range(100)), return_exceptions=True)
        assert one.client.number_of("decrypt") <= 2 * AT_ONCE
        assert now() - began <= 5 * CALL_SECONDS  # not 100 / 8


@without_waiting
async def test_refusals_open_the_circuit_too_and_stay_refusals() -> None:
    async with bench(ScriptedClient(script=always(KmsRefusedError("no permission")))) as one:
        for _ in range(5):
            with pytest.raises(KmsRefusedError):
                await one.plugins[PLUGIN].encrypt(SECRET)
        with pytest.raises(KmsRefusedError, match=r"not asked to encrypt .* no permission"):
            await one.plugins[PLUGIN].encrypt(SECRET)
        assert one.client.number_of("encrypt") == 5


@without_waiting
async def test_a_plugin_that_may_not_encrypt_still_decrypts() -> None:
    def script(call: Call) -> Exception | None:
        return KmsRefusedError("no permission") if call.method == "encrypt" else None

    async with bench(ScriptedClient(script=script)) as one:
        for _ in range(6):
            with pytest.raises(KmsRefusedError):
                await one.plugins[PLUGIN].encrypt(SECRET)
        assert await one.plugins[PLUGIN].decrypt(source("a")) == SecretBytes(b"a")


@without_waiting
async def test_an_undecided_failure_counts_only_for_a_key_of_our_own() -> None:
    async with bench(ScriptedClient(script=always(KmsUndecidedError("unknown")))) as one:
        plugin = one.plugins[PLUGIN]
        for _ in range(20):
            with pytest.raises(KmsUndecidedError):
                await plugin.decrypt(source("a"))
        assert one.plugins.counts()[0].circuits[Method.DECRYPT] == "closed"
        for _ in range(5):
            with pytest.raises(KmsUnavailableError):
                await plugin.decrypt_known(source("a"))
        assert one.plugins.counts()[0].circuits[Method.DECRYPT] == "open"


@without_waiting
async def test_a_cancelled_probe_leaves_the_circuit_to_the_next_call() -> None:
    async with bench(ScriptedClient(script=always(KmsUnavailableError("away")))) as one:
        plugin = one.plugins[PLUGIN]
        await opened(plugin.decrypt)
        await asyncio.sleep(11.1)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(CALL_SECONDS / 2):
                await plugin.decrypt(source("a"))
        one.client.script = SOUND
        assert await plugin.decrypt(source("a")) == SecretBytes(b"a")


@without_waiting
async def test_cancelled_calls_give_their_places_back() -> None:
    async with bench() as one:
        plugin = one.plugins[PLUGIN]
        for _ in range(3):
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(CALL_SECONDS / 2):
                    await asyncio.gather(*(plugin.decrypt(source(f"{n}")) for n in range(20)))
        assert await plugin.decrypt(source("a")) == SecretBytes(b"a")
        assert one.plugins.counts()[0].calls[Method.DECRYPT, CallOutcome.CANCELLED].calls == 3 * AT_ONCE


@without_waiting
async def test_calls_are_counted_by_method_and_outcome_with_their_latency() -> None:
    def script(call: Call) -> Exception | None:
        return KmsUnavailableError("away") if call.number == 1 else None

    async with bench(ScriptedClient(script=script)) as one:
        plugin = one.plugins[PLUGIN]
        await plugin.decrypt(source("a"))
        with pytest.raises(KmsUnavailableError):
            await plugin.decrypt(source("a"))
        await plugin.status()
        await asyncio.sleep(7.0)
        [counts] = one.plugins.counts()
        assert {key: calls.calls for key, calls in counts.calls.items()} == {
            (Method.DECRYPT, CallOutcome.OK): 1,
            (Method.DECRYPT, CallOutcome.UNAVAILABLE): 1,
            (Method.STATUS, CallOutcome.OK): 1,
        }
        latency = counts.calls[Method.DECRYPT, CallOutcome.OK]
        assert CALL_SECONDS - 0.001 <= latency.seconds <= 3 * CALL_SECONDS
        assert counts.status_age is not None
        assert 7 - 0.001 <= counts.status_age <= 10


def test_each_bucket_includes_the_ones_below_it() -> None:
    calls = Calls().counted(0.005).counted(0.04).counted(11.0)
    assert dict(zip(LATENCY_BOUNDS, calls.within, strict=True)) == {
        0.005: 1, 0.01: 1, 0.025: 1, 0.05: 2, 0.1: 2, 0.25: 2, 0.5: 2, 1.0: 2, 2.5: 2, 5.0: 2, 10.0: 2,
    }  # fmt: skip
    assert calls.calls == 3
    assert calls.seconds == pytest.approx(11.045)


async def opened(decrypt: object) -> None:
    """Five failures in a row."""
    assert callable(decrypt)
    for _ in range(5):
        with pytest.raises(KmsUnavailableError):
            await decrypt(source("a"))
