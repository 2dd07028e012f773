"""KMS values of any bytes: quarantine or the right plaintext, and nothing else is ever raised."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kube_rewrap.config.encryption.configuration import KmsProvider
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.verdict import Quarantine
from kube_rewrap.worker.wrapped import DataKey, SourceType, WrappedKey, hash_of_key_id
from tests.fakes.plugins import new_data_key, unwrap_all
from tests.unit.worker.providers.kms_values import text, v1_body, v2_body, varint

OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}'
NAMES = st.text(min_size=1, max_size=20).filter(str.isprintable)
ETCD_KEYS = st.binary(max_size=60)
LABELS = st.from_regex(r"[a-z0-9]([-a-z0-9]{0,10}[a-z0-9])?", fullmatch=True)
ANNOTATIONS = st.dictionaries(st.builds("{}.{}".format, LABELS, LABELS), st.binary(max_size=40), max_size=4)

V1 = KmsProvider("v1", "v", "unix:///1.sock", 3.0, 1000)
V2 = KmsProvider("v2", "v", "unix:///2.sock", 3.0, None)
BOTH = Chain([V2, V1], targets={"v": hash_of_key_id("kek-1")})

CONTENT = st.binary(max_size=100) | st.text(max_size=20).map(str.encode)
NUMBERS = st.sampled_from([0, 1, 2, 3, 127, 128, 2**31, 2**32 + 1, 2**63, 2**64 - 1])
FIELD = (
    st.builds(text, st.integers(1, 7), CONTENT)
    | st.builds(lambda number, value: varint(number << 3) + varint(value), st.integers(1, 7), NUMBERS)
    | st.builds(lambda name, value: text(4, text(1, name) + text(2, value)), CONTENT, CONTENT)
    | st.binary(max_size=10)
)
MESSAGES = st.lists(FIELD, max_size=8).map(b"".join)

ENVELOPES = st.builds(  # well-formed, so that the unwrapped key is reached
    lambda data, kind, annotations: v2_body(data, annotations=annotations, kind=kind),
    st.binary(max_size=120),
    st.sampled_from([0, 1, 1, 2]),
    st.lists(st.tuples(st.sampled_from([b"a.b", b"a.example", b"A", b"a.b.", b""]), CONTENT), max_size=3),
)
FUZZED = MESSAGES | ENVELOPES | st.binary(max_size=300) | st.builds(v1_body, CONTENT, st.binary(max_size=100))


def check(value: bytes, etcd_key: bytes, secret: bytes) -> None:
    wanted = BOTH.wanted(value)
    verdict = BOTH.open(value, etcd_key, dict.fromkeys(wanted, SecretBytes(secret)))
    assert isinstance(verdict, Quarantine)
    assert (BOTH.peek(value) is None) is (wanted == ())
    assert repr(secret)[2:-1] not in repr(verdict) or len(secret) < 8


@given(MESSAGES | st.binary(max_size=300), ETCD_KEYS, st.binary(max_size=40))
def test_any_bytes_under_v2_are_quarantined(body: bytes, etcd_key: bytes, secret: bytes) -> None:
    check(b"k8s:enc:kms:v2:v:" + body, etcd_key, secret)


@given(st.binary(max_size=300) | st.builds(v1_body, CONTENT, CONTENT), ETCD_KEYS, st.binary(max_size=40))
def test_any_bytes_under_v1_are_quarantined(body: bytes, etcd_key: bytes, secret: bytes) -> None:
    check(b"k8s:enc:kms:v1:v:" + body, etcd_key, secret)


@pytest.mark.chaos
@pytest.mark.timeout(1800)
@settings(max_examples=100_000)
@given(st.sampled_from(["v1", "v2"]), FUZZED, ETCD_KEYS, st.binary(max_size=40))
def test_a_hundred_thousand_values_of_any_bytes_are_quarantined(
    version: str, body: bytes, etcd_key: bytes, secret: bytes
) -> None:
    check(f"k8s:enc:kms:{version}:v:".encode() + body, etcd_key, secret)


@given(st.sampled_from([V1, V2]), st.data())
def test_a_damaged_value_never_opens_to_other_bytes(provider: KmsProvider, data: st.DataObject) -> None:
    chain = Chain([provider], targets={"v": hash_of_key_id("kek-1")})
    assert chain.kms_primary is not None
    value = bytearray(chain.seal(OBJECT, b"/k", new_data_key(*chain.kms_primary)))
    for _ in range(data.draw(st.integers(1, 3))):
        value[data.draw(st.integers(0, len(value) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.sampled_from([0, 0, 1, 16, 40]))
    damaged = bytes(value[: len(value) - cut])
    verdict = chain.open(damaged, b"/k", unwrap_all(chain.wanted(damaged)))
    # Nothing authenticates the key id and the annotations, so a value may open under a changed one.
    assert isinstance(verdict, Quarantine) or verdict.plaintext == OBJECT


@given(NAMES, ETCD_KEYS, st.binary(max_size=300), st.binary(min_size=32, max_size=32))
def test_v1_opens_what_it_sealed(name: str, etcd_key: bytes, wrapped: bytes, secret: bytes) -> None:
    chain = Chain([KmsProvider("v1", name, "unix:///s", 3.0, 1000)], targets={})
    assert chain.kms_primary is not None
    data_key = DataKey(WrappedKey(chain.kms_primary[0], wrapped), SecretBytes(secret))
    sealed = chain.seal(OBJECT, etcd_key, data_key)
    assert chain.wanted(sealed) == (data_key.wrapped,)
    assert len(sealed) == len(OBJECT) + 30 + len(wrapped) + len(f"k8s:enc:kms:v1:{name}:".encode())
    expected = Opened(OBJECT, chain.primary, is_primary=True)
    assert chain.open(sealed, etcd_key, {data_key.wrapped: data_key.secret}) == expected


@given(
    ETCD_KEYS,
    st.binary(min_size=1, max_size=300),
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=100),
    ANNOTATIONS,
    st.binary(min_size=32, max_size=40),
)
def test_v2_opens_what_it_sealed(
    etcd_key: bytes, source: bytes, key_id: str, annotations: dict[str, bytes], seed: bytes
) -> None:
    chain = Chain([V2], targets={"v": hash_of_key_id(key_id)})
    assert chain.kms_primary is not None
    kind = SourceType.HKDF_SHA256_XNONCE_AES_GCM_SEED
    wrapped = WrappedKey(chain.kms_primary[0], source, key_id, tuple(sorted(annotations.items())), kind)
    data_key = DataKey(wrapped, SecretBytes(seed))
    sealed = chain.seal(OBJECT, etcd_key, data_key)
    assert chain.wanted(sealed) == (wrapped,)
    assert chain.peek(sealed) == chain.primary
    expected = Opened(OBJECT, chain.primary, is_primary=True)
    assert chain.open(sealed, etcd_key, {wrapped: data_key.secret}) == expected
