"""The chain against the simplest thing that is right: a list of prefixes and keys, tried in order.

Configurations hold overlapping names, colons, duplicate names and duplicate keys, with identity anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from hypothesis import given, settings
from hypothesis import strategies as st
from nacl.exceptions import CryptoError

from kube_rewrap.config.encryption.configuration import IdentityProvider, Key, KeyedProvider, ProviderType
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.rewrap.decide import decide
from kube_rewrap.worker.verdict import Keep, Quarantine, Rewrap
from tests.golden.upstream import open_stored

Provider = KeyedProvider | IdentityProvider

NAMES = st.sampled_from(["a", "a:", "a:b", "a:b:c", "b", ":", "b:a", "2024-01-01T00:00:00Z", "2024-01-01T00"])
MATERIALS = st.integers(0, 2).map(lambda number: SecretBytes(bytes([number]) * 32))
KEYS = st.builds(Key, NAMES, MATERIALS)
KEYED = st.builds(
    KeyedProvider,
    st.sampled_from([ProviderType.AESCBC, ProviderType.AESGCM, ProviderType.SECRETBOX]),
    st.lists(KEYS, min_size=1, max_size=3).map(tuple),
)
CONFIGURATIONS: st.SearchStrategy[list[Provider]] = st.lists(
    KEYED | st.builds(IdentityProvider), min_size=1, max_size=5
)

OBJECTS = [b'{"apiVersion":"v1","kind":"Secret","metadata":{"name":"%d"}}' % number for number in range(3)]
STRANGERS = [b"", b"no object", b"{}", b"k8s\x00", b"k8s:enc:aescbc:v1:a:"]
ETCD_KEYS = [b"/registry/secrets/default/a", b"/registry/secrets/default/b"]


@dataclass(frozen=True)
class Stored:
    """A value and the etcd key under which it is found."""

    value: bytes
    etcd_key: bytes


@st.composite
def stored_values(draw: st.DrawFn) -> Stored:
    plaintext = draw(st.sampled_from([*OBJECTS, *STRANGERS]))
    sealed_for, found_under = draw(st.sampled_from(ETCD_KEYS)), draw(st.sampled_from(ETCD_KEYS))
    sealer = Chain([draw(KEYED | st.builds(IdentityProvider))])
    try:
        value = sealer.seal(plaintext, sealed_for)
    except Exception:  # noqa: BLE001 - identity does not prove what looks encrypted; it is stored all the same
        value = plaintext
    cut = draw(st.sampled_from([0, 0, 0, 0, 1, 16]))
    return Stored(value[: len(value) - cut], found_under)


def flattened(configuration: list[Provider]) -> list[Provider]:
    """Each key as a provider of its own."""
    return [
        KeyedProvider(provider.type, (key,)) if isinstance(provider, KeyedProvider) and key else provider
        for provider in configuration
        for key in (provider.keys if isinstance(provider, KeyedProvider) else (None,))
    ]


def head_of(provider: Provider) -> bytes:
    if not isinstance(provider, KeyedProvider):
        return b""
    return b"k8s:enc:%s:v1:%s:" % (provider.type.value.encode(), provider.keys[0].name.encode())


def reference(configuration: list[Provider], stored: Stored) -> tuple[bytes, int] | None:
    """The plaintext and the position of the key that reads it, None where none does."""
    for position, provider in enumerate(flattened(configuration)):
        is_identity = isinstance(provider, IdentityProvider)
        if not stored.value.startswith(head_of(provider)) or (is_identity and stored.value.startswith(b"k8s:enc:")):
            continue
        try:
            plaintext = open_stored(provider, stored.value, stored.etcd_key)
        except (InvalidTag, CryptoError, ValueError):
            continue
        if plaintext in OBJECTS:
            return plaintext, position
    return None


@settings(max_examples=500)
@given(CONFIGURATIONS, stored_values())
def test_the_chain_reads_what_the_reference_reads_with_the_same_key(
    configuration: list[Provider], stored: Stored
) -> None:
    chain = Chain(configuration)
    expected = reference(configuration, stored)
    opened = chain.open(stored.value, stored.etcd_key)
    if expected is None:
        assert isinstance(opened, Quarantine)
        return
    plaintext, position = expected
    assert opened == Opened(plaintext, chain.keys[position], is_primary=position == 0)


@given(CONFIGURATIONS, stored_values())
def test_only_what_the_first_key_reads_is_kept(configuration: list[Provider], stored: Stored) -> None:
    chain = Chain(configuration)
    verdict = decide(stored.value, stored.etcd_key, chain)
    match reference(configuration, stored):
        case None:
            assert isinstance(verdict, Quarantine)
        case (_, 0):
            assert verdict == Keep(chain.primary)
        case (plaintext, position):
            assert verdict == Rewrap(chain.keys[position], plaintext)


@given(CONFIGURATIONS, st.sampled_from(OBJECTS), st.sampled_from(ETCD_KEYS))
def test_what_the_chain_seals_the_reference_reads_with_the_first_key(
    configuration: list[Provider], plaintext: bytes, etcd_key: bytes
) -> None:
    sealed = Chain(configuration).seal(plaintext, etcd_key)
    assert reference(configuration, Stored(sealed, etcd_key)) == (plaintext, 0)


@given(CONFIGURATIONS, stored_values())
def test_what_claims_a_value_is_configured_and_its_prefix_matches(
    configuration: list[Provider], stored: Stored
) -> None:
    chain = Chain(configuration)
    verdict = chain.open(stored.value, stored.etcd_key)
    if isinstance(verdict, Quarantine):
        matching = [
            ref
            for ref, provider in zip(chain.keys, flattened(configuration), strict=True)
            if head_of(provider) and stored.value.startswith(head_of(provider))
        ]
        assert list(verdict.claimed) == matching
