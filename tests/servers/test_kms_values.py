"""The stand-ins' own KMS v1 and v2 agree with the recording of a kube-apiserver, and with the product, both ways."""

from __future__ import annotations

import pytest

from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.wrapped import KmsVersion, hash_of_key_id
from tests.fakes.plugins import new_data_key, unwrap_all
from tests.golden.recording import GOVERNED, KMS
from tests.servers.kms_values import KmsKey, KmsV1Key

RECORDED = KmsKey("kmsnew", "unix:///unused")
RECORDED_V1 = KmsV1Key("kmsold", "unix:///unused")
KEK = hash_of_key_id("kek-1")
KEY = "/registry/secrets/a/b"


def chain_of(version: KmsVersion, name: str, target: str = KEK) -> Chain:
    provider = KmsProvider(version, name, "unix:///unused", 3.0, None)
    return Chain([provider], targets={name: target} if version == "v2" else {})


@pytest.mark.parametrize(("key", "count"), [(RECORDED_V1, 33), (RECORDED, 35)], ids=["v1", "v2"])
def test_it_opens_what_kube_apiserver_stored(key: KmsKey | KmsV1Key, count: int) -> None:
    mine = [one for one in KMS if one.value.startswith(key.prefix)]
    assert len(mine) == count
    assert all(key.open(one.key.decode(), one.value) == one.plaintext for one in mine)
    # The etcd key is authenticated.
    assert [one for one in mine if key.open(f"{one.key.decode()}x", one.value) is not None] == []


def test_what_it_seals_opens_under_its_key_only() -> None:
    sealed = RECORDED.seal(KEY, b"plain" * 100)
    assert RECORDED.open(KEY, sealed) == b"plain" * 100
    assert RECORDED.open("/registry/secrets/a/c", sealed) is None
    assert RECORDED.is_current(sealed)
    turned = KmsKey("kmsnew", "unix:///unused")
    turned.turn("kek-2")
    assert not turned.is_current(sealed)
    assert turned.open(KEY, sealed) == b"plain" * 100


@pytest.mark.parametrize(
    "key",
    [RECORDED, RECORDED_V1, KmsV1Key("a:b", "unix:///unused"), KmsV1Key("a:", "unix:///unused")],
    ids=["v2", "v1", "v1 with a colon in its name", "v1 with a colon at the end of its name"],
)
def test_case_2_what_the_product_seals_a_kube_apiserver_opens_and_calls_current(key: KmsKey | KmsV1Key) -> None:
    chain = chain_of("v2" if isinstance(key, KmsKey) else "v1", key.name)
    assert chain.kms_primary is not None
    plugin, target = chain.kms_primary
    for one in GOVERNED:
        plaintext, name = one.plaintext or b"", one.key.decode()
        sealed = chain.seal(plaintext, one.key, new_data_key(plugin, target))
        assert key.open(name, sealed) == plaintext
        assert key.open(f"{name}x", sealed) is None
        # v1 is current because the first provider opened it, and by AES-GCM: the stand-in knows no other cipher.
        assert not isinstance(key, KmsKey) or key.is_current(sealed)


@pytest.mark.parametrize(
    "key", [RECORDED, RECORDED_V1, KmsV1Key("a:b", "unix:///unused")], ids=["v2", "v1", "v1 with a colon in its name"]
)
def test_case_2_what_a_kube_apiserver_seals_the_product_opens_and_calls_current(key: KmsKey | KmsV1Key) -> None:
    version: KmsVersion = "v2" if isinstance(key, KmsKey) else "v1"
    chain = chain_of(version, key.name)
    for one in GOVERNED:
        plaintext = one.plaintext or b""
        sealed = key.seal(one.key.decode(), plaintext)
        opened = chain.open(sealed, one.key, unwrap_all(chain.wanted(sealed)))
        assert opened == Opened(plaintext, chain.primary, is_primary=True)
        if version == "v2":
            stale = chain_of(version, key.name, hash_of_key_id("kek-2"))
            found = stale.open(sealed, one.key, unwrap_all(stale.wanted(sealed)))
            assert isinstance(found, Opened)
            assert not found.is_primary
