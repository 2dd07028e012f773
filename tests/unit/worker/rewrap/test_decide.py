"""What to do with one stored value: a row for each reason to keep, rewrap or leave alone."""

from __future__ import annotations

import pytest

from kube_rewrap.config.encryption.configuration import (
    IdentityProvider,
    Key,
    KeyedProvider,
    KmsProvider,
    Provider,
    ProviderType,
)
from kube_rewrap.config.encryption.secret import SecretBytes
from kube_rewrap.worker.errors import SealError, UnsupportedPrimaryError
from kube_rewrap.worker.providers.chain import Chain
from kube_rewrap.worker.rewrap.decide import decide
from kube_rewrap.worker.verdict import Keep, KeyRef, Quarantine, Reason, Rewrap
from kube_rewrap.worker.wrapped import Plugin, hash_of_key_id
from tests.fakes.plugins import new_data_key, unwrap_all

ETCD_KEY = b"/registry/secrets/default/a"
OBJECT = b'{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}'


def keyed(kind: ProviderType, name: str, byte: int) -> KeyedProvider:
    return KeyedProvider(kind, (Key(name, SecretBytes(bytes([byte]) * 32)),))


NEW = keyed(ProviderType.AESGCM, "new", 1)
OLD = keyed(ProviderType.AESCBC, "old", 2)
BOX = keyed(ProviderType.SECRETBOX, "box", 4)
RENAMED = keyed(ProviderType.AESCBC, "renamed", 2)
KMS = KmsProvider("v2", "plugin", "unix:///s", 3.0, None)
PLAIN = IdentityProvider()


def sealed(provider: Provider, plaintext: bytes = OBJECT, key: bytes = ETCD_KEY) -> bytes:
    return Chain([provider]).seal(plaintext, key)


def ref(provider: Provider) -> KeyRef:
    return Chain([provider]).primary


@pytest.mark.parametrize(
    ("stored", "verdict"),
    [
        pytest.param(sealed(NEW), Keep(ref(NEW)), id="the primary reads it => keep"),
        pytest.param(sealed(OLD), Rewrap(ref(OLD), OBJECT), id="another key reads it => rewrap"),
        pytest.param(OBJECT, Rewrap(ref(PLAIN), OBJECT), id="plaintext, and identity is configured => rewrap"),
    ],
)
def test_what_can_be_read(stored: bytes, verdict: Keep | Rewrap) -> None:
    assert decide(stored, ETCD_KEY, Chain([NEW, OLD, KMS, PLAIN])) == verdict


KEK = hash_of_key_id("kek-1")
WRAPPED = new_data_key(Plugin("plugin", "v2", "unix:///s"), "kek-1")
UNDER_KMS = Chain([KMS], targets={"plugin": KEK}).seal(OBJECT, ETCD_KEY, WRAPPED)


@pytest.mark.parametrize(
    ("providers", "stored", "mod_revision", "kek_since", "is_kept"),
    [
        pytest.param((KMS,), UNDER_KMS, 1, 0, True, id="no rotation is known of => keep"),
        pytest.param((KMS,), UNDER_KMS, 71, 70, True, id="written after it => keep"),
        pytest.param((KMS,), UNDER_KMS, 70, 70, False, id="written at that revision => rewrap"),
        pytest.param((KMS,), UNDER_KMS, 1, 70, False, id="written before => rewrap"),
        pytest.param((NEW, KMS), sealed(NEW), 1, 70, True, id="the primary is not KMS => keep"),
        pytest.param((NEW, KMS), UNDER_KMS, 71, 70, False, id="KMS, and not the primary => rewrap"),
    ],
)
def test_a_kek_rotated_without_a_trace(
    providers: tuple[Provider, ...], stored: bytes, mod_revision: int, kek_since: int, is_kept: bool
) -> None:
    chain, unwrapped = Chain(providers, targets={"plugin": KEK}), unwrap_all([WRAPPED.wrapped])
    verdict = decide(stored, ETCD_KEY, chain, unwrapped, mod_revision=mod_revision, kek_since=kek_since)
    assert isinstance(verdict, Keep if is_kept else Rewrap)


@pytest.mark.parametrize(
    ("stored", "providers", "reason", "claimed"),
    [
        pytest.param(b"", (NEW, PLAIN), Reason.UNKNOWN_BYTES, (), id="nothing at all"),
        pytest.param(b"\x00garbage", (NEW, PLAIN), Reason.UNKNOWN_BYTES, (), id="garbage, identity configured"),
        pytest.param(b"\x00garbage", (NEW,), Reason.UNKNOWN_BYTES, (), id="garbage, no identity"),
        pytest.param(OBJECT, (NEW,), Reason.IDENTITY_MISSING, (), id="plaintext, no identity"),
        pytest.param(sealed(OLD), (NEW, PLAIN), Reason.UNKNOWN_PREFIX, (), id="a provider that is not configured"),
        pytest.param(b"k8s:enc:rot13:v1:k:x", (NEW,), Reason.UNKNOWN_PREFIX, (), id="a provider that nobody knows"),
        pytest.param(sealed(OLD), (RENAMED,), Reason.NO_SUCH_KEY, (), id="no key of that name"),
        pytest.param(
            b"k8s:enc:kms:v2:plugin:x", (NEW, KMS), Reason.AUTHENTICATION_FAILED, (ref(KMS),), id="malformed, under KMS"
        ),
        pytest.param(b"k8s:enc:kms:v2:other:x", (NEW, KMS), Reason.NO_SUCH_KEY, (), id="another KMS provider"),
        pytest.param(
            b"k8s:enc:kms:v1:plugin:x", (NEW, KMS), Reason.UNKNOWN_PREFIX, (KeyRef("kms", "plugin", "v1"),),
            id="another version of KMS",
        ),
        pytest.param(b"k8s:enc:kms:v1:other:x", (NEW, KMS), Reason.UNKNOWN_PREFIX, (), id="and of another name"),
        pytest.param(
            sealed(keyed(ProviderType.AESGCM, "new", 9)), (NEW,), Reason.AUTHENTICATION_FAILED, (ref(NEW),),
            id="the same name, other material",
        ),
        pytest.param(
            sealed(NEW, key=b"/registry/secrets/default/b"), (NEW,), Reason.AUTHENTICATION_FAILED, (ref(NEW),),
            id="another etcd key's value",
        ),
        pytest.param(
            sealed(BOX, b"no object"), (NEW, BOX), Reason.NOT_KUBERNETES, (ref(BOX),),
            id="authenticates, and is no object",
        ),
        pytest.param(
            sealed(OLD, b"no object"), (NEW, OLD), Reason.NOT_RECOGNISED, (ref(OLD),),
            id="opens without authentication, and is no object",
        ),
        pytest.param(
            sealed(OLD)[:-1], (NEW, OLD), Reason.NOT_RECOGNISED, (ref(OLD),), id="no whole number of blocks"
        ),
    ],
)  # fmt: skip
def test_what_is_left_alone(
    stored: bytes, providers: tuple[Provider, ...], reason: Reason, claimed: tuple[KeyRef, ...]
) -> None:
    verdict = decide(stored, ETCD_KEY, Chain(providers))
    assert isinstance(verdict, Quarantine)
    assert (verdict.reason, verdict.claimed) == (reason, claimed)


def test_a_verdict_names_the_key_and_hides_the_plaintext() -> None:
    verdict = decide(sealed(OLD, OBJECT), ETCD_KEY, Chain([NEW, OLD]))
    assert "Secret" not in repr(verdict)
    failed = decide(sealed(keyed(ProviderType.AESGCM, "new", 9)), ETCD_KEY, Chain([NEW]))
    assert isinstance(failed, Quarantine)
    assert failed.detail == (
        f"aesgcm:new ({NEW.keys[0].secret.fingerprint('aesgcm')}): authentication failed: wrong key, another etcd "
        "key's value, or damaged"
    )


def test_every_key_of_the_name_is_claimed_in_the_order_in_which_they_were_tried() -> None:
    first, second = keyed(ProviderType.AESGCM, "new", 7), keyed(ProviderType.AESGCM, "new", 8)
    verdict = decide(sealed(NEW), ETCD_KEY, Chain([first, PLAIN, second]))
    assert isinstance(verdict, Quarantine)
    assert verdict.claimed == (ref(first), ref(second))


def test_a_chain_needs_a_provider() -> None:
    with pytest.raises(ValueError, match="at least one provider"):
        Chain([])


def test_a_kms_primary_is_refused_before_anything_is_written() -> None:
    with pytest.raises(UnsupportedPrimaryError, match="'plugin'"):
        Chain([KMS, NEW]).require_writable()
    Chain([NEW, KMS]).require_writable()


def test_identity_does_not_store_what_looks_encrypted() -> None:
    with pytest.raises(SealError, match="nothing was written"):
        Chain([PLAIN]).seal(b"k8s:enc:aescbc:v1:k:x", ETCD_KEY)
