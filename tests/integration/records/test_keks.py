"""Processes that record the KEK of one KMS provider at the same time, on a real etcd: none of them fails for that."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from functools import partial

from kube_rewrap.config.settings.schema import EtcdSettings
from kube_rewrap.worker.etcd.client import open_store
from kube_rewrap.worker.records.kek import observe
from kube_rewrap.worker.records.keks import Keks
from kube_rewrap.worker.records.keyspace import Keyspace
from tests.servers.etcd import EtcdCluster

WRITERS = 12
A, B = "sha256:" + "a" * 64, "sha256:" + "b" * 64


async def test_processes_that_see_a_kek_at_once_agree_on_one_record(etcd: EtcdCluster) -> None:
    settings = EtcdSettings(endpoints=tuple(etcd.endpoints))
    async with AsyncExitStack() as stack:
        stores = [await stack.enter_async_context(open_store(settings, "/kube-rewrap")) for _ in range(WRITERS)]
        tables = [Keks(store, Keyspace()) for store in stores]
        for named, target, former in ((A, A, ()), (B, B, (A,))):
            sees = [
                partial(observe, provider="cloud", named=named, now=float(number), settle=0.0)
                for number in range(WRITERS)
            ]
            stored = await asyncio.gather(*(one.note("cloud", see) for one, see in zip(tables, sees, strict=True)))
            [record] = await tables[0].all()
            assert {one.value for one in stored} == {record.value}
            assert (record.value.target, record.value.former) == (target, former)
