"""Everything that a real kube-apiserver stores is recognised as a Kubernetes object, and a part of it is not."""

from __future__ import annotations

import pytest

from kube_rewrap.worker.providers.plaintext import is_kubernetes_object
from tests.golden.recording import GOVERNED, UNGOVERNED, Recorded

# One of each form: protobuf, and JSON for custom resources.
SAMPLE = [
    next(one for one in GOVERNED if one.resource == resource and one.plaintext)
    for resource in ("secrets", "widgets.example.com")
]


@pytest.mark.parametrize("recorded", UNGOVERNED, ids=str)
def test_what_is_stored_in_plaintext_is_recognised(recorded: Recorded) -> None:
    assert is_kubernetes_object(recorded.value)


@pytest.mark.parametrize("recorded", GOVERNED, ids=str)
def test_what_was_encrypted_is_recognised_by_its_plaintext_alone(recorded: Recorded) -> None:
    assert is_kubernetes_object(recorded.plaintext or b"")
    if recorded.value.startswith(b"k8s:enc:"):
        assert not is_kubernetes_object(recorded.value)


@pytest.mark.parametrize("recorded", SAMPLE, ids=str)
def test_no_truncation_is_recognised_but_where_nothing_is_missing(recorded: Recorded) -> None:
    plaintext = recorded.plaintext or b""
    recognised = {length for length in range(len(plaintext)) if is_kubernetes_object(plaintext[:length])}
    if plaintext.startswith(b"{"):
        assert recognised == {len(plaintext) - 1}  # the newline at the end
        return
    # The envelope ends with two empty fields of two bytes each.
    assert recognised == {len(plaintext) - 4, len(plaintext) - 2}
