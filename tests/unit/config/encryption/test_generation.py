from __future__ import annotations

import pytest

from kube_rewrap.config.encryption.generation import content_hash, load_generation
from kube_rewrap.config.errors import DocumentError

TEXT = b"""apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
- resources: [secrets]
  providers:
  - identity: {}
"""


def test_the_hash_is_that_of_the_raw_bytes_in_the_form_of_the_metric() -> None:
    assert content_hash(b"") == "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"


def test_a_comment_makes_another_generation_of_the_same_configuration() -> None:
    first, second = load_generation(TEXT, "a.yaml"), load_generation(TEXT + b"# comment\n", "b.yaml")
    assert first.hash == content_hash(TEXT)
    assert (first.file, second.file) == ("a.yaml", "b.yaml")
    assert first.configuration == second.configuration
    assert first.hash != second.hash


def test_what_can_not_be_read_is_no_generation() -> None:
    with pytest.raises(DocumentError):
        load_generation(b"", "a.yaml")


# The file that a kube-apiserver v1.36.2 ran, and the label `hash` that it reported for it on /metrics: as it was,
# and after a comment was added to it.
RECORDED = b"""kind: EncryptionConfiguration
apiVersion: apiserver.config.k8s.io/v1
resources:
- resources: [secrets, configmaps]
  providers:
  - aescbc:
      keys:
      - {name: key2, secret: 6+y2IDIC6vjkXbFN4tr3xQGcp5HB/ZroL2/L9cgpGX8=}
      - {name: key1, secret: lpESp5E2pTj83C2InaZbkVVNL2te3zGdBCT8lM8k0BY=}
  - identity: {}
"""


@pytest.mark.parametrize(
    ("raw", "reported"),
    [
        (RECORDED, "sha256:e4bbe000c6e989b1d43b0ae20de1298cf975114bf8f1b49c037f047fbfaacc5f"),
        (RECORDED + b"# touched\n", "sha256:c009738c4ab508b37c4b5cbd50bf608a9753bc00956ba6f50338299f1b6d7b3d"),
    ],
    ids=["as loaded at the start", "after a reload"],
)
def test_agrees_with_what_a_real_kube_apiserver_reported(raw: bytes, reported: str) -> None:
    assert load_generation(raw, "encryption.yaml").hash == reported
