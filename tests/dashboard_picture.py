"""`python -m tests.dashboard_picture`: records a rotation with Prometheus, and draws deploy/dashboard.json from it.

docs/dashboard.svg is what Grafana would show of the same queries, drawn by `tests/servers/panels.py`.
"""

from __future__ import annotations

import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.servers.apiserver import Temper
from tests.servers.dashboard import PANELS, series_of
from tests.servers.etcd import EtcdOptions, start_etcd
from tests.servers.kms_plugin import start_plugin
from tests.servers.kms_values import KmsKey
from tests.servers.panels import draw
from tests.servers.redis import RedisOptions, start_redis
from tests.service.watched import Load, watched

TARGET = Path(__file__).parents[1] / "docs" / "dashboard.svg"
LOAD = Load(5_000, 60, 20_000, tuple(Temper(poll=2.0, writes=3, seed=number) for number in range(3)))
SHOWN_SECONDS = 80.0
DONE = "kube_rewrap_campaign_objects_processed / kube_rewrap_campaign_objects_planned"


def main() -> int:
    """Rotates from a KMS provider to aesgcm while three kube-apiservers write; draws when 70 % is rewrapped."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        for name in ("etcd", "redis", "service"):
            (directory / name).mkdir()
        etcd = stack.enter_context(start_etcd(directory / "etcd", EtcdOptions()))
        redis = stack.enter_context(start_redis(directory / "redis", RedisOptions()))
        plugin = stack.enter_context(start_plugin(str(directory / "kms.sock")))
        first = KmsKey("cloud", plugin.endpoint, plugin.behaviour.key_id)
        one = stack.enter_context(watched(etcd, redis, directory / "service", first, LOAD))
        one.cluster.start("rotate", "--provider", "aesgcm", "--yes")
        one.cluster.wait(lambda: one.rotation()["step"] == "rewrap", "the step rewrap", 60)
        one.cluster.wait(
            lambda: any(float(found["value"][1]) > 0.7 for found in one.prometheus.query(DONE)), "70 %", 200
        )
        now = time.time()
        shown = [(panel, series_of(panel, one.prometheus, now - SHOWN_SECONDS, now, 1.0)) for panel in PANELS]
    TARGET.write_text(draw(shown, now - SHOWN_SECONDS, now), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
