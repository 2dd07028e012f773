"""`make demo-rotation`: three stand-ins for kube-apiservers wear a key out, and the service rotates it by itself.

It needs the stand-ins, which the tests have; everything else is the product as it is: etcd, Redis, `rewrap
scheduler` and `rewrap worker` as processes, and the commands that an operator would give.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from kube_rewrap.cli.output import with_short_hashes
from tests.acceptance.command import REWRAP
from tests.integration.apiserver import Key, write_private
from tests.servers.apiserver import Registry, Temper, compacting, seed, standins
from tests.servers.etcd import EtcdOptions, start_etcd
from tests.servers.redis import RedisOptions, start_redis
from tests.service.harness import Daemon, Service
from tests.service.rotation import COMPACTION, SETTINGS, rotations_done

OBJECTS = 650
LIMIT = 1_500
_BOUND = 120.0
_WORN_SECONDS = 4.0
_EVENTS = ("key.", "rotation.begun", "rotation.edited", "rotation.moved", "rotation.waiting", "campaign.finished")

FILE = """\
# The file of the demonstration's control plane.
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources:
  - resources: [secrets]
    providers:
      - aesgcm:
          keys:
            # worn out soon
            - name: key1
              secret: {secret}
"""


def main() -> int:
    """Play it; returns 0 when no kube-apiserver met a value that it could not read, and no key passed its limit."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rewrap-demo-")))
        cluster, registry, file = prepare(stack, directory)
        gateway = cluster.etcd.admin()
        tempers = [Temper(poll=0.1, lag=0.6 * number, writes=1, seed=number) for number in range(3)]
        apiservers = stack.enter_context(standins(gateway, file, registry, tempers))
        cluster.variables["REWRAP_APISERVER"] = ",".join(one.url for one in apiservers)
        tell(f"Three stand-ins for kube-apiservers write secrets; an aesgcm key may encrypt {LIMIT:,} times here.\n")
        tell("$ grep name: encryption.yaml")
        show_names(file)
        scheduler = cluster.start("scheduler")
        cluster.start("worker")
        tell("\nA scheduler and a worker are up. What the scheduler's log says about keys and the rotation:\n")
        cluster.wait(lambda: scheduler.said("campaign.finished"), "the first check of the objects")
        # Not earlier: a revision must outlive the start of a worker's children, which takes seconds on a busy machine.
        stack.enter_context(compacting(gateway, COMPACTION))
        follow(scheduler, registry)
        tell("\n$ grep name: encryption.yaml")
        show_names(file)
        for words in (["rotate", "status"], ["keys"], ["audit-log", "verify"]):
            command(cluster, words)
        return verdict(registry)


def prepare(stack: ExitStack, directory: Path) -> tuple[Service, Registry, Path]:
    """Return etcd and Redis, filled with objects under the first key, and the configuration file."""
    for name in ("etcd", "redis", "enc"):
        (directory / name).mkdir()
    etcd = stack.enter_context(start_etcd(directory / "etcd", EtcdOptions()))
    redis = stack.enter_context(start_redis(directory / "redis", RedisOptions()))
    registry, first = Registry(), Key.new("aesgcm", "key1")
    seed(etcd.admin(), registry, first, OBJECTS)
    block = first.block()["aesgcm"]
    assert isinstance(block, dict)
    file = write_private(directory / "enc" / "encryption.yaml", FILE.format(secret=block["keys"][0]["secret"]))
    settings = directory / "rotating.toml"
    settings.write_text(SETTINGS)
    variables = {
        "REWRAP_ENCRYPTION_CONFIG": str(file),
        "REWRAP_SETTINGS": str(settings),
        "REWRAP_GCM_LIMIT": str(LIMIT),
    }
    return Service(etcd, redis, directory, stack, variables, anew=True), registry, file


def follow(scheduler: Daemon, registry: Registry) -> None:
    """Show what is said, until the rotation is done; before it begins, how far the key is worn."""
    began, told, worn = time.monotonic(), 0, 0.0
    while not rotations_done(scheduler):
        told = show_new(scheduler, told, began)
        if time.monotonic() > began + worn and not scheduler.said("rotation.begun"):
            worn += _WORN_SECONDS
            used = registry.encryptions.total()
            tell(f"{time.monotonic() - began:5.1f} s  (the kube-apiservers have encrypted {used:,} times with key1)")
        if time.monotonic() > began + _BOUND:
            raise SystemExit(f"no rotation within {_BOUND:.0f} s\n{scheduler.text[-2000:]}")
        time.sleep(0.2)
    show_new(scheduler, told, began)


def show_new(scheduler: Daemon, told: int, began: float) -> int:
    """Show the events after the first `told`; returns how many there are now."""
    events = [event for event in scheduler.events if str(event["event"]).startswith(_EVENTS)]
    for event in events[told:]:
        because = with_short_hashes(str(event["because"]))
        tell(f"{time.monotonic() - began:5.1f} s  {event['event']:<18} {event.get('step', ''):<8} {because}")
    return len(events)


def show_names(file: Path) -> None:
    tell("\n".join(line for line in file.read_text().splitlines() if "name:" in line))


def command(cluster: Service, words: list[str], directory: Path | None = None) -> None:
    """Run rewrap in a directory, None = this process', and show what it prints."""
    tell(f"\n$ rewrap {' '.join(words)}")
    environment = {**cluster.environment, "REWRAP_LOG_LEVEL": "error"}
    subprocess.run([*REWRAP, *words], env=environment, check=True, cwd=directory)


def verdict(registry: Registry) -> int:
    worst = max(registry.encryptions.values())
    tell(f"\nThe kube-apiservers wrote {registry.encryptions.total():,} values.")
    tell(f"The most under one key: {worst:,}, of {LIMIT:,} that are allowed.")
    tell(f"Values that one of them could not read, now or in what a watch may show: {len(registry.unreadable)}.")
    return 0 if not registry.unreadable and worst <= LIMIT else 3


def tell(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
