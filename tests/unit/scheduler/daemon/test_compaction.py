"""A leader whose scans etcd compacts away, as those that ask a slow plugin for each object: it leads on."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from structlog.testing import capture_logs

from kube_rewrap.worker.errors import FencedError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Expect, Page, Put
from kube_rewrap.worker.records.batch import BatchState
from kube_rewrap.worker.records.campaign import CampaignState
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.proofs import Proofs
from kube_rewrap.worker.records.request import RequestKind, RequestState, start_request
from tests.fakes.objects import NEW, OLD, seal
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.daemon.leader import KEYSPACE, LEADER, NOW, Cluster, until

pytestmark = pytest.mark.timeout(30)


async def finish_batches(cluster: Cluster, campaign: str) -> None:
    """As workers do."""
    checkpoints = Checkpoints(cluster.store, KEYSPACE)
    async for stored in checkpoints.all(campaign):
        await checkpoints.save(stored.holding(replace(stored.value, state=BatchState.DONE)))


async def compact_away(cluster: Cluster, campaign: str) -> None:
    """Fails every part of each proof, as workers do when their revision is gone."""
    proofs = Proofs(cluster.store, KEYSPACE)
    while True:
        for stored in await proofs.all(campaign):
            if not stored.value.compacted:
                try:
                    await proofs.save(stored.holding(replace(stored.value, compacted=True)))
                except FencedError:
                    continue
        await asyncio.sleep(0.005)


async def test_a_proof_that_never_ends_makes_the_campaign_incomplete_and_not_the_leaders_term(cluster: Cluster) -> None:
    async with cluster.under("sha256:1", NEW, OLD):
        first = await cluster.campaign(CampaignState.RUNNING)
        await finish_batches(cluster, first.id)
        workers = asyncio.create_task(compact_away(cluster, first.id))
        ended = await cluster.campaign(CampaignState.INCOMPLETE)
        workers.cancel()
        assert ended.because.startswith("it is not proven: etcd compacted every revision away within one proof scan")
        assert ended.ended_at
        assert await Proofs(cluster.store, KEYSPACE).all(first.id) == []
        await cluster.requests.submit(start_request({"id": "next"}, "", NOW))
        await cluster.campaign(CampaignState.RUNNING, first.id)


class Compacting(MemoryStore):
    """Once `is_slow`, it compacts the revision of each scan away before its first page."""

    is_slow = False

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        if revision and self.is_slow:
            self.put(b"/registry/events/tick", b"%d" % revision)
            self.compact()
        return await super().page(keys, limit, revision=revision, since=since)


async def test_a_full_check_that_never_ends_is_made_again_after_the_whole_interval() -> None:
    store = Compacting()
    seal(store, "/registry/secrets/default/a", OLD)
    elected = await store.commit([], [Put(LEADER, b"me")])
    cluster = Cluster(store, Expect(LEADER, elected.revision, created=True))
    with capture_logs() as logs:
        async with cluster.under("sha256:1", NEW, OLD) as controllers:
            first = await cluster.campaign(CampaignState.RUNNING)
            await cluster.requests.control(RequestKind.CANCEL, first.id, "c-1")
            store.is_slow = True
            controllers.leader.schedule.soon()

            async def is_postponed() -> bool:
                return "full_check.postponed" in [one["event"] for one in logs]

            await until(is_postponed)
            assert not controllers.leader.schedule.is_due
    [postponed] = [one for one in logs if one["event"] == "full_check.postponed"]
    assert postponed["because"].startswith("etcd compacted every revision away within one scan, 5 times")


async def test_a_plan_that_never_ends_is_a_refusal_and_the_leader_leads_on() -> None:
    store = Compacting()
    seal(store, "/registry/secrets/default/a", OLD)
    elected = await store.commit([], [Put(LEADER, b"me")])
    cluster = Cluster(store, Expect(LEADER, elected.revision, created=True))
    async with cluster.under("sha256:1", NEW, OLD):
        first = await cluster.campaign(CampaignState.RUNNING)
        store.is_slow = True
        await cluster.requests.submit(start_request({"id": "mine"}, "", NOW))
        await cluster.requests.control(RequestKind.CANCEL, first.id, "c-1")

        async def is_refused() -> bool:
            stored = await cluster.requests.get("mine")
            return stored is not None and stored.value.state is RequestState.REFUSED

        await until(is_refused)
        store.is_slow = False
        await cluster.requests.submit(start_request({"id": "again"}, "", NOW))
        await cluster.campaign(CampaignState.RUNNING, first.id)
