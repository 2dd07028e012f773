"""Damaged values, foreign keys and wrong keys: never a plaintext from a provider that authenticates.

`aescbc` does not. What stands between its garbage and a rewrite is the recogniser (`worker/providers/plaintext.py`),
and what that can't see is named here as what it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from kube_rewrap.config.encryption.configuration import Key, KeyedProvider, Provider
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.providers.plaintext import is_kubernetes_object
from kube_rewrap.worker.verdict import Quarantine, Reason
from tests.golden.recording import LOCAL, Recorded, name_of, under

KEYED = [provider for provider in LOCAL if isinstance(provider, KeyedProvider)]
AUTHENTICATED = [provider for provider in KEYED if provider.type.value != "aescbc"]
CBC = [provider for provider in KEYED if provider.type.value == "aescbc"]
NONCE = {"aescbc": 16, "aesgcm": 12, "secretbox": 24}


def smallest(provider: Provider) -> Recorded:
    return min(under(provider), key=lambda one: len(one.value))


def body_at(provider: KeyedProvider) -> int:
    return len(f"k8s:enc:{provider.type}:v1:{provider.keys[0].name}:")


def flips(value: bytes, start: int, end: int) -> Iterator[bytes]:
    """The value with one bit flipped: every bit from `start` to `end`."""
    for position in range(start, end):
        for bit in range(8):
            yield value[:position] + bytes([value[position] ^ (1 << bit)]) + value[position + 1 :]


def wrong(provider: KeyedProvider, byte: int = 7) -> KeyedProvider:
    """The provider under the same name with other key material."""
    key = provider.keys[0]
    return KeyedProvider(provider.type, (Key(key.name, SecretBytes(bytes([byte]) * len(key.secret))),))


def reason(chain: Chain, value: bytes, key: bytes) -> Reason:
    verdict = chain.open(value, key)
    assert isinstance(verdict, Quarantine)
    return verdict.reason


# ------------------------------------------------------------------------------------------------ aesgcm, secretbox


@pytest.mark.parametrize("provider", KEYED, ids=name_of)
def test_a_bit_flipped_in_the_prefix_never_opens(provider: KeyedProvider) -> None:
    recorded = smallest(provider)
    chain = Chain([provider, *LOCAL])
    for damaged in flips(recorded.value, 0, body_at(provider)):
        assert isinstance(chain.open(damaged, recorded.key), Quarantine)


@pytest.mark.parametrize("place", ["nonce", "ciphertext", "tag"])
@pytest.mark.parametrize("provider", AUTHENTICATED, ids=name_of)
def test_a_bit_flipped_behind_the_prefix_fails_authentication(provider: KeyedProvider, place: str) -> None:
    recorded = smallest(provider)
    begin, end = body_at(provider), len(recorded.value)
    nonce_end = begin + NONCE[provider.type.value]
    # secretbox puts its tag in front of the ciphertext, aesgcm behind it.
    first = provider.type.value == "secretbox"
    tag = (nonce_end, nonce_end + 16) if first else (end - 16, end)
    ciphertext = (nonce_end + 16, end) if first else (nonce_end, end - 16)
    where = {"nonce": (begin, nonce_end), "ciphertext": ciphertext, "tag": tag}[place]
    for damaged in flips(recorded.value, *where):
        assert reason(Chain([provider]), damaged, recorded.key) is Reason.AUTHENTICATION_FAILED


@pytest.mark.parametrize("provider", AUTHENTICATED, ids=name_of)
def test_no_truncation_opens(provider: KeyedProvider) -> None:
    recorded = smallest(provider)
    chain = Chain([provider, *LOCAL])
    for length in range(len(recorded.value)):
        assert isinstance(chain.open(recorded.value[:length], recorded.key), Quarantine)


@pytest.mark.parametrize("provider", AUTHENTICATED, ids=name_of)
def test_bytes_behind_the_end_fail_authentication(provider: KeyedProvider) -> None:
    recorded = smallest(provider)
    for tail in (b"\0", b"\n", bytes(16)):
        assert reason(Chain([provider]), recorded.value + tail, recorded.key) is Reason.AUTHENTICATION_FAILED


@pytest.mark.parametrize("provider", AUTHENTICATED, ids=name_of)
def test_another_key_of_the_same_name_fails_authentication(provider: KeyedProvider) -> None:
    for recorded in under(provider):
        assert reason(Chain([wrong(provider)]), recorded.value, recorded.key) is Reason.AUTHENTICATION_FAILED


@pytest.mark.parametrize("provider", KEYED, ids=name_of)
def test_the_right_key_behind_a_wrong_one_of_its_name_opens_and_is_stale(provider: KeyedProvider) -> None:
    for recorded in under(provider):
        opened = Chain([wrong(provider), provider]).open(recorded.value, recorded.key)
        assert isinstance(opened, Opened)
        assert (opened.plaintext, opened.is_primary) == (recorded.plaintext, False)


GCM = [provider for provider in AUTHENTICATED if provider.type.value == "aesgcm"]


@pytest.mark.parametrize("provider", GCM, ids=name_of)
@pytest.mark.parametrize(
    "moved",
    [
        pytest.param(lambda key: key + b"x", id="a longer name"),
        pytest.param(lambda key: key[:-1], id="a shorter name"),
        pytest.param(lambda key: key.removeprefix(b"/registry"), id="without the etcd prefix"),
        pytest.param(lambda _key: b"", id="no name"),
    ],
)
def test_an_aesgcm_value_under_another_etcd_key_fails_authentication(
    provider: KeyedProvider, moved: Callable[[bytes], bytes]
) -> None:
    for recorded in under(provider):
        assert reason(Chain([provider]), recorded.value, moved(recorded.key)) is Reason.AUTHENTICATION_FAILED


# ----------------------------------------------------------------------------------------------------------- aescbc


@pytest.mark.parametrize("provider", CBC, ids=name_of)
def test_aescbc_no_truncation_passes_the_recogniser(provider: KeyedProvider) -> None:
    for recorded in sorted(under(provider), key=lambda one: len(one.value))[:8]:
        for length in range(len(recorded.value)):
            assert isinstance(Chain([provider]).open(recorded.value[:length], recorded.key), Quarantine)


@pytest.mark.parametrize("provider", CBC, ids=name_of)
def test_aescbc_no_wrong_key_passes_the_recogniser_even_where_the_padding_comes_out_right(
    provider: KeyedProvider,
) -> None:
    reasons = {
        reason(Chain([wrong(provider, byte)]), recorded.value, recorded.key)
        for byte in range(256)
        for recorded in under(provider)
    }
    # One opening in 256 has a padding that looks right, and nobody is told which.
    assert reasons == {Reason.NOT_RECOGNISED}


@pytest.mark.parametrize("provider", CBC, ids=name_of)
def test_aescbc_a_bit_flipped_where_the_magic_number_comes_from_never_passes(provider: KeyedProvider) -> None:
    """The first bytes of the IV flip the magic number's bits; the first block of ciphertext garbles it whole."""
    recorded = smallest(provider)
    begin = body_at(provider)
    magic = 4 if (recorded.plaintext or b"").startswith(b"k8s\x00") else 1
    for damaged in flips(recorded.value, begin, begin + magic):
        assert reason(Chain([provider]), damaged, recorded.key) is Reason.NOT_RECOGNISED
    for damaged in flips(recorded.value, begin + 16, begin + 32):
        assert reason(Chain([provider]), damaged, recorded.key) is Reason.NOT_RECOGNISED


@pytest.mark.parametrize("provider", CBC, ids=name_of)
def test_aescbc_a_flipped_bit_inside_the_object_may_pass_and_nobody_could_notice(provider: KeyedProvider) -> None:
    """The documented limit: what passes is an object of the same kind and length with other opaque data."""
    recorded = smallest(provider)
    plaintext = recorded.plaintext or b""
    begin = body_at(provider) + 32
    passed = []
    for damaged in flips(recorded.value, begin, len(recorded.value)):
        opened = Chain([provider]).open(damaged, recorded.key)
        if isinstance(opened, Opened):
            passed.append(opened.plaintext)
    assert passed
    assert plaintext not in passed
    assert all(is_kubernetes_object(one) and one[:16] == plaintext[:16] for one in passed)
