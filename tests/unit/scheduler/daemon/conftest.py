"""A cluster in memory for each test."""

from __future__ import annotations

import pytest

from kube_rewrap.worker.etcd.store import Expect, Put
from tests.fakes.objects import OLD, seal
from tests.fakes.store import MemoryStore
from tests.unit.scheduler.daemon.leader import LEADER, Cluster


@pytest.fixture
async def cluster() -> Cluster:
    """A cluster with one object under the old key, whose leader was just elected."""
    store = MemoryStore()
    seal(store, "/registry/secrets/default/a", OLD)
    elected = await store.commit([], [Put(LEADER, b"me")])
    return Cluster(store, Expect(LEADER, elected.revision, created=True))
