"""How records are read and written in bulk on a real etcd: requests and bytes as etcd counts them."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from urllib.request import urlopen

import pytest

from kube_rewrap.config.settings.schema import EtcdSettings, Settings
from kube_rewrap.scheduler.campaigns.status import look, look_at_all, peek
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.etcd.items import read_items
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Put, Store
from kube_rewrap.worker.records.batch import BatchSpec, Checkpoint
from kube_rewrap.worker.records.campaign import Campaign, CampaignState, Scope
from kube_rewrap.worker.records.campaigns import Campaigns
from kube_rewrap.worker.records.checkpoints import Checkpoints
from kube_rewrap.worker.records.codec import encode
from kube_rewrap.worker.records.keyspace import Keyspace
from tests.servers.etcd import EtcdCluster

pytestmark = pytest.mark.timeout(120)

SPACE = Keyspace()
_RANGES = (
    'grpc_server_handled_total{grpc_code="OK",grpc_method="Range",grpc_service="etcdserverpb.KV",grpc_type="unary"}'
)
_SENT = "etcd_network_client_grpc_sent_bytes_total"


def settings_of(etcd: EtcdCluster) -> Settings:
    endpoint = etcd.members[0].endpoint
    return replace(Settings(), etcd=EtcdSettings(endpoints=(endpoint,), call_timeout=5.0, give_up_after=20.0))


@asynccontextmanager
async def opened(etcd: EtcdCluster) -> AsyncIterator[Store]:
    async with open_store(settings_of(etcd).etcd, SPACE.state_prefix) as store:
        yield store


def counted(etcd: EtcdCluster, name: str) -> float:
    with urlopen(f"{etcd.members[0].endpoint}/metrics") as answer:  # noqa: S310 - the etcd of this test
        (value,) = re.findall(rf"^{re.escape(name)} (\S+)$", answer.read().decode(), re.MULTILINE)
    return float(value)


def campaign(name: str, batches: int = 0) -> Campaign:
    return Campaign(
        id=name,
        state=CampaignState.RUNNING,
        generation="g",
        scope=Scope(("secrets",)),
        batches=batches,
        planned_at="2026-01-01T00:00:00+00:00",
        because="why",
    )


def checkpoint(number: int, namespaces: int = 1) -> Checkpoint:
    counts = tuple((f"{'team' * 10}-{each}", 1) for each in range(namespaces))
    keys = KeyRange.of_prefix(b"/registry/secrets/%d/" % number)
    spec = BatchSpec(campaign="c", number=number, resource="secrets", range=keys, generation="g", namespaces=counts)
    return Checkpoint(spec=spec)


async def test_large_records_are_read_though_one_answer_could_not_hold_some_of_them(etcd: EtcdCluster) -> None:
    """The channel refuses an answer of more than 8 MiB; 40 of these records have 40 MiB."""
    keys = [SPACE.audit_entry(number) for number in range(40)]
    async with opened(etcd) as store:
        for key in keys:
            await store.commit([], [Put(key, bytes(2**20))])
        before = counted(etcd, _SENT)
        assert [item.key async for item in read_items(store, SPACE.audit)] == keys
        assert counted(etcd, _SENT) - before < 1.5 * 40 * 2**20


async def test_twice_as_many_records_cost_no_more_than_twice_the_requests_and_bytes(etcd: EtcdCluster) -> None:
    costs = []
    async with opened(etcd) as store:
        for first, count in ((0, 2_000), (2_000, 2_000)):
            for start in range(first, first + count, 64):
                puts = [
                    Put(SPACE.audit_entry(start + each), b"x" * 300) for each in range(min(64, first + count - start))
                ]
                await store.commit([], puts)
            before = counted(etcd, _RANGES), counted(etcd, _SENT)
            assert len([item async for item in read_items(store, SPACE.audit)]) == first + count
            costs.append((counted(etcd, _RANGES) - before[0], counted(etcd, _SENT) - before[1]))
    (requests, sent), (more_requests, more_sent) = costs
    assert (more_requests <= 2.2 * requests, more_sent <= 2.1 * sent) == (True, True)
    assert (requests < 80, sent < 1.3 * 2_000 * 400) == (True, True)


async def test_batches_that_no_transaction_could_hold_at_once_are_all_recorded(etcd: EtcdCluster) -> None:
    """40 records of about 90 kB have more than the 1.5 MiB that etcd takes in a request."""
    batches = [checkpoint(number, namespaces=1_800) for number in range(40)]
    async with opened(etcd) as store:
        created = await Campaigns(store, SPACE).create(campaign("c", 40), batches)
        found = [one async for one in Checkpoints(store, SPACE).all("c")]
    assert [one.value for one in found] == batches
    assert all(one.revision < created.revision for one in found)
    assert len({one.revision for one in found}) < 10


async def test_a_list_reads_each_campaign_once(etcd: EtcdCluster) -> None:
    names = [f"20260101-{number:06d}-0000" for number in range(300)]
    values = [encode(campaign(name).to_json()) for name in names]
    async with opened(etcd) as store:
        for name, value in zip(names, values, strict=True):
            await store.commit([], [Put(SPACE.campaign(name), value)])
        await store.commit([], [Put(SPACE.campaign("broken"), b"no JSON")])
    before = counted(etcd, _SENT)
    rows = await look_at_all(settings_of(etcd))
    sent = counted(etcd, _SENT) - before
    assert [row["id"] for row in rows if row["state"] == "running"] == names
    assert [row["id"] for row in rows if row["state"] == "unreadable"] == ["broken"]
    assert sent < 1.5 * sum(map(len, values))


async def test_a_peek_says_what_a_look_does_without_the_batches(etcd: EtcdCluster) -> None:
    async with opened(etcd) as store:
        await Campaigns(store, SPACE).create(campaign("c", 100), [checkpoint(number, 100) for number in range(100)])
    before = counted(etcd, _SENT)
    peeked = await peek(settings_of(etcd), "c")
    peek_sent = counted(etcd, _SENT) - before
    looked = await look(settings_of(etcd), "c")
    assert peeked is not None
    assert looked is not None
    assert (peeked.name, peeked.state, peeked.because) == (looked.name, looked.state, looked.because)
    assert (len(peeked.batches), len(looked.batches)) == (0, 100)
    assert peek_sent < 10_000 < counted(etcd, _SENT) - before - peek_sent
