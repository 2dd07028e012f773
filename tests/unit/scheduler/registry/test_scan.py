"""A scan asks etcd for no range of the whole registry, whose keys etcd would count while all writes wait."""

from __future__ import annotations

import pytest

from kube_rewrap.scheduler.registry.scan import scan_cluster
from kube_rewrap.worker.etcd.ranges import KeyRange
from tests.fakes.objects import NEW, fill
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.campaigns.harness import new_cluster

pytestmark = pytest.mark.timeout(30)

REGISTRY = KeyRange.of_prefix(b"/registry/")


class Asked(MemoryStore):
    """Notes the ranges whose keys it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.ranges: list[KeyRange] = []

    async def keys(self, keys: KeyRange, limit: int) -> tuple[list[bytes], int]:
        self.ranges.append(keys)
        return await super().keys(keys, limit)


@pytest.mark.parametrize(
    ("namespaces", "asked"),
    [
        pytest.param((b"kube-system", b"default"), False, id="a registry of a kube-apiserver"),
        pytest.param((), True, id="another one: only its keys tell whether it is empty"),
    ],
)
async def test_a_scan_counts_the_whole_registry_only_where_no_kube_apiserver_wrote_it(
    namespaces: tuple[bytes, ...], asked: bool
) -> None:
    store = Asked()
    fill(store, NEW)
    for name in namespaces:
        store.put(b"/registry/namespaces/" + name, b"{}")
    _, found = await scan_cluster(new_cluster(store, NEW))
    assert found.objects == 12
    assert (REGISTRY in store.ranges) == asked
