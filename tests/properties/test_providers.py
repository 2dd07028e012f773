"""What any provider seals it opens again, whatever the plaintext, the key, its name and the etcd key."""

from __future__ import annotations

import os

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from kube_rewrap.config.encryption.configuration import IdentityProvider, Key, KeyedProvider, ProviderType
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.providers.aescbc import AesCbc
from kube_rewrap.worker.providers.aesgcm import AesGcm
from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.providers.cipher import Cipher, OpenError
from kube_rewrap.worker.providers.identity import Identity
from kube_rewrap.worker.providers.secretbox import Secretbox
from kube_rewrap.worker.verdict import Quarantine, Reason
from tests.golden.upstream import open_stored

PLAINTEXTS = st.binary(max_size=300)
ETCD_KEYS = st.binary(max_size=80)
NAMES = st.text(min_size=1, max_size=40).filter(lambda name: name.isprintable())
AES_KEYS = st.sampled_from([16, 24, 32]).flatmap(lambda size: st.binary(min_size=size, max_size=size))
BOX_KEYS = st.binary(min_size=32, max_size=32)
CIPHERS: st.SearchStrategy[Cipher] = st.one_of(
    st.builds(AesCbc, AES_KEYS.map(SecretBytes)),
    st.builds(AesGcm, AES_KEYS.map(SecretBytes)),
    st.builds(Secretbox, BOX_KEYS.map(SecretBytes)),
    st.builds(Identity),
)
PROVIDERS = st.one_of(
    st.builds(
        lambda kind, name, key: KeyedProvider(kind, (Key(name, SecretBytes(key)),)),
        st.sampled_from([ProviderType.AESCBC, ProviderType.AESGCM]),
        NAMES,
        AES_KEYS,
    ),
    st.builds(lambda name, key: KeyedProvider(ProviderType.SECRETBOX, (Key(name, SecretBytes(key)),)), NAMES, BOX_KEYS),
    st.builds(IdentityProvider),
)
OBJECTS = st.text(max_size=60).map(
    lambda text: (
        b'{"apiVersion":"v1","kind":"Secret","metadata":{},"data":"%s"}'
        % text.encode("unicode_escape").replace(b"\\", b"/").replace(b'"', b"'")
    )
)


@given(CIPHERS, PLAINTEXTS, ETCD_KEYS)
def test_a_cipher_opens_what_it_sealed(cipher: Cipher, plaintext: bytes, etcd_key: bytes) -> None:
    assume(not (isinstance(cipher, Identity) and plaintext.startswith(b"k8s:enc:")))
    sealed = cipher.seal_with(os.urandom(cipher.nonce_size), plaintext, etcd_key)
    assert cipher.open(sealed, etcd_key) == plaintext


@given(CIPHERS, PLAINTEXTS, ETCD_KEYS, st.data())
def test_the_nonce_stands_in_front_and_decides_the_rest(
    cipher: Cipher, plaintext: bytes, etcd_key: bytes, data: st.DataObject
) -> None:
    nonce = data.draw(st.binary(min_size=cipher.nonce_size, max_size=cipher.nonce_size))
    sealed = cipher.seal_with(nonce, plaintext, etcd_key)
    assert sealed.startswith(nonce)
    assert sealed == cipher.seal_with(nonce, plaintext, etcd_key)


@given(CIPHERS, st.binary(max_size=300), ETCD_KEYS)
def test_a_cipher_opens_or_refuses_any_bytes(cipher: Cipher, stored: bytes, etcd_key: bytes) -> None:
    try:
        opened = cipher.open(stored, etcd_key)
    except OpenError:
        return
    assert isinstance(cipher, AesCbc | Identity)
    assert len(opened) <= len(stored)


@given(AES_KEYS, PLAINTEXTS, ETCD_KEYS, ETCD_KEYS)
def test_aesgcm_binds_a_value_to_its_etcd_key(secret: bytes, plaintext: bytes, mine: bytes, other: bytes) -> None:
    assume(mine != other)
    cipher = AesGcm(SecretBytes(secret))
    sealed = cipher.seal_with(os.urandom(12), plaintext, mine)
    with pytest.raises(OpenError, match="authentication failed"):
        cipher.open(sealed, other)


@given(PROVIDERS, OBJECTS, ETCD_KEYS)
def test_a_chain_opens_what_it_sealed_and_calls_it_current(
    provider: KeyedProvider | IdentityProvider, plaintext: bytes, etcd_key: bytes
) -> None:
    chain = Chain([provider])
    sealed = chain.seal(plaintext, etcd_key)
    assert chain.open(sealed, etcd_key) == Opened(plaintext, chain.primary, is_primary=True)
    assert open_stored(provider, sealed, etcd_key) == plaintext


@given(PROVIDERS, st.binary(max_size=200), ETCD_KEYS)
def test_a_chain_never_yields_what_is_no_kubernetes_object(
    provider: KeyedProvider | IdentityProvider, plaintext: bytes, etcd_key: bytes
) -> None:
    assume(not plaintext.startswith((b"{", b"k8s", b"\xd9\xd9\xf7")))
    chain = Chain([provider])
    verdict = chain.open(chain.seal(plaintext, etcd_key), etcd_key)
    assert isinstance(verdict, Quarantine)
    assert verdict.reason is _REASONS[chain.primary.provider]


_REASONS = {
    "aescbc": Reason.NOT_RECOGNISED,
    "aesgcm": Reason.NOT_KUBERNETES,
    "secretbox": Reason.NOT_KUBERNETES,
    "identity": Reason.UNKNOWN_BYTES,
}


@given(PROVIDERS, st.binary(max_size=200), ETCD_KEYS)
def test_a_verdict_never_repeats_what_is_behind_the_prefix(
    provider: KeyedProvider | IdentityProvider, body: bytes, etcd_key: bytes
) -> None:
    canary = b"canary-in-the-plaintext"
    chain = Chain([provider])
    shown = repr(chain.open(chain.seal(canary + body, etcd_key), etcd_key)) + repr(chain)
    assert "canary" not in shown
    if isinstance(provider, KeyedProvider):
        assert repr(provider.keys[0].secret.reveal())[2:-1] not in shown
