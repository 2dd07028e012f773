"""The data keys that objects are sealed with: when they are made, checked, and refused."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import count

import pytest

from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.worker.errors import KmsRefusedError, KmsTargetError, KmsUnavailableError, KmsUndecidedError
from kube_rewrap.worker.kms.counts import Method
from kube_rewrap.worker.kms.writer import SEAL_SECONDS
from kube_rewrap.worker.wrapped import SourceType, WrappedKey, hash_of_key_id
from tests.unit.clock import without_waiting
from tests.unit.worker.kms.scripted import CALL_SECONDS, PLUGIN, SOUND, V1, ScriptedClient, always, bench, without_word


def methods(client: ScriptedClient) -> dict[str, int]:
    return dict(Counter(call.method for call in client.calls))


def of_other_bytes(wrapped: WrappedKey) -> bytes:
    return bytes(len(wrapped.wrapped) - len(b"wrapped:"))


@without_waiting
async def test_v2_makes_one_seed_for_all_objects_and_batches() -> None:
    async with bench() as one:
        slices = await asyncio.gather(*(one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 100) for _ in range(3)))
        keys = {key for keys in slices for key in keys}
        [seed] = keys
        assert [len(keys) for keys in slices] == [100, 100, 100]
        assert (seed.wrapped.source_type, len(seed.secret)) == (SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED, 32)
        assert [call.method for call in one.client.calls] == ["status", "encrypt", "status", "encrypt", "decrypt"]
        assert one.plugins.counts()[0].seeds == 1


@without_waiting
async def test_our_own_objects_are_read_without_a_call() -> None:
    async with bench() as one:
        [seed] = await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        calls = len(one.client.calls)
        assert await one.keyring.fetch([seed.wrapped]) == {seed.wrapped: seed.secret}
        assert len(one.client.calls) == calls


@without_waiting
async def test_a_cancelled_batch_leaves_the_seed_to_be_made_by_the_next() -> None:
    async with bench() as one:
        first = asyncio.create_task(one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1))
        second = asyncio.create_task(one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1))
        await asyncio.sleep(2.5 * CALL_SECONDS)
        first.cancel()
        assert len(await second) == 1
        assert asyncio.all_tasks() == {asyncio.current_task()}


@without_waiting
async def test_status_is_looked_at_again_by_its_age() -> None:
    async with bench() as one:
        await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        looks = one.client.number_of("status")
        await asyncio.sleep(SEAL_SECONDS / 2)
        await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        assert one.client.number_of("status") == looks
        await asyncio.sleep(SEAL_SECONDS / 2 + 1)
        await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        assert one.client.number_of("status") == looks + 1
        assert one.client.number_of("encrypt") == 2


@without_waiting
async def test_a_seed_is_not_handed_out_once_the_plugin_names_another_key_id() -> None:
    async with bench() as one:
        await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        one.client.key_id = "kek-2"
        await asyncio.sleep(SEAL_SECONDS + 1)
        for _ in range(2):
            with pytest.raises(KmsTargetError):
                await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        [seed] = await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-2"), 1)
        assert seed.wrapped.key_id == "kek-2"


@without_waiting
async def test_a_seed_from_before_a_rotation_that_nothing_shows_is_replaced_once() -> None:
    """AWS' key id stays when its KEK is rotated: the seed at hand may be wrapped with the former one."""
    async with bench() as one:
        target, sources = hash_of_key_id("kek-1"), []
        for kek_since in (0, 70, 70, 69, 0, 71):
            [seed] = await one.writer.data_keys(PLUGIN, target, 1, kek_since)
            sources.append(seed.wrapped)
        assert len(set(sources)) == 3
        assert sources == [sources[0], *[sources[1]] * 4, sources[5]]


@without_waiting
async def test_a_seed_for_a_rotation_is_made_though_an_older_one_is_at_hand_and_the_plugin_fails() -> None:
    async with bench() as one:
        target = hash_of_key_id("kek-1")
        [old] = await one.writer.data_keys(PLUGIN, target, 1)
        one.client.script = always(KmsRefusedError("it is not healthy"))
        with pytest.raises(KmsRefusedError):
            await one.writer.data_keys(PLUGIN, target, 1, 70)
        one.client.script = SOUND
        [new] = await one.writer.data_keys(PLUGIN, target, 1, 70)
        assert new != old


@without_waiting
async def test_a_failed_look_at_status_hands_out_nothing() -> None:
    async with bench() as one:
        await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        one.client.script = always(KmsRefusedError("it is not healthy"))
        await asyncio.sleep(SEAL_SECONDS + 1)
        with pytest.raises(KmsRefusedError):
            await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        one.client.script = SOUND
        assert len(await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)) == 1


@without_waiting
async def test_another_key_id_is_named_by_its_fingerprint() -> None:
    async with bench(ScriptedClient(key_id="arn:aws:kms:\x1b[31m")) as one:
        with pytest.raises(KmsTargetError) as caught:
            await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        assert str(caught.value) == (
            "KMS v2 provider 'cloud' names the key id with fingerprint 43056885ab6e5760, the campaign's target is the "
            "key id with fingerprint 6ad4ff2bfd375211; a worker whose plugin names the target can go on"
        )
        assert methods(one.client) == {"status": 2}


@without_waiting
async def test_a_plugin_that_lags_one_call_is_right_at_the_second() -> None:
    """As Google's: after a start its first Status names the key without a version."""
    client = ScriptedClient(named=lambda number: "kek" if number == 0 else "kek-1")
    async with bench(client) as one:
        [seed] = await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        assert seed.wrapped.key_id == "kek-1"
        assert [call.method for call in client.calls] == ["status", "status", "encrypt", "status", "encrypt", "decrypt"]


@without_waiting
async def test_two_rounds_must_agree_one_after_the_other() -> None:
    async with bench() as one:
        one.client.key_id, one.client.named = "kek-0", lambda _: "kek-1"
        with pytest.raises(KmsRefusedError, match=r"by Status and .* by Encrypt"):
            await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        assert methods(one.client) == {"status": 4, "encrypt": 4}


@without_waiting
async def test_a_seed_that_unwraps_to_other_bytes_is_never_used() -> None:
    async with bench(ScriptedClient(unwraps=of_other_bytes)) as one:
        with pytest.raises(KmsRefusedError, match="to other bytes"):
            await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        one.client.unwraps = without_word
        [seed] = await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        assert one.client.decrypts_of(seed.wrapped) == 1


@without_waiting
async def test_an_undecided_failure_of_our_own_keys_is_the_plugins() -> None:
    async with bench() as one:
        one.client.script = lambda call: KmsUndecidedError("unknown") if call.method == "decrypt" else None
        for _ in range(5):
            with pytest.raises(KmsUnavailableError):
                await one.writer.data_keys(PLUGIN, hash_of_key_id("kek-1"), 1)
        assert one.plugins.counts()[0].circuits[Method.DECRYPT] == "open"


@without_waiting
async def test_v1_makes_a_checked_key_for_each_object_eight_side_by_side() -> None:
    async with bench(ScriptedClient(V1)) as one:
        keys = await one.writer.data_keys(V1, "", 40)
        assert len({key.secret for key in keys}) == 40
        assert {len(key.secret) for key in keys} == {32}
        assert methods(one.client) == {"encrypt": 40, "decrypt": 40}
        assert all(one.client.decrypts_of(key.wrapped) == 1 for key in keys)
        assert one.client.most_at_once == 8


@without_waiting
async def test_v1_keys_are_not_checked_where_the_setting_says_so() -> None:
    async with bench(ScriptedClient(V1), KmsSettings(check_wrapped=False)) as one:
        assert len(await one.writer.data_keys(V1, "", 10)) == 10
        assert methods(one.client) == {"encrypt": 10}


@without_waiting
async def test_one_v1_key_that_unwraps_wrongly_spoils_the_group() -> None:
    async with bench(ScriptedClient(V1)) as one:
        numbers = count()

        def unwraps(wrapped: WrappedKey) -> bytes:
            return of_other_bytes(wrapped) if next(numbers) == 5 else without_word(wrapped)

        one.client.unwraps = unwraps
        with pytest.raises(KmsRefusedError, match="to other bytes"):
            await one.writer.data_keys(V1, "", 40)
        assert asyncio.all_tasks() == {asyncio.current_task()}


@without_waiting
async def test_no_keys_for_no_objects() -> None:
    async with bench(ScriptedClient(V1)) as one:
        assert await one.writer.data_keys(V1, "", 0) == []
        assert one.client.calls == []
