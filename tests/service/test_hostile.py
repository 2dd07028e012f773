"""A hundred thousand damaged messages on a real worker: it lives, is ready, and does honest work between them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.servers.etcd import EtcdCluster
from tests.servers.ports import free_ports
from tests.servers.redis import RedisOptions, RedisServer
from tests.service.harness import service
from tests.service.hostile import assert_honest_work_is_done, mutations, push
from tests.service.http import readiness

SEED = int(os.environ.get("CHAOS_SEED", "1"))
BATCHES = 50
EACH = 2_000


@pytest.mark.chaos
@pytest.mark.timeout(3600)
def test_a_hundred_thousand_damaged_messages(
    etcd: EtcdCluster, new_redis: Callable[[RedisOptions], RedisServer], tmp_path: Path
) -> None:
    place = f"127.0.0.1:{free_ports(1)[0]}"
    with service(etcd, new_redis(RedisOptions()), tmp_path) as one:
        worker = one.start("worker", REWRAP_METRICS_ADDR=place)
        for number in range(BATCHES):
            push(one, mutations(SEED * BATCHES + number, EACH))
            assert_honest_work_is_done(one, f"honest-{number}", seconds=300)
            one.wait(lambda: readiness(place) == 200, f"seed {SEED}, batch {number}: ready")
            assert worker.running
        assert worker.stop() == 0
        assert worker.said("library.message") == []
        assert len(worker.said("message.malformed")) > BATCHES * EACH / 2
