"""etcd must not get full: refused before the run, stopped in the middle of it, resumed when there is room again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

from tests.acceptance.command import command_for
from tests.integration.apiserver import Key, configure, opened, secrets, store, write_private
from tests.servers.etcd import EtcdCluster, EtcdOptions
from tests.servers.gateway import Gateway, GatewayError

NewEtcd = Callable[[EtcdOptions], EtcdCluster]

OLD, NEW = Key.new("aescbc", "old"), Key.new("secretbox", "new")
MIB = 2**20


def make_room(cluster: EtcdCluster) -> None:
    gateway = cluster.admin()
    gateway.compact(gateway.revision())
    cluster.etcdctl("defrag", "--command-timeout", "20s")
    cluster.etcdctl("alarm", "disarm")


def test_a_registry_that_would_not_fit_twice_is_refused_before_the_first_write(
    new_etcd: NewEtcd, tmp_path: Path
) -> None:
    cluster = new_etcd(EtcdOptions(quota_bytes=16 * MIB))
    gateway = cluster.admin()
    store(gateway, secrets(80, payload="p" * 90_000), OLD)
    revision = gateway.revision()
    rewrap = command_for(tmp_path, cluster, configure(tmp_path, NEW, OLD))
    ended = rewrap.run("run", "-o", "json", "--quota-bytes", str(16 * MIB))
    assert (ended.code, ended.error["type"]) == (4, "SpaceError")
    assert "--quota-bytes" in ended.error["message"]
    assert gateway.revision() == revision
    dry = rewrap.json("run", "--dry-run", "--quota-bytes", str(16 * MIB), code=4)
    assert dry["quota_bytes"] == 16 * MIB
    assert dry["projected_bytes"] > 0.8 * 16 * MIB
    assert len(dry["refusals"]) == 1


def test_an_alarm_in_the_middle_stops_the_run_and_the_next_one_goes_on(new_etcd: NewEtcd, tmp_path: Path) -> None:
    cluster = new_etcd(EtcdOptions(quota_bytes=16 * MIB))
    gateway = cluster.admin()
    plaintexts = secrets(120, payload="p" * 60_000)
    store(gateway, plaintexts, OLD)
    # It is not told of the small quota, so that etcd itself has to stop it.
    flags = ("--settings", str(write_private(tmp_path / "settings.toml", "[page]\nobjects = 10\n")), "--rate", "15")
    rewrap = command_for(tmp_path, cluster, configure(tmp_path, NEW, OLD)).with_flags(*flags)
    with rewrap.start("run", "-o", "json") as running:
        running.wait_for_event("batch.page")
        fill(gateway)
        ended = running.end()
    assert (ended.code, ended.error["type"]) == (4, "SpaceError")
    assert "NOSPACE" in cluster.etcdctl("alarm", "list")
    done = sum(plaintext is not None for plaintext in opened(gateway.read("/registry/"), NEW).values())
    assert 0 < done < len(plaintexts)
    assert rewrap.run("run").code == 4

    gateway.call("/v3/kv/deleterange", {"key": "L2ZpbGxlcg=="})
    make_room(cluster)
    document = rewrap.json("run", "--rate", "0")
    assert document["campaign"] == campaign_of(ended.stderr)
    assert document["state"] == "complete"
    assert opened(gateway.read("/registry/"), NEW) == plaintexts
    assert {found.version for found in gateway.read("/registry/")} == {2}


def campaign_of(stderr: str) -> str:
    return stderr.split('"campaign": "', 1)[1].split('"', 1)[0]


def fill(gateway: Gateway) -> None:
    """Writes one key over and over until etcd has no space left."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        try:
            gateway.put("/filler", b"x" * 500_000)
        except GatewayError as error:
            if "space exceeded" in str(error):
                return
            raise
    raise AssertionError("etcd did not get full in 60 s")
