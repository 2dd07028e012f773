"""`aescbc` has one failure: bad padding and bad content are found by one path, and told in the same words."""

from __future__ import annotations

import os
from contextlib import suppress
from itertools import product

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CBC
from hypothesis import given
from hypothesis import strategies as st

from kube_rewrap.config.encryption.configuration import Key, KeyedProvider, ProviderType
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.providers.aescbc import AesCbc
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.providers.cipher import OpenError
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.keyspace import Keyspace
from kube_rewrap.worker.records.proof import ProofPart
from kube_rewrap.worker.records.quarantine import QuarantineRecords
from kube_rewrap.worker.verdict import NOT_RECOGNISED_DETAIL, Quarantine, Reason, recorded_reason
from tests.fakes.store import MemoryStore

ETCD_KEY = b"/registry/secrets/default/a"
MATERIAL = b"m" * 32
SPACE = Keyspace("/kube-rewrap")


def sealed(padded: bytes) -> bytes:
    """Blocks that decrypt to exactly these bytes, padding included."""
    iv = os.urandom(16)
    encryptor = Cipher(AES(MATERIAL), CBC(iv)).encryptor()
    return iv + encryptor.update(padded) + encryptor.finalize()


def upstream(padded: bytes) -> bytes | None:
    """What upstream's unpadding makes of a decrypted value; None = it is refused."""
    fill = padded[-1]
    return padded[:-fill] if 0 < fill <= len(padded) and padded.endswith(bytes([fill]) * fill) else None


def ends(padded: bytes) -> list[bytes]:
    """The value with every last byte, and with every run of it that a padding may be."""
    return [padded[: len(padded) - run] + bytes([fill]) * run for fill in range(256) for run in {1, fill} if run]


@pytest.mark.parametrize("blocks", [1, 2, 15, 16, 17], ids=lambda blocks: f"{blocks} blocks")
def test_a_padding_is_valid_where_upstream_takes_it(blocks: int) -> None:
    cipher = AesCbc(SecretBytes(MATERIAL))
    for padded in ends(os.urandom(16 * blocks)):
        padded = padded[-16 * blocks :]  # noqa: PLW2901 - a run may be longer than the whole
        try:
            found = cipher.open(sealed(padded), b"")
        except OpenError:
            found = None
        assert found == upstream(padded)


@given(st.binary(min_size=0, max_size=600), st.booleans())
def test_the_recogniser_is_asked_once_whatever_the_padding_is(tail: bytes, right: bool) -> None:
    padded = (tail + bytes(-len(tail) % 16)) or bytes(16)
    asked: list[bytes] = []

    def recognise(content: bytes) -> bool:
        asked.append(content)
        return right

    plaintext = upstream(padded)
    cipher, value = AesCbc(SecretBytes(MATERIAL)), sealed(padded)
    if right and plaintext is not None:
        assert cipher.open_recognised(value, recognise) == plaintext
    else:
        with pytest.raises(OpenError, match=f"^{NOT_RECOGNISED_DETAIL}$"):
            cipher.open_recognised(value, recognise)
    assert asked == [padded[:-1] if plaintext is None else plaintext]


@pytest.mark.parametrize("keys", [1, 2], ids=["one key", "two keys of one name"])
def test_a_verdict_does_not_depend_on_what_was_wrong(keys: int) -> None:
    materials = (SecretBytes(MATERIAL), SecretBytes(b"o" * 32))[:keys]
    chain = Chain([KeyedProvider(ProviderType.AESCBC, tuple(Key("k", one) for one in materials))])
    contents = (b"garbage", b'{"apiVersion":"v1"}', b"k8s\x00\x0a", b"")
    values = [sealed((one + bytes(31 - len(one)) + last)[-32:]) for one, last in product(contents, (b"\x00", b"\x01"))]
    verdicts = {chain.open(b"k8s:enc:aescbc:v1:k:" + value, ETCD_KEY) for value in [*values, b"cut", b""]}
    detail = f"{chain.keys[0]}: {NOT_RECOGNISED_DETAIL}"
    assert verdicts == {Quarantine(Reason.NOT_RECOGNISED, detail, chain.keys)}


# What version 0.1.0's predecessors put on record of aescbc values.
FORMER = [
    ("authentication_failed", "aescbc:a:b (0123456789abcdef): the padding is not valid: wrong key, or damaged"),
    ("authentication_failed", "aescbc:a:b (0123456789abcdef): the ciphertext is not a whole number of AES blocks …"),
    ("not_a_kubernetes_object", "aescbc:a:b (0123456789abcdef) opened it, but what came out is not a Kubernetes …"),
]


async def test_records_that_told_the_two_apart_are_shown_as_one() -> None:
    store = MemoryStore()
    for number, (reason, detail) in enumerate(FORMER):
        fields = {"key": f"/{number}", "reason": reason, "detail": detail, "mod_revision": 1}
        store.put(SPACE.quarantined("c", b"/%d" % number), encode(fields))
    found = [(one.reason, one.detail) async for one in QuarantineRecords(store, SPACE, "c").all()]
    shown = (Reason.NOT_RECOGNISED, f"aescbc:a:b (0123456789abcdef): {NOT_RECOGNISED_DETAIL}")
    assert found == [shown] * len(FORMER)
    part = ProofPart.from_json(former_part())
    assert part.found is not None
    assert [(one.reason, one.detail) for one in part.found.resources[0].listed] == [shown] * len(FORMER)


def former_part() -> dict[str, object]:
    key = ["aescbc", "a:b", "0123456789abcdef"]
    listed = [["/k", *words] for words in FORMER]
    tally = {"resource": "secrets", "primary": key, "configured": [key], "keys": [], "claimed": [], "listed": listed}
    part = {"campaign": "c", "number": 0, "revision": 1, "generation": "g", "ranges": [], "compacted": False}
    return part | {"found": [tally | {"unreadable": len(FORMER)}]}


@pytest.mark.parametrize("provider", ["aesgcm", "secretbox"])
@pytest.mark.parametrize("reason", [Reason.AUTHENTICATION_FAILED, Reason.NOT_KUBERNETES])
def test_a_record_about_a_cipher_that_authenticates_says_what_it_said(provider: str, reason: Reason) -> None:
    detail = f"{provider}:aescbc:k (0123456789abcdef): why"
    assert recorded_reason(reason.value, detail) == (reason, detail)


@given(st.lists(st.binary(min_size=1, max_size=80), min_size=1, max_size=8), st.data())
def test_a_value_opens_alike_whatever_was_opened_before_it(values: list[bytes], data: st.DataObject) -> None:
    cipher = AesCbc(SecretBytes(MATERIAL))
    stored = [cipher.seal_with(os.urandom(16), value, b"") for value in values]
    for value, one in zip(values, stored, strict=True):
        before = data.draw(st.sampled_from([*stored, sealed(bytes(16)), sealed(bytes(range(16)) * 2), b"cut"]))
        with suppress(OpenError):
            cipher.open(before, b"")
        assert cipher.open(one, b"") == value == AesCbc(SecretBytes(MATERIAL)).open(one, b"")
