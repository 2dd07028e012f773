"""What a real kube-apiserver stored opens to what upstream decrypts, and what we seal opens as upstream would."""

from __future__ import annotations

import pytest

from kube_rewrap.config.encryption.configuration import KmsProvider, Provider
from kube_rewrap.worker.providers.chain import Chain, Opened
from kube_rewrap.worker.verdict import Quarantine, Reason
from tests.golden.recording import GOVERNED, KMS, LOCAL, PROVIDERS, READABLE, UNGOVERNED, Recorded, name_of, under
from tests.golden.upstream import open_stored

RECORDED_CHAIN = Chain(PROVIDERS)


def test_the_recording_is_whole() -> None:
    assert (len(GOVERNED), len(READABLE), len(KMS), len(UNGOVERNED)) == (279, 211, 68, 192)
    assert sum(len(under(provider)) for provider in LOCAL) == 211


@pytest.mark.parametrize("recorded", READABLE, ids=str)
def test_what_kube_apiserver_stored_opens_to_the_recorded_plaintext(recorded: Recorded) -> None:
    opened = RECORDED_CHAIN.open(recorded.value, recorded.key)
    assert isinstance(opened, Opened)
    assert opened.plaintext == recorded.plaintext
    assert opened.is_primary is not recorded.stale


@pytest.mark.parametrize("recorded", KMS, ids=str)
def test_without_the_kms_provider_in_the_configuration_its_values_are_quarantined(recorded: Recorded) -> None:
    assert Chain(LOCAL).wanted(recorded.value) == ()
    verdict = Chain(LOCAL).open(recorded.value, recorded.key)
    assert isinstance(verdict, Quarantine)
    assert (verdict.reason, verdict.claimed) == (Reason.UNKNOWN_PREFIX, ())


@pytest.mark.parametrize("provider", LOCAL, ids=name_of)
def test_the_independent_reader_reads_the_recording(provider: Provider) -> None:
    for recorded in under(provider):
        assert open_stored(provider, recorded.value, recorded.key) == recorded.plaintext


@pytest.mark.parametrize("provider", LOCAL, ids=name_of)
def test_what_we_seal_opens_by_the_independent_reader(provider: Provider) -> None:
    chain = Chain([provider, *(other for other in LOCAL if other is not provider)])
    for recorded in READABLE:
        plaintext = recorded.plaintext or b""
        sealed = chain.seal(plaintext, recorded.key)
        assert open_stored(provider, sealed, recorded.key) == plaintext
        reopened = chain.open(sealed, recorded.key)
        assert isinstance(reopened, Opened)
        assert (reopened.plaintext, reopened.is_primary) == (plaintext, True)


@pytest.mark.parametrize("provider", LOCAL[:-1], ids=name_of)
def test_two_sealings_of_one_plaintext_are_different(provider: Provider) -> None:
    recorded = READABLE[0]
    plaintext = recorded.plaintext or b""
    assert len({Chain([provider]).seal(plaintext, recorded.key) for _ in range(100)}) == 100


@pytest.mark.parametrize("provider", LOCAL, ids=name_of)
def test_each_provider_alone_reads_its_own_and_quarantines_the_rest(provider: Provider) -> None:
    chain = Chain([provider])
    own = under(provider)
    for recorded in READABLE:
        opened = chain.open(recorded.value, recorded.key)
        assert isinstance(opened, Opened) is (recorded in own)


def test_the_kms_providers_stand_in_the_chain_by_name() -> None:
    names = [provider.name for provider in PROVIDERS if isinstance(provider, KmsProvider)]
    assert [ref.name for ref in RECORDED_CHAIN.keys if ref.provider == "kms"] == names == ["kmsold", "kmsnew"]
