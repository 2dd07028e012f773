"""Messages are hints: between scheduler and workers stands one who drops, doubles, delays and reorders them."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
import redis as redis_client

from kube_rewrap.worker.queue.names import BATCHES
from tests.servers.etcd import EtcdCluster
from tests.servers.redis import RedisServer
from tests.service.harness import NEW, OLD, Service, service
from tests.service.midway import OBJECTS, assert_ended_well

pytestmark = pytest.mark.timeout(180)

SEED = 7
WAYS = ("dropped", "doubled", "held back")


class BadQueue:
    """Takes messages off the queue before the workers do, and does to them what the dice say."""

    def __init__(self, url: str) -> None:
        self.did: Counter[str] = Counter()
        self._url = url
        self._dice = random.Random(SEED)
        self._held: list[Any] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._meddle, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(10)

    def _meddle(self) -> None:
        with redis_client.Redis.from_url(self._url) as client:
            while not self._stop.is_set():
                # Redis serves who has waited longest: longer than workers wait at a time, so that it gets its share.
                taken: Any = client.brpop([BATCHES], timeout=2)
                if taken is not None:
                    self._meddle_with(client, taken[1])
                if self._held and self._dice.random() < 0.2:
                    self._let_go(client)

    def _meddle_with(self, client: redis_client.Redis, message: Any) -> None:
        # In turn, so that few messages are enough for each.
        what = WAYS[self.did.total() % 3]
        self.did[what] += 1
        if what == "held back":
            self._held.append(message)
        elif what == "doubled":
            client.lpush(BATCHES, message, message)

    def _let_go(self, client: redis_client.Redis) -> None:
        self._dice.shuffle(self._held)
        client.lpush(BATCHES, *self._held)
        self._held.clear()


@pytest.fixture
def cluster(etcd: EtcdCluster, redis: RedisServer, tmp_path: Path) -> Iterator[Service]:
    with service(etcd, redis, tmp_path) as one:
        yield one


def test_dropped_doubled_and_late_messages_cost_nothing_but_time(cluster: Service) -> None:
    cluster.variables["REWRAP_RATE"] = "150"
    cluster.fill(OBJECTS)
    cluster.configure(NEW, OLD)
    with BadQueue(cluster.redis.url) as queue:
        cluster.start("scheduler")
        # Alone at first: it gets its own doubles back, and so comes to each of the three.
        cluster.wait(lambda: min(queue.did[what] for what in WAYS) > 0, "messages dropped, doubled and held back")
        for _ in range(2):
            cluster.start("worker")
        cluster.wait_finished(1, seconds=120)
    assert_ended_well(cluster)
