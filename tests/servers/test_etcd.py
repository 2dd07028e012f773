"""The servers that other tests stand on do what their names say."""

import os
import ssl
from collections.abc import Callable

import pytest

from tests.servers.etcd import EtcdCluster, EtcdExitedError, EtcdOptions, EtcdVersion
from tests.servers.gateway import Gateway, GatewayError

NewEtcd = Callable[[EtcdOptions], EtcdCluster]


def test_each_version_is_the_one_it_says(etcd_any: EtcdCluster) -> None:
    version = etcd_any.admin().call("/v3/maintenance/status", {})["version"]
    assert version.startswith(etcd_any.options.version.value + ".")


def test_a_key_is_read_as_it_was_written(etcd_any: EtcdCluster) -> None:
    gateway = etcd_any.admin()
    lease = gateway.grant_lease(600)
    revision = gateway.put("/registry/secrets/a", b"\x00\xff", lease)
    found = gateway.get("/registry/secrets/a")
    assert found is not None
    assert (found.value, found.mod_revision, found.version, found.lease) == (b"\x00\xff", revision, 1, lease)
    assert gateway.revision() == revision


def test_many_keys_are_written_and_read_in_order(etcd: EtcdCluster) -> None:
    values = {f"/registry/secrets/{number:04}": b"x" * 10_000 for number in range(250)}
    etcd.admin().put_all(values)
    etcd.admin().put("/registry/secretsx", b"not under the prefix")
    assert {found.key: found.value for found in etcd.admin().read("/registry/secrets/")} == values


@pytest.mark.parametrize("_", ["once", "again"])
def test_a_shared_cluster_is_empty_for_each_test(etcd: EtcdCluster, _: str) -> None:
    assert etcd.admin().get("/left") is None
    etcd.admin().put("/left", b"behind")


def test_a_compacted_revision_is_gone(etcd: EtcdCluster) -> None:
    gateway = etcd.admin()
    first = gateway.put("/k", b"1")
    gateway.compact(gateway.put("/k", b"2"))
    with pytest.raises(GatewayError, match="compacted"):
        gateway.call("/v3/kv/range", {"key": "L2s=", "revision": str(first)})


@pytest.mark.parametrize("version", EtcdVersion)
def test_tls_asks_for_a_client_certificate(new_etcd: NewEtcd, version: EtcdVersion) -> None:
    cluster = new_etcd(EtcdOptions(version=version, tls=True))
    cluster.admin().put("/k", b"v")
    assert cluster.etcdctl("get", "/k", "--print-value-only") == "v\n"
    assert cluster.certificates is not None
    stranger = ssl.create_default_context(cafile=cluster.certificates.cacert)
    with pytest.raises((ssl.SSLError, ConnectionError)):
        Gateway(cluster.endpoints[0], stranger).get("/k")


def test_a_user_reaches_its_prefixes_and_nothing_else(etcd_auth: EtcdCluster) -> None:
    user = Gateway(etcd_auth.endpoints[0], login=etcd_auth.login)
    user.put("/registry/secrets/a", b"v")
    user.put("/kube-rewrap/campaigns/1", b"v")
    with pytest.raises(GatewayError, match="permission denied"):
        user.put("/elsewhere", b"v")
    with pytest.raises(GatewayError, match="user name is empty"):
        Gateway(etcd_auth.endpoints[0]).get("/registry/secrets/a")


def test_the_client_flags_are_those_of_etcdctl(etcd_auth: EtcdCluster) -> None:
    assert etcd_auth.client_flags() == [
        "--endpoints",
        etcd_auth.endpoints[0],
        "--user",
        "rewrap:rewrap-password",
    ]
    etcd_auth.etcdctl("put", "/elsewhere", "v")
    assert etcd_auth.admin().get("/elsewhere") is not None


@pytest.mark.parametrize("version", EtcdVersion)
def test_what_was_written_survives_a_kill(new_etcd: NewEtcd, version: EtcdVersion) -> None:
    cluster = new_etcd(EtcdOptions(version=version, fsync=True))
    member = cluster.members[0]
    cluster.admin().put("/k", b"v")
    before = member.pid
    member.kill()
    assert not member.running
    member.start()
    assert member.pid != before
    found = cluster.admin().get("/k")
    assert found is not None
    assert found.value == b"v"


def test_a_shared_cluster_that_a_test_stopped_runs_again(etcd: EtcdCluster) -> None:
    etcd.members[0].stop()
    etcd.wipe()
    assert etcd.admin().get("/k") is None


def test_a_frozen_member_answers_nothing_until_it_thaws(etcd: EtcdCluster) -> None:
    member = etcd.members[0]
    member.freeze()
    try:
        with pytest.raises(TimeoutError):
            Gateway(member.endpoint, timeout=0.2).get("/k")
    finally:
        member.thaw()
    assert etcd.admin().get("/k") is None


def fill(gateway: Gateway) -> None:
    """etcd counts what it wrote as of its last commit, up to 100 ms ago, so the quota is met a little late."""
    for number in range(500):
        gateway.put(f"/{number}", b"x" * 100_000)


def test_a_full_cluster_refuses_writes_and_still_starts(new_etcd: NewEtcd) -> None:
    cluster = new_etcd(EtcdOptions(quota_bytes=1_000_000))
    with pytest.raises(GatewayError, match="database space exceeded"):
        fill(cluster.admin())
    cluster.members[0].stop()
    cluster.members[0].start()
    assert "NOSPACE" in cluster.etcdctl("alarm", "list")


def test_three_members_outlive_their_leader(etcd_three: EtcdCluster) -> None:
    first = etcd_three.leader()
    first.kill()
    second = etcd_three.leader()
    assert second is not first
    etcd_three.admin().put("/k", b"v")
    first.start()
    found = Gateway(first.endpoint).get("/k")
    assert found is not None
    assert len(etcd_three.endpoints) == 3


def test_a_member_that_cannot_start_shows_its_log(new_etcd: NewEtcd) -> None:
    with pytest.raises(EtcdExitedError, match="no-such-flag"):
        new_etcd(EtcdOptions(extra_args=("--no-such-flag",)))


def test_nothing_of_the_shell_reaches_etcd(new_etcd: NewEtcd, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ETCD_LISTEN_METRICS_URLS", "nonsense")
    monkeypatch.setenv("ETCDCTL_ENDPOINTS", "nonsense")
    assert "true" in new_etcd(EtcdOptions()).etcdctl("endpoint", "health", "--write-out", "json")


def test_a_closed_cluster_leaves_no_process(new_etcd: NewEtcd) -> None:
    cluster = new_etcd(EtcdOptions())
    pid = cluster.members[0].pid
    cluster.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
