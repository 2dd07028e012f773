"""`make demo-kms`: the service moves a cluster to KMS v2, and follows when the KEK is rotated in the KMS.

Three stand-ins for kube-apiservers and a KMS plugin come from the tests; everything else is the product as it is: etcd,
Redis, `rewrap scheduler` and `rewrap worker` as processes, and the commands that an operator would give.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.demo_rotation import command, tell
from tests.integration.apiserver import Key
from tests.servers.apiserver import Registry, Temper, compacting, seed, standins
from tests.servers.etcd import EtcdOptions, start_etcd
from tests.servers.gateway import Gateway
from tests.servers.kms_values import KmsKey
from tests.servers.redis import RedisOptions, start_redis
from tests.service.harness import Daemon, Service
from tests.service.kms import SECRETS, PluginProcess, count_of, plugin_process, put_in_place
from tests.service.rotation import COMPACTION, rotations_done

OBJECTS = 300
PROVIDER = "cloud"
OLD_KEK, NEW_KEK = "kek-2025", "kek-2026"
_BOUND = 90.0
_EVENTS = ("kek.", "campaign.started", "campaign.finished")

STANZA = """\
kms:
  apiVersion: v2
  name: {name}
  endpoint: {endpoint}
"""

SETTINGS = """
[service]
poll = 1.0
debounce = 0.1
slice = 1.0
[broker]
timeout = 2.0
[rotation]
prune = true
kms_file = "{stanza}"
[kms]
settle = 2.0
"""


def follow(scheduler: Daemon, is_over: Callable[[], bool]) -> None:
    """Show what the scheduler says from now on, until `is_over`. Raises SystemExit when that takes too long."""
    began, shown = time.monotonic(), len(interesting(scheduler))
    is_last = False
    while not is_last:
        is_last = is_over()
        for event in interesting(scheduler)[shown:]:
            tell(f"{time.monotonic() - began:5.1f} s  {event['event']:<18} {event.get('because', '')}")
            shown += 1
        if time.monotonic() > began + _BOUND:
            raise SystemExit(f"not within {_BOUND:.0f} s\n{scheduler.text[-2000:]}")
        time.sleep(0.2)


def interesting(scheduler: Daemon) -> list[dict[str, Any]]:
    return [event for event in scheduler.events if str(event["event"]).startswith(_EVENTS)]


def main() -> int:
    """Play it; returns 0 when every kube-apiserver could read every value, and no object is under a former key."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rewrap-demo-")))
        plugin = stack.enter_context(plugin_process(directory / "kms"))
        plugin.does(key_id=OLD_KEK)
        cluster, registry, file = prepare(stack, directory, plugin)
        gateway, kms = cluster.etcd.admin(), KmsKey(PROVIDER, plugin.endpoint, OLD_KEK)
        tempers = [Temper(poll=0.1, lag=0.3 * number, seed=number) for number in range(3)]
        apiservers = stack.enter_context(standins(gateway, file, registry, tempers))
        cluster.variables["REWRAP_APISERVER"] = ",".join(one.url for one in apiservers)
        scheduler = cluster.start("scheduler")
        cluster.start("worker")
        tell(f"{OBJECTS} secrets are under an aescbc key, and three stand-ins for kube-apiservers write to them.")
        tell(f"A KMS plugin runs; the KEK that it names is {OLD_KEK}.\n\n$ cat stanza.yaml")
        tell((directory / "stanza.yaml").read_text())
        cluster.wait(lambda: scheduler.said("campaign.finished"), "the first check of the objects")
        # Not earlier: a revision must outlive the start of a worker's children, which takes seconds on a busy machine.
        stack.enter_context(compacting(gateway, COMPACTION))

        command(cluster, ["rotate", "--provider", "kms", "--kms-file", "stanza.yaml", "--prune", "--yes"], directory)
        cluster.wait(lambda: rotations_done(scheduler), "the move to KMS")
        report(gateway, kms)

        tell(f"\nThe KEK is rotated in the KMS. The plugin names {NEW_KEK} from now on; no file changes.\n")
        done = len(scheduler.said("campaign.finished", state="complete"))
        plugin.does(key_id=NEW_KEK)
        kms.turn(NEW_KEK)
        follow(scheduler, lambda: len(scheduler.said("campaign.finished", state="complete")) > done)
        report(gateway, kms)
        for words in (["verify"], ["audit-log", "verify"]):
            command(cluster, words)
        return verdict(registry, gateway, kms)


def prepare(stack: ExitStack, directory: Path, plugin: PluginProcess) -> tuple[Service, Registry, Path]:
    """Return etcd and Redis, filled with objects under an aescbc key, and the configuration file."""
    for name in ("etcd", "redis"):
        (directory / name).mkdir()
    etcd = stack.enter_context(start_etcd(directory / "etcd", EtcdOptions()))
    redis = stack.enter_context(start_redis(directory / "redis", RedisOptions()))
    registry, old = Registry(), Key.new("aescbc", "key1")
    seed(etcd.admin(), registry, old, OBJECTS)
    stanza, settings = directory / "stanza.yaml", directory / "kms.toml"
    stanza.write_text(STANZA.format(name=PROVIDER, endpoint=plugin.endpoint))
    settings.write_text(SETTINGS.format(stanza=stanza))
    cluster = Service(etcd, redis, directory, stack, {"REWRAP_SETTINGS": str(settings)}, anew=True)
    return cluster, registry, put_in_place(cluster, old)


def report(gateway: Gateway, kms: KmsKey) -> None:
    tell(f"\n{count_of(gateway, kms)} of {len(gateway.read(SECRETS))} secrets are under {kms.key_id}.")


def verdict(registry: Registry, gateway: Gateway, kms: KmsKey) -> int:
    """Judge without the code that is shown: by what the stand-ins met, and by the bytes in etcd."""
    with registry.lock:  # the stand-ins still write
        found = gateway.read(SECRETS)
        lost = sum(kms.open(one.key, one.value) != registry.objects[one.key] for one in found)
    left = sum(not kms.is_current(one.value) for one in found)
    tell(f"\nThe kube-apiservers wrote {registry.encryptions.total():,} values.")
    tell(f"Values that one of them could not read, now or in what a watch may show: {len(registry.unreadable)}.")
    tell(f"Secrets under the former KEK or key: {left}; with other content than was written: {lost}.")
    return 0 if not (registry.unreadable or left or lost) and len(found) == OBJECTS else 3


if __name__ == "__main__":
    sys.exit(main())
