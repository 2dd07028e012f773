"""What becomes of a Decrypt that fails: whether the plugin or the key is to blame, and when a key is refused."""

from __future__ import annotations

import asyncio
import contextlib
import random
from functools import partial

import pytest

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsRefusedError, KmsSourceError, KmsUnavailableError, KmsUndecidedError
from kube_rewrap.worker.kms.cache import REFUSED_SECONDS
from kube_rewrap.worker.kms.counts import Method
from kube_rewrap.worker.kms.guard import TRIES
from kube_rewrap.worker.kms.keyring import UNDECIDED_TRIES, WAVERED_SECONDS
from kube_rewrap.worker.kms.suspects import ROUND_SECONDS, ROUNDS
from kube_rewrap.worker.wrapped import RefusedKey, UnwrappedKeys, WrappedKey
from tests.unit.clock import without_waiting
from tests.unit.worker.kms.scripted import (
    PLUGIN,
    SOUND,
    V1,
    Bench,
    Call,
    Script,
    ScriptedClient,
    always,
    bench,
    failing,
    now,
    source,
    without_word,
)


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


def breaks_on(*bad: WrappedKey) -> Script:
    """The plugin fails on these keys as if it were down, and unwraps all others."""
    return lambda call: KmsUnavailableError("internal") if call.wrapped in bad else None


async def until_settled(one: Bench, wanted: list[WrappedKey]) -> tuple[UnwrappedKeys, int]:
    """As a batch that is sent again: fetches until it is known of each key what it is; returns the fetches, too."""
    for fetches in range(1, 1_000):
        try:
            return await one.keyring.fetch(wanted), fetches
        except KmsSourceError as error:
            await asyncio.sleep(min(error.delay, 5))
    raise AssertionError("it never ends")


@without_waiting
@pytest.mark.parametrize("number", [1, 4, 60])
async def test_keys_on_which_the_plugin_breaks_are_refused_after_minutes_and_no_other(number: int) -> None:
    """As many as would open the circuit for the others, and for the canary, if they counted as an outage."""
    bad, good = [source(f"bad-{n}") for n in range(number)], [source(f"good-{n}") for n in range(20)]
    async with bench(ScriptedClient(script=breaks_on(*bad))) as one:
        began = now()
        found, _ = await until_settled(one, [*bad, *good])
        assert {wrapped for wrapped in found if isinstance(found[wrapped], RefusedKey)} == set(bad)
        assert (ROUNDS - 1) * ROUND_SECONDS <= now() - began <= 2 * ROUNDS * ROUND_SECONDS
        assert all(one.client.decrypts_of(wrapped) == TRIES * ROUNDS for wrapped in bad)
        assert all(found[wrapped] == SecretBytes(without_word(wrapped)) for wrapped in good)
        assert one.plugins.counts()[0].refused == number


@without_waiting
async def test_between_two_rounds_a_key_on_which_the_plugin_breaks_costs_no_call() -> None:
    async with bench(ScriptedClient(script=breaks_on(source("bad")))) as one:
        with pytest.raises(KmsSourceError):
            await one.keyring.fetch([source("bad")])
        calls = len(one.client.calls)
        for _ in range(30):
            with pytest.raises(KmsSourceError):
                await one.keyring.fetch([source("bad")])
        assert len(one.client.calls) == calls


@without_waiting
async def test_a_later_campaign_asks_again_without_the_wait_and_takes_the_key_when_it_is_unwrapped() -> None:
    async with bench(ScriptedClient(script=breaks_on(source("bad")))) as one:
        await until_settled(one, [source("bad")])
        await asyncio.sleep(REFUSED_SECONDS)
        found, fetches = await until_settled(one, [source("bad")])
        assert (type(found[source("bad")]), fetches) == (RefusedKey, 1)
        await asyncio.sleep(REFUSED_SECONDS)
        one.client.script = SOUND
        assert await one.keyring.fetch([source("bad")]) == {source("bad"): SecretBytes(b"bad")}


@without_waiting
@pytest.mark.parametrize("error", [KmsUnavailableError("away"), KmsUndecidedError("unknown")], ids=["away", "unknown"])
async def test_an_outage_of_any_length_refuses_no_key(error: Exception) -> None:
    async with bench(ScriptedClient(script=always(error))) as one:
        began = now()
        while now() - began < 4 * ROUNDS * ROUND_SECONDS:
            with pytest.raises(KmsUnavailableError) as raised:
                await one.keyring.fetch([source(f"{n}") for n in range(10)])
            assert not isinstance(raised.value, KmsSourceError)
            await asyncio.sleep(10)
        one.client.script = SOUND
        await asyncio.sleep(70)
        assert len(await one.keyring.fetch([source(f"{n}") for n in range(10)])) == 10


@without_waiting
async def test_rounds_with_outages_between_them_are_not_those_of_the_outages() -> None:
    """The plugin works now and then, and always breaks on one key: only rounds with a canary count."""
    async with bench() as one:
        works = breaks_on(source("bad"))
        rounds = 0
        for turn in range(60):
            one.client.script = works if turn % 3 == 0 else always(KmsUnavailableError("away"))
            await asyncio.sleep(ROUND_SECONDS * 1.1 + 70)
            try:
                found = await one.keyring.fetch([source("bad")])
            except KmsSourceError:
                assert turn % 3 == 0
                rounds += 1
                continue
            except KmsUnavailableError:
                continue
            assert isinstance(found[source("bad")], RefusedKey)
            break
        assert rounds == ROUNDS - 1


@without_waiting
async def test_a_sound_key_that_fails_by_turns_is_unwrapped() -> None:
    def script(call: Call) -> Exception | None:
        return KmsUnavailableError("throttled") if call.number % 4 and call.wrapped == source("a") else None

    async with bench(ScriptedClient(script=script)) as one:
        one.client.made["decrypt"] = 1
        found, _ = await until_settled(one, [source("a")])
        assert found == {source("a"): SecretBytes(b"a")}


@without_waiting
async def test_a_circuit_that_an_outage_opened_is_not_held_open_by_keys_on_which_the_plugin_breaks() -> None:
    bad = [source(f"bad-{n}") for n in range(12)]
    async with bench(ScriptedClient(script=always(KmsUnavailableError("away")))) as one:
        for _ in range(20):
            with pytest.raises(KmsUnavailableError):
                await one.keyring.fetch([*bad, source("good")])
        assert one.plugins[PLUGIN].is_open(Method.DECRYPT)
        one.client.script = breaks_on(*bad)
        found: UnwrappedKeys = {}
        for _ in range(200):
            with contextlib.suppress(KmsUnavailableError):
                found = await one.keyring.fetch([*bad, source("good")])
                break
            await asyncio.sleep(5)
        assert found[source("good")] == SecretBytes(b"good")
        assert all(isinstance(found[wrapped], RefusedKey) for wrapped in bad)


def may_only_decrypt(error: Exception, *bad: WrappedKey) -> Script:
    def script(call: Call) -> Exception | None:
        if call.method == "encrypt":
            return error
        return KmsUndecidedError("unknown") if call.wrapped in bad else None

    return script


@without_waiting
@pytest.mark.parametrize("error", [KmsRefusedError("no permission"), KmsUndecidedError("unknown")], ids=["code", "aws"])
@pytest.mark.parametrize("key_id", ["kek-1", "kek-0"])
async def test_a_plugin_that_may_only_decrypt_refuses_a_key_if_it_unwraps_one_that_it_did_before(
    error: Exception, key_id: str
) -> None:
    bad = source("bad", key_id)
    async with bench(ScriptedClient(script=may_only_decrypt(error, bad))) as one:
        await one.keyring.fetch([source("good")])
        for _ in range(3):
            found = await one.keyring.fetch([bad, source("good")])
            assert isinstance(found[bad], RefusedKey)
            await asyncio.sleep(REFUSED_SECONDS)
        canaries = UNDECIDED_TRIES - TRIES + 1
        assert one.client.decrypts_of(source("good")) == 1 + 3 * canaries


@without_waiting
async def test_a_plugin_that_may_only_decrypt_refuses_no_key_while_a_known_one_does_not_open() -> None:
    async with bench() as one:
        await one.keyring.fetch([source("good")])
        one.client.script = may_only_decrypt(KmsRefusedError("no permission"), source("bad"), source("good"))
        with pytest.raises(KmsUnavailableError):
            await one.keyring.fetch([source("bad")])


@without_waiting
@pytest.mark.parametrize("has_encrypted", [False, True])
async def test_without_a_known_key_or_after_an_encrypt_that_worked_a_failing_encrypt_is_no_lack_of_permission(
    has_encrypted: bool,
) -> None:
    async with bench() as one:
        if has_encrypted:
            await one.plugins[PLUGIN].encrypt(SecretBytes(bytes(32)))
            await one.keyring.fetch([source("good")])
        one.client.script = may_only_decrypt(KmsRefusedError("no permission"), source("bad"))
        with pytest.raises(KmsRefusedError):
            await one.keyring.fetch([source("bad")])


@without_waiting
async def test_an_encrypt_that_is_away_is_no_lack_of_permission() -> None:
    async with bench() as one:
        await one.keyring.fetch([source("good")])
        one.client.script = may_only_decrypt(KmsUnavailableError("throttled"), source("bad"))
        with pytest.raises(KmsUnavailableError):
            await one.keyring.fetch([source("bad")])


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
        assert {wrapped for wrapped in found if isinstance(found[wrapped], RefusedKey)} == set(forged)
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
        assert found == {
            source("bad"): RefusedKey("KMS v2 provider 'cloud' does not unwrap it, and unwraps other keys")
        }
        assert one.plugins.counts()[0].refused == 1
        assert one.client.decrypts_of(source("bad")) == UNDECIDED_TRIES
        await asyncio.sleep(REFUSED_SECONDS - 5)
        await asyncio.gather(*(one.keyring.fetch([source("bad")]) for _ in range(100)))
        assert one.client.decrypts_of(source("bad")) == UNDECIDED_TRIES
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
        await asyncio.sleep(WAVERED_SECONDS)
        assert isinstance((await one.keyring.fetch([source("bad")]))[source("bad")], RefusedKey)


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
        assert {type(outcome) for outcome in found.values()} == {RefusedKey}
        assert one.client.number_of("encrypt") <= len(bad) * (UNDECIDED_TRIES - TRIES + 1) / 2
        assert all(one.client.decrypts_of(wrapped) == UNDECIDED_TRIES for wrapped in bad)


@without_waiting
async def test_a_canary_answers_only_for_failures_before_it() -> None:
    """A plugin that fails again right after another key's canary must not refuse a sound key."""

    async with bench(ScriptedClient(script=failing(source("bad")))) as one:
        await one.keyring.fetch([source("bad")])
        one.client.script = always(KmsUndecidedError("unknown"))
        with pytest.raises(KmsUnavailableError):
            await one.keyring.fetch([source("sound")])


class Throttled:
    """As AWS's plugin beside a KMS that throttles: UNKNOWN for all calls of a second beyond a number of them.

    `others` is the chance that a call of another client takes a place before each of ours.
    """

    def __init__(self, calls_per_second: int, others: float = 0.0) -> None:
        self._most = calls_per_second
        self._others = others
        self._times: list[float] = []

    def __call__(self, _: Call) -> Exception | None:
        self._times = [at for at in self._times if at > now() - 1]
        if random.random() < self._others or len(self._times) >= self._most:
            return KmsUndecidedError("unknown")
        self._times.append(now())
        return None


@pytest.mark.parametrize(
    ("quota", "others", "number"), [(5, 0.0, 40), (1, 0.0, 8), (9, 0.4, 30), (100, 0.5, 3), (100, 0.5, 1)]
)
def test_a_plugin_that_throttles_by_unknown_gets_no_sound_key_refused(quota: int, others: float, number: int) -> None:
    @without_waiting
    async def run() -> None:
        client = ScriptedClient(plugin=V1, script=Throttled(quota, others), seconds=0.05)
        async with bench(client, rate=10) as one:
            wanted = [source(f"{n}", plugin=V1) for n in range(number)]
            assert await until_served(one, wanted) == {key: SecretBytes(without_word(key)) for key in wanted}

    for seed in range(12):
        random.seed(seed)
        run()


async def until_served(one: Bench, wanted: list[WrappedKey]) -> UnwrappedKeys:
    """As a campaign that rests while the plugin is away, and is taken up again."""
    for _ in range(1_000):
        try:
            return await one.keyring.fetch(wanted)
        except KmsUnavailableError as error:
            await asyncio.sleep(min(error.delay, 60))
    raise AssertionError("it never ends")


@without_waiting
async def test_a_key_that_fails_while_the_plugin_fails_by_turns_on_others_is_refused_after_minutes_only() -> None:
    """The failure of another key that turned good shows that the plugin fails on sound keys."""

    def script(call: Call) -> Exception | None:
        is_first = call.wrapped == source("sound") and one.client.decrypts_of(source("sound")) == 1
        return KmsUndecidedError("unknown") if is_first or call.wrapped == source("bad") else None

    async with bench() as one:
        one.client.script = script
        with pytest.raises(KmsSourceError):
            await one.keyring.fetch([source("bad"), source("sound")])
        found, _ = await until_settled(one, [source("bad"), source("sound")])
        assert {type(found[source("bad")]), type(found[source("sound")])} == {RefusedKey, SecretBytes}


@without_waiting
async def test_the_canary_makes_each_call_once() -> None:
    """One try of three would pass beside a plugin that throttles."""

    def script(call: Call) -> Exception | None:
        is_bad = call.wrapped == source("bad") or (call.method == "encrypt" and call.number == 0)
        return KmsUndecidedError("unknown") if is_bad else None

    async with bench(ScriptedClient(script=script)) as one:
        with pytest.raises(KmsUnavailableError):
            await one.keyring.fetch([source("bad")])
        assert one.client.number_of("encrypt") == 1
