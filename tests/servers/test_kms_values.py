"""The stand-ins' own KMS v2 agrees with the recording."""

from __future__ import annotations

from tests.golden.recording import KMS
from tests.servers.kms_values import KmsKey

RECORDED = KmsKey("kmsnew", "unix:///unused")


def test_it_opens_what_kube_apiserver_stored() -> None:
    mine = [one for one in KMS if one.value.startswith(RECORDED.prefix)]
    assert len(mine) == 35
    assert all(RECORDED.open(one.key.decode(), one.value) == one.plaintext for one in mine)


def test_what_it_seals_opens_under_its_key_only() -> None:
    sealed = RECORDED.seal("/registry/secrets/a/b", b"plain" * 100)
    assert RECORDED.open("/registry/secrets/a/b", sealed) == b"plain" * 100
    assert RECORDED.open("/registry/secrets/a/c", sealed) is None
    assert RECORDED.is_current(sealed)
    turned = KmsKey("kmsnew", "unix:///unused")
    turned.turn("kek-2")
    assert not turned.is_current(sealed)
    assert turned.open("/registry/secrets/a/b", sealed) == b"plain" * 100
