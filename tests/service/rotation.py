"""A service that rotates by itself while kube-apiservers write, and what must hold for each key."""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from tests.integration.apiserver import IDENTITY, Key, configure
from tests.servers.apiserver import Registry, Temper, compacting, seed, standins
from tests.servers.gateway import Gateway
from tests.service.harness import Daemon, Service

OBJECTS = 100

SETTINGS = """
[service]
poll = 1.0
debounce = 0.1
slice = 1.0
[broker]
timeout = 2.0
[rotation]
auto = true
prune = true
[budget]
block = 20
"""

COMPACTION = 4.0
"""Seconds between compactions: a proof's revision lives as long, and a child of a worker takes seconds to start."""


def rotations_done(scheduler: Daemon) -> int:
    return len(scheduler.said("rotation.moved", step="done"))


def budgets(gateway: Gateway) -> dict[str, dict[str, Any]]:
    """The write budgets by fingerprint, by the records themselves."""
    found = (json.loads(one.value) for one in gateway.read("/kube-rewrap/v1/ledger/"))
    return {record["fingerprint"]: record for record in found}


def watch_it_rotate(
    cluster: Service,
    *,
    limit: int,
    times: int,
    writes: int,
    seconds: float,
    due_at: float = 0.8,
    compaction: float = 1.5,
) -> Daemon:
    """Lets three kube-apiservers write until the service has rotated so often; no key may pass its limit, ever.

    Returns the scheduler.
    """
    gateway, registry, first = cluster.etcd.admin(), Registry(), Key.new("aesgcm", "first")
    (cluster.directory / "enc").mkdir()
    seed(gateway, registry, first, OBJECTS)
    file = configure(cluster.directory / "enc", first, IDENTITY)
    settings = cluster.directory / "rotating.toml"
    settings.write_text(f"{SETTINGS}due_at = {due_at}\n")
    tempers = [Temper(poll=0.1, lag=0.3 * number, writes=writes, seed=number) for number in range(3)]
    with compacting(gateway, compaction), standins(gateway, file, registry, tempers) as apiservers:
        cluster.variables |= {
            "REWRAP_ENCRYPTION_CONFIG": str(file),
            "REWRAP_SETTINGS": str(settings),
            "REWRAP_APISERVER": ",".join(one.url for one in apiservers),
            "REWRAP_GCM_LIMIT": str(limit),
        }
        scheduler = cluster.start("scheduler")
        cluster.start("worker")
        cluster.wait(lambda: rotations_done(scheduler) >= times, f"{times} rotations", seconds)
    recorded = budgets(gateway)
    # What is reserved is no less than what the service encrypted.
    used = registry.encryptions + Counter({fingerprint: one["reserved"] for fingerprint, one in recorded.items()})
    assert len(used) > times
    assert max(used.values()) <= limit, used
    # A key that the service made had no past: nothing about it is an estimate.
    assert [one for one in recorded.values() if one["estimated"] and one["fingerprint"] != first.fingerprint] == []
    assert registry.unreadable == []
    names = [one["key"] for one in scheduler.said("rotation.begun")]
    assert len(set(names)) == len(names), "a name was used twice"
    # A further rotation may be under way: then it is one of the keys of the file.
    for one in gateway.read("/registry/secrets/"):
        assert registry.objects[one.key] in {key.open(one.key, one.value) for key in apiservers[0].keys}
    assert cluster.run("audit-log", "verify").code == 0
    return scheduler
