"""Edits that a move to KMS needs, and the way back: a KMS provider is added, promoted and dropped as a key is."""

from __future__ import annotations

import base64
import json

import pytest

from kube_rewrap.config.editing.edit import EditError, add_read_kms, drop_key, promote
from kube_rewrap.config.encryption.configuration import load
from kube_rewrap.config.encryption.provider import KmsProvider, ProviderType

KEY = base64.b64encode(b"a" * 32).decode()
KMS = ProviderType.KMS
CLOUD = KmsProvider("v2", "cloud", "unix:///run/kms/socket.sock", 3.0, None)
HEAD = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
BLOCK = f"""{HEAD}resources: # all
- resources: [secrets]
  providers:
  - aescbc: # since 2024
      keys:
      - name: a
        secret: {KEY}
  - identity: {{}} # not yet
"""
ADDED = BLOCK.replace(
    "  - identity",
    """  - kms:
      apiVersion: v2
      name: cloud
      endpoint: "unix:///run/kms/socket.sock"
      timeout: 3s
  - identity""",
)
TWO = BLOCK + f"- resources: [configmaps]\n  providers: [{{aescbc: {{keys: [{{name: b, secret: {KEY}}}]}}}}]\n"


def test_it_is_added_to_read_with_and_no_other_byte_changes() -> None:
    added = add_read_kms(BLOCK.encode(), "f", {0: CLOUD})
    assert added.decode() == ADDED
    assert load(added, "f").entries[0].providers[1] == CLOUD


def test_it_is_promoted_and_what_wrote_before_is_dropped() -> None:
    promoted = promote(ADDED.encode(), "f", [0], KMS, "cloud")
    providers = load(promoted, "f").entries[0].providers
    assert [one.type.value for one in providers] == ["kms", "aescbc", "identity"]
    assert "# since 2024" in promoted.decode()
    dropped = drop_key(promoted, "f", [0], ProviderType.AESCBC, "a")
    assert [one.type.value for one in load(dropped, "f").entries[0].providers] == ["kms", "identity"]
    assert KEY not in dropped.decode()


def test_one_that_only_reads_is_dropped_whole() -> None:
    assert drop_key(ADDED.encode(), "f", [0], KMS, "cloud").decode() == BLOCK


def test_one_that_writes_is_not_dropped() -> None:
    promoted = promote(ADDED.encode(), "f", [0], KMS, "cloud")
    with pytest.raises(EditError, match="kube-apiserver writes with this key"):
        drop_key(promoted, "f", [0], KMS, "cloud")
    assert promote(promoted, "f", [0], KMS, "cloud") == promoted


def test_each_entry_gets_its_own() -> None:
    second = KmsProvider("v2", "cloud-2", CLOUD.endpoint, 0.25, None)
    entries = load(add_read_kms(TWO.encode(), "f", {0: CLOUD, 1: second}), "f").entries
    assert [entry.providers[1] for entry in entries] == [CLOUD, second]


def test_a_name_that_the_file_has_is_refused() -> None:
    with pytest.raises(EditError, match="already has a KMS provider of this name"):
        add_read_kms(ADDED.encode(), "f", {0: CLOUD})
    with pytest.raises(EditError, match="would have another meaning"):
        add_read_kms(TWO.encode(), "f", {0: CLOUD, 1: CLOUD})


def test_v1_is_never_added() -> None:
    with pytest.raises(ValueError, match="only KMS v2"):
        add_read_kms(BLOCK.encode(), "f", {0: KmsProvider("v1", "old", CLOUD.endpoint, 3.0, 1000)})


@pytest.mark.parametrize("name", ["true", "007", "with space", 'quote"', "emoji-\u2603"])
def test_any_name_and_endpoint_comes_back_as_it_was(name: str) -> None:
    provider = KmsProvider("v2", name, "unix:///run/a b#c.sock", 1.5, None)
    for text in (BLOCK, _as_json()):
        assert load(add_read_kms(text.encode(), "f", {0: provider}), "f").entries[0].providers[1] == provider


def _as_json() -> str:
    return json.dumps(
        {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [
                {"resources": ["secrets"], "providers": [{"aescbc": {"keys": [{"name": "a", "secret": KEY}]}}]}
            ],
        }
    )
