"""Identity leases as etcd holds them: protobuf as recorded, JSON, and what is neither."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from kube_rewrap.scheduler.apiservers.leases import IdentityLease, decode_lease
from tests.golden.convergence_recording import ID_HASH, LEASE, LEASE_KEY, LEASE_NAME

KEY = b"/registry/leases/kube-system/apiserver-x"
OURS = {"apiserver.kubernetes.io/identity": "kube-apiserver", "kubernetes.io/hostname": "node-1"}


def document(
    name: str = "apiserver-x",
    labels: Mapping[str, str] = OURS,
    renewed: object = "2026-11-23T10:00:00.500000Z",
    seconds: object = 3600,
    kind: str = "Lease",
) -> bytes:
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": kind,
        "metadata": {"name": name, "labels": dict(labels)},
        "spec": {"renewTime": renewed, "leaseDurationSeconds": seconds},
    }
    return json.dumps(lease).encode()


def test_the_recorded_lease_and_its_id_in_the_recorded_metrics() -> None:
    lease = decode_lease(LEASE_KEY, LEASE)
    assert lease == IdentityLease(LEASE_NAME, "vm", 1795409109.946943, 3600)
    assert lease is not None
    assert lease.id_hash == ID_HASH


def test_a_lease_is_live_up_to_its_last_second() -> None:
    lease = IdentityLease("apiserver-x", "", 1000.0, 3600)
    assert (lease.is_live(4600.0), lease.is_live(4600.5)) == (True, False)


def test_a_lease_in_json() -> None:
    assert decode_lease(KEY, document()) == IdentityLease("apiserver-x", "node-1", 1795428000.5, 3600)


def test_without_labels_it_counts() -> None:
    lease = decode_lease(KEY, document(labels={}))
    assert lease is not None
    assert lease.hostname == ""


def test_another_api_server_s_lease_is_none_of_ours() -> None:
    assert decode_lease(KEY, document(labels={"apiserver.kubernetes.io/identity": "sample-apiserver"})) is None


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        pytest.param(b"k8s:enc:aesgcm:v1:key1:xxxx", "stored encrypted", id="encrypted"),
        pytest.param(b"", "neither protobuf nor JSON", id="empty"),
        pytest.param(b"\xd9\xd9\xf7\xa0", "neither protobuf nor JSON", id="CBOR"),
        pytest.param(b'{"a":' * 100_000, "nested too deeply", id="deep JSON"),
        pytest.param(b"{}", "not a Lease", id="no lease"),
        pytest.param(document(name="apiserver-y"), "not a Lease of the name in its etcd key", id="another name"),
        pytest.param(document(kind="Secret"), "not a Lease of the name in its etcd key", id="another kind"),
        pytest.param(document(renewed=None), "not a Lease", id="never renewed"),
        pytest.param(document(renewed="yesterday"), "isoformat", id="renewed at no time"),
        pytest.param(document(renewed="2026-11-23T10:00:00"), "no time zone", id="renewed somewhere"),
        pytest.param(document(seconds=0), "not positive", id="valid for no time"),
        pytest.param(b"k8s\x00", "not a Lease of the name in its etcd key", id="nothing in the envelope"),
        pytest.param(b"k8s\x00" + b"\x0a", "not a Lease in protobuf", id="cut off in a length"),
        pytest.param(b"k8s\x00" + b"\x0a\x05ab", "not a Lease in protobuf", id="cut off in a field"),
        pytest.param(b"k8s\x00" + b"\x02\x00", "not a Lease in protobuf", id="field 0"),
        pytest.param(b"k8s\x00" + b"\x0b\x00", "not a Lease in protobuf", id="a group that does not end"),
        pytest.param(b"k8s\x00" + b"\x08\x01", "not a Lease of the name in its etcd key", id="a number for a message"),
        pytest.param(b"k8s\x00" + b"\x18" + b"\xff" * 11, "not a Lease in protobuf", id="a number that is too long"),
        pytest.param(b"k8s\x00" + b"\x0b" * 10_000, "not a Lease in protobuf", id="deep groups"),
        pytest.param(LEASE[:-40], "not a Lease in protobuf", id="the recorded one, cut off"),
        pytest.param(LEASE.replace(LEASE_NAME.encode(), b"\xff" * len(LEASE_NAME)), "in protobuf", id="not a text"),
        pytest.param(b"{" + b" " * 2**20, "too large", id="too large"),
    ],
)
def test_what_can_not_be_understood_is_refused_with_its_key(value: bytes, fault: str) -> None:
    with pytest.raises(ValueError, match=fault) as caught:
        decode_lease(LEASE_KEY if b"coordination" in value and value.startswith(b"k8s") else KEY, value)
    assert str(caught.value).startswith("/registry/leases/kube-system/apiserver-")
