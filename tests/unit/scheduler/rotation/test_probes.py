"""A rotation's scan that compactions outrun is repeated after longer and longer pauses, not with each look."""

from __future__ import annotations

import asyncio

import pytest

from kube_rewrap.scheduler.apiservers.convergence import Convergence
from kube_rewrap.scheduler.rotation.request import RotationRequest, plan_rotation
from kube_rewrap.scheduler.rotation.standalone import StandaloneProbe
from kube_rewrap.worker.errors import CompactedError
from kube_rewrap.worker.etcd.ranges import KeyRange
from kube_rewrap.worker.etcd.store import Page
from kube_rewrap.worker.rate.brake import Brake
from tests.fakes.objects import NEW, fill
from tests.fakes.store import MemoryStore
from tests.unit.clock import without_waiting
from tests.unit.scheduler.campaigns.harness import new_cluster
from tests.unit.scheduler.rotation.test_driver import NOW, SECRETS, is_idle, text

pytestmark = pytest.mark.timeout(30)

ROTATION = plan_rotation(text(SECRETS), "enc.json", RotationRequest(), (), NOW, is_idle=is_idle)


class Outrun(MemoryStore):
    """Has compacted each pinned revision when a page of it is asked for."""

    is_outrun = True
    pinned = 0

    async def page(self, keys: KeyRange, limit: int, *, revision: int = 0, since: int = 0) -> Page:
        self.pinned += bool(revision)
        if revision and self.is_outrun:
            raise CompactedError("required revision has been compacted")
        return await super().page(keys, limit, revision=revision, since=since)


class NoApiservers:
    async def probe(self, _file: str, _targets: object) -> Convergence:
        raise AssertionError("a scan asks no kube-apiserver")


async def scans_in(seconds: int, probe: StandaloneProbe, store: Outrun) -> int:
    """Look every two seconds, as the controller does; returns how many scans that made."""
    before = store.pinned
    for _ in range(seconds // 2):
        with pytest.raises(CompactedError, match=r"the next scan begins in .* min: etcd compacted"):
            await probe.scan(ROTATION)
        await asyncio.sleep(2)
    return (store.pinned - before) // 5  # a scan begins five times before it gives up


@without_waiting
async def test_pauses_between_scans_double_up_to_half_an_hour_and_end_with_a_scan_that_ends() -> None:
    store = Outrun()
    fill(store, NEW)
    probe = StandaloneProbe(new_cluster(store, NEW), NoApiservers(), Brake())  # type: ignore[arg-type]
    assert [await scans_in(seconds, probe, store) for seconds in (60, 120, 240, 480, 960, 1_800, 1_800)] == [1] * 7
    store.is_outrun = False
    await asyncio.sleep(1_800)
    assert (await probe.scan(ROTATION)).stale == 0
    store.is_outrun = True
    await asyncio.sleep(10)
    assert await scans_in(60, probe, store) == 1
