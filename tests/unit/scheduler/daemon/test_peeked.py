"""A leader under KMS: a plan that does not open the values neither shows figures nor answers a full check."""

from __future__ import annotations

import base64

import pytest

from kube_rewrap.config.encryption.provider import KmsProvider
from kube_rewrap.worker.records.campaign import CampaignState
from kube_rewrap.worker.records.request import RequestKind
from tests.fakes.objects import OBJECT, OLD
from tests.fakes.plugins import MemoryPlugins
from tests.unit.scheduler.daemon.leader import Cluster, until
from tests.unit.worker.providers.kms_values import cbc, v1_body

pytestmark = pytest.mark.timeout(20)

KMS = KmsProvider("v1", "cloud", "unix:///kms.sock", 3.0, 1000)
DATA_KEY = b"d" * 32


async def test_values_that_only_a_full_check_finds_get_a_campaign_and_stay_shown(cluster: Cluster) -> None:
    cluster.data_keys = MemoryPlugins()
    wrapped, prefix = base64.b64encode(DATA_KEY), b"k8s:enc:kms:v1:cloud:"
    cluster.store.put(b"/registry/secrets/default/a", prefix + v1_body(wrapped, cbc(DATA_KEY, OBJECT)))
    cluster.store.put(b"/registry/secrets/default/junk", prefix + v1_body(wrapped, bytes(80)))

    async def shows_both() -> bool:
        shown = cluster.shown()
        return (shown.get("kube_rewrap_stale_objects"), sum_of_unreadable(shown)) == (1.0, 1.0)

    async with cluster.under("sha256:1", KMS, OLD) as controllers:
        first = await cluster.campaign(CampaignState.RUNNING)
        await cluster.requests.control(RequestKind.CANCEL, first.id, "c-1")
        controllers.leader.schedule.soon()
        await until(shows_both)
        second = await cluster.campaign(CampaignState.RUNNING, first.id)
        assert await shows_both()
    assert second.because.startswith("a full check found that 1 of 2 objects are not under their primary key: ")
    assert second.batches == 1


def sum_of_unreadable(shown: dict[str, float]) -> float:
    return sum(value for name, value in shown.items() if name.startswith("kube_rewrap_unreadable_objects "))
