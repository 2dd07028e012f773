"""What kube-apiserver sealed with KMS v1 and v2 opens to what upstream decrypts, with the recorded staleness."""

from __future__ import annotations

import pytest

from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.verdict import KeyRef, Quarantine, Reason
from kube_rewrap.worker.wrapped import fingerprint_of_key_id, hash_of_key_id
from tests.fakes.plugins import new_data_key, unwrap_all
from tests.golden.recording import GOVERNED, KMS, PROVIDERS, Recorded

OLD = [one for one in KMS if one.value.startswith(b"k8s:enc:kms:v1:kmsold:")]
NEW = [one for one in KMS if one.value.startswith(b"k8s:enc:kms:v2:kmsnew:")]
KEY = KeyRef("kms", "kmsnew", fingerprint_of_key_id("kek-1"))
V1 = KeyRef("kms", "kmsold", "v1")

AS_RECORDED = Chain(PROVIDERS, targets={"kmsnew": hash_of_key_id("kek-1")})


def first(name: str, target: str = "kek-1") -> Chain:
    """The recorded providers with this one in front."""
    return Chain(
        sorted(PROVIDERS, key=lambda one: getattr(one, "name", "") != name), targets={"kmsnew": hash_of_key_id(target)}
    )


@pytest.mark.parametrize("recorded", KMS, ids=str)
def test_case_1_each_recorded_value_opens_byte_equal_with_the_recorded_staleness(recorded: Recorded) -> None:
    opened = AS_RECORDED.open(recorded.value, recorded.key, unwrap_all(AS_RECORDED.wanted(recorded.value)))
    assert isinstance(opened, Opened)
    assert opened.plaintext == recorded.plaintext
    assert opened.is_primary is not recorded.stale
    assert opened.ref == AS_RECORDED.peek(recorded.value) == (V1 if recorded in OLD else KEY)


def test_case_1_v1_needs_one_call_for_each_value_and_v2_one_for_all() -> None:
    assert (len(OLD), len(NEW)) == (33, 35)
    assert len(AS_RECORDED.all_wanted(one.value for one in OLD)) == 33
    assert len(AS_RECORDED.all_wanted(one.value for one in NEW)) == 1
    assert len(AS_RECORDED.all_wanted(one.value for one in KMS)) == 34


@pytest.mark.parametrize("recorded", KMS, ids=str)
def test_case_1_none_opens_under_another_etcd_key(recorded: Recorded) -> None:
    unwrapped = unwrap_all(AS_RECORDED.wanted(recorded.value))
    for other in (recorded.key + b"x", recorded.key[:-1], b""):
        verdict = AS_RECORDED.open(recorded.value, other, unwrapped)
        assert isinstance(verdict, Quarantine)
        is_v1 = recorded in OLD
        assert verdict.reason is (Reason.NOT_RECOGNISED if is_v1 else Reason.AUTHENTICATION_FAILED)


@pytest.mark.parametrize("recorded", KMS, ids=str)
def test_a_value_is_current_under_its_own_provider_and_the_target_key_id(recorded: Recorded) -> None:
    def is_current(chain: Chain) -> bool:
        opened = chain.open(recorded.value, recorded.key, unwrap_all(chain.wanted(recorded.value)))
        assert isinstance(opened, Opened)
        assert opened.is_primary is not chain.is_stale(opened.ref)
        return opened.is_primary

    name, other = ("kmsold", "kmsnew") if recorded in OLD else ("kmsnew", "kmsold")
    assert is_current(first(name))
    assert not is_current(first(other))
    assert is_current(first(name, target="kek-2")) is (recorded in OLD)


@pytest.mark.parametrize("name", ["kmsold", "kmsnew"])
def test_what_we_seal_with_kms_opens_again_and_is_current(name: str) -> None:
    chain = first(name)
    assert chain.kms_primary is not None
    plugin, target = chain.kms_primary
    for recorded in GOVERNED:
        plaintext = recorded.plaintext or b""
        sealed = chain.seal(plaintext, recorded.key, new_data_key(plugin, target))
        opened = chain.open(sealed, recorded.key, unwrap_all(chain.wanted(sealed)))
        assert opened == Opened(plaintext, chain.primary, is_primary=True)
