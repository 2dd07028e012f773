"""The etcd of tests of `rewrap rotate`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.servers.etcd import EtcdCluster, EtcdOptions


@pytest.fixture
def etcd(new_etcd: Callable[[EtcdOptions], EtcdCluster]) -> EtcdCluster:
    """This test's own: the stand-ins read its history."""
    return new_etcd(EtcdOptions())
