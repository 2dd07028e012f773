"""When a proof under KMS v1 takes longer than etcd keeps its revision."""

from __future__ import annotations

import pytest

from kube_rewrap.config.settings.schema import KmsSettings
from kube_rewrap.scheduler.campaigns.plugin_calls import slow_proofs
from kube_rewrap.worker.records.inventory import Inventory, KeyTally, ResourceTally
from kube_rewrap.worker.verdict import KeyRef

V1, CBC, V2, LOCAL = (
    KeyRef("kms", "old", "v1"),
    KeyRef("kms", "old", "v1-cbc"),
    KeyRef("kms", "cloud", "1" * 16),
    KeyRef("aesgcm", "key", "2" * 16),
)


def found(primary: KeyRef, **objects: int) -> Inventory:
    keys = {"v1": V1, "cbc": CBC, "v2": V2, "local": LOCAL}
    tally = ResourceTally("secrets", primary, (primary,), {keys[name]: KeyTally(n) for name, n in objects.items()})
    return Inventory(70, (tally,))


@pytest.mark.parametrize(
    ("scan", "rate", "is_slow"),
    [
        pytest.param(found(V1, v1=3_000), 10.0, False, id="five minutes"),
        pytest.param(found(V1, v1=3_001), 10.0, True, id="more than that"),
        pytest.param(found(V1, v1=1_000, cbc=1_000, local=1_001), 10.0, True, id="what moves there is proven there"),
        pytest.param(found(V1, v1=3_001), 11.0, False, id="at a higher ceiling"),
        pytest.param(found(V1, v1=10**6), 0.0, False, id="without a ceiling"),
        pytest.param(found(V2, v1=10**6), 10.0, False, id="what leaves v1 is not proven there"),
        pytest.param(found(LOCAL, v1=10**6), 10.0, False, id="nothing is written under v1"),
    ],
)
def test_a_proof_that_may_outlast_its_revision_is_warned_of(scan: Inventory, rate: float, is_slow: bool) -> None:
    warnings = slow_proofs(scan, KmsSettings(v1_rate=rate))
    assert [("provider 'old'" in one, "Raise kms.v1_rate" in one) for one in warnings] == [(True, True)] * is_slow
