"""The client of KMS plugins against a real gRPC server over real Unix sockets; tests name their cases."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from uuid import UUID

import grpc
import pytest
from structlog.testing import capture_logs

from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import KmsRefusedError, KmsUnavailableError, KmsUndecidedError
from kube_rewrap.worker.kms.client import Status
from kube_rewrap.worker.kms.messages import message
from kube_rewrap.worker.wrapped import KmsVersion, Plugin, SourceType, WrappedKey
from tests.contract.kms import ESCAPE, SEED, SEED_TYPE, client_of
from tests.servers.kms_plugin import ANNOTATION, ARN, GOOGLE_KEY, Behaviour, KmsPlugin

# ------------------------------------------------------------------------------------------------------ what goes right


async def test_v2_wraps_and_unwraps_with_a_fresh_uid_each(plugin: KmsPlugin) -> None:
    async with client_of(plugin.endpoint) as client:
        assert await client.status() == Status("kek-1")
        wrapped = await client.encrypt(SEED)
        assert (wrapped.key_id, wrapped.source_type) == ("kek-1", SEED_TYPE)
        assert wrapped.annotations == ((ANNOTATION, b"encrypted-local-kek"),)
        assert await client.decrypt(wrapped) == SEED
    assert plugin.calls == {"v2.Status": 1, "v2.Encrypt": 1, "v2.Decrypt": 1}
    assert [UUID(uid).version for uid in plugin.uids] == [4, 4]
    assert len(set(plugin.uids)) == 2


async def test_v1_asks_for_the_version_once_even_by_64_calls_at_once(plugin: KmsPlugin) -> None:
    async with client_of(plugin.endpoint, "v1", 10.0) as client:
        wrapped = await asyncio.gather(*(client.encrypt(SEED) for _ in range(64)))
        assert await client.decrypt(wrapped[0]) == SEED
        assert wrapped[0] == WrappedKey(client._plugin, wrapped[0].wrapped)
        assert plugin.calls == {"v1beta1.Version": 1, "v1beta1.Encrypt": 64, "v1beta1.Decrypt": 1}
        assert await client.status() == Status("")
    assert plugin.calls["v1beta1.Version"] == 2


async def test_a_wrapped_key_of_another_plugin_is_a_bug_of_the_caller(plugin: KmsPlugin) -> None:
    async with client_of(plugin.endpoint) as client:
        with pytest.raises(ValueError, match="another plugin"):
            await client.decrypt(WrappedKey(Plugin("other", "v2", plugin.endpoint), b"x"))
    assert not plugin.calls


@pytest.mark.parametrize("wrapping", ["base64", "aesgcm"])
@pytest.mark.parametrize("kind", ["mock", "aws", "google", "azure", "vault"])
async def test_every_kind_of_plugin_unwraps_what_it_wrapped(plugin: KmsPlugin, kind: str, wrapping: str) -> None:
    plugin.behaviour = Behaviour(kind=kind, wrapping=wrapping)
    async with client_of(plugin.endpoint) as client:
        before = await client.encrypt(SEED)
        plugin.rotate("kek-2")
        after = await client.encrypt(SEED)
        assert await client.decrypt(after) == SEED
        assert (before.key_id == after.key_id) == (kind == "aws")
        assert len(after.wrapped) == 342 or kind != "azure"
        if kind == "azure":
            with pytest.raises(KmsRefusedError):
                await client.decrypt(before)
        else:
            assert await client.decrypt(before) == SEED


async def test_googles_status_lags_one_call(plugin: KmsPlugin) -> None:
    plugin.behaviour = Behaviour(kind="google")
    async with client_of(plugin.endpoint) as client:
        assert [(await client.status()).key_id for _ in range(2)] == [GOOGLE_KEY, f"{GOOGLE_KEY}/cryptoKeyVersions/1"]


async def test_awss_errors_are_unknown_and_its_status_says_err(plugin: KmsPlugin) -> None:
    plugin.behaviour = Behaviour(kind="aws", fail={"*": "PERMISSION_DENIED"})
    async with client_of(plugin.endpoint) as client:
        with pytest.raises(KmsRefusedError, match="not healthy") as refused:
            await client.status()
        assert refused.value.plugin_text == "err"
        with pytest.raises(KmsUndecidedError):
            await client.encrypt(SEED)
        plugin.behaviour = Behaviour(kind="aws")
        assert (await client.status()).key_id == ARN


async def test_another_kek_does_not_unwrap(plugin: KmsPlugin) -> None:
    plugin.behaviour = Behaviour(wrapping="aesgcm")
    async with client_of(plugin.endpoint) as client:
        wrapped = await client.encrypt(SEED)
        plugin.behaviour = Behaviour(wrapping="aesgcm", key_id="kek-2")
        with pytest.raises(KmsUndecidedError):
            await client.decrypt(wrapped)


@pytest.mark.parametrize("method", ["Status", "Encrypt", "Decrypt"])
async def test_an_answer_after_the_deadline_is_not_taken(plugin: KmsPlugin, method: str) -> None:
    """Neither for its own call nor for a later one of the same method."""
    async with client_of(plugin.endpoint, seconds=0.5) as client:
        wrapped = await client.encrypt(SEED)
        calls: dict[str, Callable[[], Awaitable[Status | WrappedKey | SecretBytes]]] = {
            "Status": client.status,
            "Encrypt": lambda: client.encrypt(SEED),
            "Decrypt": lambda: client.decrypt(wrapped),
        }
        plugin.behaviour = Behaviour(key_id="late", delay={f"v2.{method}": 1.0}, wrong_bytes=1)
        with pytest.raises(
            KmsUnavailableError, match=rf"did not answer ({method} within 0\.5 s; see its|in time \({method})"
        ):
            await calls[method]()
        plugin.behaviour = Behaviour(key_id="kek-2", delay={f"v2.{method}": 0.0})
        answers = [await calls[method]() for _ in range(2)]
        await asyncio.sleep(1.0)  # the late answer is there by now
        answers.append(await calls[method]())
    for answer in answers:
        assert answer in (Status("kek-2"), SEED) or getattr(answer, "key_id", "") == "kek-2"


@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_a_failed_call_is_logged_with_its_uid_and_our_digest_of_the_key(
    plugin: KmsPlugin, version: KmsVersion
) -> None:
    plugin.behaviour = Behaviour(key_id=f"{ARN}{ESCAPE}", fail_text=f"{ARN}{ESCAPE}")
    with capture_logs() as logs:
        async with client_of(plugin.endpoint, version) as client:
            wrapped = await client.encrypt(SEED)
            assert logs == []
            plugin.behaviour = replace(plugin.behaviour, fail={"*": "INTERNAL"})
            plugin.uids.clear()
            for call in (client.status(), client.encrypt(SEED), client.decrypt(wrapped)):
                with pytest.raises(KmsUnavailableError):
                    await call
    assert [line["event"] for line in logs] == ["kms.call_failed"] * 3
    assert [line["method"] for line in logs] == ["Status" if version == "v2" else "Version", "Encrypt", "Decrypt"]
    assert {(line["provider"], line["version"], line["log_level"]) for line in logs} == {("vault", version, "info")}
    assert [line.get("source") for line in logs] == [None, None, wrapped.digest]
    assert [line.get("uid") for line in logs] == [None, *(plugin.uids if version == "v2" else [None, None])]
    assert not any(text in repr(logs) for text in (ARN, "red", "arn:"))


# ----------------------------------------------------------------------------------------------------- cases 11, 16, 17


async def test_case_11_a_plugin_that_checks_key_ids_refuses_the_forged_one(plugin: KmsPlugin) -> None:
    plugin.behaviour = Behaviour(checks_key_id=True)
    async with client_of(plugin.endpoint) as client:
        wrapped = await client.encrypt(SEED)
        forged = replace(wrapped, key_id="kek-0")
        assert wrapped != forged
        with pytest.raises(KmsRefusedError, match="'vault'"):
            await client.decrypt(forged)
        assert await client.decrypt(wrapped) == SEED
    assert plugin.calls["v2.Decrypt"] == 2


async def test_case_16_other_bytes_come_back_as_such_so_that_the_writer_sees_them(plugin: KmsPlugin) -> None:
    plugin.behaviour = Behaviour(wrong_fresh=True)
    async with client_of(plugin.endpoint) as client:
        assert await client.decrypt(await client.encrypt(SEED)) == SecretBytes(bytes(0xFF ^ one for one in range(32)))


async def test_case_12_client_part_wrong_bytes_once(plugin: KmsPlugin) -> None:
    plugin.behaviour = Behaviour(wrong_bytes=1)
    async with client_of(plugin.endpoint) as client:
        wrapped = await client.encrypt(SEED)
        assert await client.decrypt(wrapped) != SEED
        assert await client.decrypt(wrapped) == SEED


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [
        (Behaviour(healthz="OK"), "not healthy"),
        (Behaviour(healthz=ESCAPE), "not healthy"),
        (Behaviour(v2_version="v2alpha1"), "version other than"),
        (Behaviour(v2_version=""), "version other than"),
        (Behaviour(status_key_id=""), "key id of 0 bytes in Status"),
        (Behaviour(status_key_id="k" * 1025), "key id of 1025 bytes in Status"),
        (Behaviour(status_key_id="é" * 513), "key id of 1026 bytes in Status"),
    ],
)
async def test_case_17_an_unhealthy_status_is_refused(plugin: KmsPlugin, behaviour: Behaviour, words: str) -> None:
    plugin.behaviour = behaviour
    async with client_of(plugin.endpoint) as client:
        with pytest.raises(KmsRefusedError, match=words) as refused:
            await client.status()
    assert "KMS provider 'vault' (v2)" in str(refused.value)
    assert "\x1b" not in str(refused.value) + refused.value.plugin_text


@pytest.mark.parametrize("key_id", ["k", "k" * 1024, "é" * 512])
async def test_case_17_key_ids_at_the_limit_pass(plugin: KmsPlugin, key_id: str) -> None:
    plugin.behaviour = Behaviour(key_id=key_id)
    async with client_of(plugin.endpoint) as client:
        assert (await client.status()).key_id == (await client.encrypt(SEED)).key_id == key_id


async def test_case_17_the_version_may_not_change(plugin: KmsPlugin) -> None:
    async with client_of(plugin.endpoint) as client:
        await client.status()
        plugin.behaviour = Behaviour(v2_version="v2beta1")
        with pytest.raises(KmsRefusedError, match="another version"):
            await client.status()


async def test_case_17_another_version_of_v1_is_refused_before_any_key_is_sent(plugin: KmsPlugin) -> None:
    plugin.behaviour = Behaviour(v1_version="v1")
    async with client_of(plugin.endpoint, "v1") as client:
        with pytest.raises(KmsRefusedError, match="v1beta1"):
            await client.encrypt(SEED)
    assert plugin.calls == {"v1beta1.Version": 1}


# ------------------------------------------------------------------------------------------------------ hostile answers


def encrypted(ciphertext: bytes = b"c", key_id: str = "k", annotations: dict[str, bytes] | None = None) -> str:
    answer = message("v2", "EncryptResponse")(ciphertext=ciphertext, key_id=key_id, annotations=annotations or {})
    return str(answer.SerializeToString().hex())


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        (encrypted(b""), "to 0 bytes"),
        (encrypted(b"c" * 1025), "to 1025 bytes"),
        (encrypted(key_id=""), "key id of 0 bytes in Encrypt"),
        (encrypted(key_id="k" * 1025), "key id of 1025 bytes in Encrypt"),
        (encrypted(annotations={"a.b": b"x" * 32_766}), "32769 bytes"),
        (encrypted(annotations={"A.b": b""}), "DNS name"),
        (encrypted(annotations={"single": b""}), "DNS name"),
    ],
)
async def test_what_kubernetes_would_not_store_is_refused(plugin: KmsPlugin, raw: str, words: str) -> None:
    plugin.behaviour = Behaviour(raw={"v2.Encrypt": raw})
    async with client_of(plugin.endpoint) as client:
        with pytest.raises(KmsRefusedError, match=words):
            await client.encrypt(SEED)


async def test_the_limits_themselves_pass(plugin: KmsPlugin) -> None:
    annotations = {"a.b": b"x" * 32_765}
    plugin.behaviour = Behaviour(raw={"v2.Encrypt": encrypted(b"c" * 1024, "k" * 1024, annotations)})
    async with client_of(plugin.endpoint) as client:
        assert (await client.encrypt(SEED)).annotations == tuple(annotations.items())


@pytest.mark.parametrize(("length", "fits"), [(0, False), (1, True), (65_535, True), (65_536, False)])
async def test_v1_stores_the_length_in_two_bytes(plugin: KmsPlugin, length: int, fits: bool) -> None:
    answer = message("v1beta1", "EncryptResponse")(cipher=b"c" * length)
    plugin.behaviour = Behaviour(raw={"v1beta1.Encrypt": answer.SerializeToString().hex()})
    async with client_of(plugin.endpoint, "v1") as client:
        if fits:
            assert len((await client.encrypt(SEED)).wrapped) == length
        else:
            with pytest.raises(KmsRefusedError, match=f"to {length} bytes"):
                await client.encrypt(SEED)


@pytest.mark.parametrize(
    ("kind", "length", "fits"),
    [(SourceType.AES_GCM_KEY, length, length in {16, 24, 32}) for length in (0, 15, 16, 24, 32, 33)]
    + [(SEED_TYPE, length, 32 <= length <= 1024) for length in (0, 16, 31, 32, 33, 1024, 1025)],
)
async def test_unwrapped_keys_have_a_length_that_fits(
    plugin: KmsPlugin, kind: SourceType, length: int, fits: bool
) -> None:
    answer = message("v2", "DecryptResponse")(plaintext=b"p" * length)
    plugin.behaviour = Behaviour(raw={"v2.Decrypt": answer.SerializeToString().hex()})
    async with client_of(plugin.endpoint) as client:
        wrapped = WrappedKey(client._plugin, b"c", "k", (), kind)
        if fits:
            assert len(await client.decrypt(wrapped)) == length
        else:
            with pytest.raises(KmsUndecidedError, match=f"to {length} bytes"):
                await client.decrypt(wrapped)


@pytest.mark.parametrize("raw", ["ff", "0a05", "0aff", "1201ff"], ids=["tag", "cut", "length", "no UTF-8"])
async def test_an_answer_that_does_not_decode_is_undecided(plugin: KmsPlugin, raw: str) -> None:
    plugin.behaviour = Behaviour(raw={"v2.Encrypt": raw})
    async with client_of(plugin.endpoint) as client:
        with pytest.raises(KmsUndecidedError, match="does not decode"):
            await client.encrypt(SEED)


async def test_a_huge_answer_is_refused_by_the_channel(plugin: KmsPlugin) -> None:
    plugin.behaviour = Behaviour(raw={"v2.Decrypt": "00" * 2**20})
    async with client_of(plugin.endpoint) as client:
        with pytest.raises(KmsUndecidedError, match="larger than any valid one"):
            await client.decrypt(await client.encrypt(SEED))


# --------------------------------------------------------------------------------------------------------------- errors

WORLD = {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED", "ABORTED", "CANCELLED", "INTERNAL"}
OF_PLUGIN = {"UNIMPLEMENTED", "UNAUTHENTICATED", "PERMISSION_DENIED", "FAILED_PRECONDITION"}


@pytest.mark.parametrize("version", ["v1", "v2"])
@pytest.mark.parametrize("code", [code for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
async def test_each_code_has_its_class_and_the_plugins_text_stays_out(
    plugin: KmsPlugin, code: grpc.StatusCode, version: KmsVersion
) -> None:
    plugin.behaviour = Behaviour(fail={"*": code.name}, fail_text=f"{ARN} {ESCAPE}" + "x" * 1000)
    undecided = KmsUndecidedError
    kind = KmsUnavailableError if code.name in WORLD else KmsRefusedError if code.name in OF_PLUGIN else undecided
    async with client_of(plugin.endpoint, version) as client:
        with pytest.raises(kind, match=rf"KMS provider 'vault' \({version}\)") as failed:
            await client.encrypt(SEED)
    assert ARN not in str(failed.value)
    assert failed.value.__suppress_context__
    assert isinstance(failed.value, KmsUnavailableError | KmsRefusedError | KmsUndecidedError)
    assert failed.value.plugin_text.startswith(f"{ARN} \\x1b[31m")
    assert len(failed.value.plugin_text) <= 300


async def test_a_plugin_of_the_other_version_only_is_refused(tmp_path: Path) -> None:
    server = grpc.aio.server()
    server.add_insecure_port(f"unix:{tmp_path}/kms.sock")
    await server.start()
    try:
        async with client_of(f"unix://{tmp_path}/kms.sock") as client:
            with pytest.raises(KmsRefusedError, match="apiVersion"):
                await client.status()
    finally:
        await server.stop(None)


@pytest.mark.parametrize(("version", "hangs"), [("v2", "v2.Encrypt"), ("v1", "v1beta1.Version"), ("v1", "*")])
async def test_a_call_ends_at_the_stanzas_timeout(plugin: KmsPlugin, version: KmsVersion, hangs: str) -> None:
    plugin.behaviour = Behaviour(hang=(hangs,))
    async with client_of(plugin.endpoint, version, 0.3) as client:
        begun = time.monotonic()
        with pytest.raises(KmsUnavailableError):
            await client.encrypt(SEED)
        assert time.monotonic() - begun < 2


async def test_throttling_is_the_world(plugin: KmsPlugin) -> None:
    plugin.behaviour = Behaviour(calls_per_second=1)
    async with client_of(plugin.endpoint) as client:
        answers = await asyncio.gather(*(client.status() for _ in range(8)), return_exceptions=True)
    assert {type(one) for one in answers} == {Status, KmsUnavailableError}
