"""Clusters as they are: TLS, users whose tokens end, members that stop, die, freeze or were never there."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.acceptance.command import Command, Running, command_for
from tests.integration.apiserver import Key, configure, opened, secrets, store
from tests.servers.etcd import EtcdCluster, EtcdOptions, EtcdVersion
from tests.servers.gateway import Gateway
from tests.servers.ports import free_ports

NewEtcd = Callable[[EtcdOptions], EtcdCluster]

OLD, NEW = Key.new("aescbc", "old"), Key.new("aesgcm", "new")
OBJECTS = 400
# About three seconds of work, in pages enough to be met between two.
STEADY = ("run", "-o", "json", "--rate", "130")
# For what must happen in the middle, and ends the run there.
SLOW = ("run", "-o", "json", "--rate", "40")


@pytest.fixture
def rewrap(tmp_path: Path) -> Callable[[EtcdCluster], Command]:
    """Fills the cluster with secrets under the old key, and gives the command line for it."""

    def prepare(cluster: EtcdCluster) -> Command:
        store(cluster.admin(), secrets(OBJECTS), OLD)
        settings = tmp_path / "settings.toml"
        settings.write_text("[page]\nobjects = 40\n[etcd]\ncall_timeout = 3.0\n")
        return command_for(tmp_path, cluster, configure(tmp_path, NEW, OLD)).with_flags("--settings", str(settings))

    return prepare


Prepare = Callable[[EtcdCluster], Command]


def assert_all_rewritten_once(gateway: Gateway) -> None:
    found = gateway.read("/registry/")
    assert opened(found, NEW) == secrets(OBJECTS)
    assert {one.version for one in found} == {2}
    assert len({one.mod_revision for one in found}) == OBJECTS


def assert_complete(running: Running) -> None:
    ended = running.end(90)
    assert ended.code == 0, ended.stdout + ended.stderr
    assert ended.document["state"] == "complete"
    assert ended.document["rewritten"] == OBJECTS


def test_over_tls_with_a_client_certificate(etcd_tls: EtcdCluster, rewrap: Prepare) -> None:
    command = rewrap(etcd_tls)
    assert command.json("run", "--rate", "0")["rewritten"] == OBJECTS
    assert_all_rewritten_once(etcd_tls.admin())


def test_without_the_client_certificate_it_is_told_in_time(
    etcd_tls: EtcdCluster, rewrap: Prepare, tmp_path: Path
) -> None:
    assert etcd_tls.certificates is not None
    rewrap(etcd_tls)
    settings = tmp_path / "quick.toml"
    settings.write_text("[etcd]\nconnect_timeout = 1.0\n")
    flags = ("--endpoints", etcd_tls.endpoints[0], "--cacert", str(etcd_tls.certificates.cacert))
    stranger = Command(
        tmp_path, (*flags, "--settings", str(settings), "--encryption-config", str(tmp_path / "enc.json"))
    )
    ended = stranger.run("status", "-o", "json")
    assert (ended.code, ended.error["type"]) == (5, "UnavailableError")
    assert "--cert" in ended.error["message"]


def test_as_a_user_with_rights_on_two_prefixes(etcd_auth: EtcdCluster, rewrap: Prepare) -> None:
    assert rewrap(etcd_auth).json("run", "--rate", "0")["rewritten"] == OBJECTS
    assert_all_rewritten_once(etcd_auth.admin())


def test_the_password_comes_from_the_environment(etcd_auth: EtcdCluster, rewrap: Prepare) -> None:
    assert etcd_auth.login is not None
    with_password = rewrap(etcd_auth)
    place = with_password.flags.index("--user")
    flags = (*with_password.flags[:place], *with_password.flags[place + 2 :])
    login = etcd_auth.login
    command = Command(with_password.directory, flags, {"REWRAP_USER": login.name, "REWRAP_PASSWORD": login.password})
    assert command.json("status")["stale"] == OBJECTS


def test_a_restart_that_forgets_all_tokens(new_etcd: NewEtcd, rewrap: Prepare) -> None:
    cluster = new_etcd(EtcdOptions(auth=True))
    with rewrap(cluster).start(*STEADY) as running:
        running.wait_for_event("batch.page")
        cluster.members[0].stop()
        cluster.members[0].start()
        assert_complete(running)
    assert_all_rewritten_once(cluster.admin())


def test_a_token_that_expires_in_the_middle(new_etcd: NewEtcd, rewrap: Prepare) -> None:
    cluster = new_etcd(EtcdOptions(auth=True, extra_args=("--auth-token-ttl", "1")))
    gateway = cluster.admin()
    with rewrap(cluster).start(*STEADY) as running:
        running.wait_for_event("batch.page")
        running.send(signal.SIGSTOP)
        # Tokens live as long as they are used. A lease that ends shows that time has passed for etcd, too.
        wait_for_lease(gateway, gateway.grant_lease(3))
        running.send(signal.SIGCONT)
        assert_complete(running)
    assert_all_rewritten_once(gateway)


def wait_for_lease(gateway: Gateway, lease: int) -> None:
    """Returns when the lease has ended; etcd leaves out a time to live of 0."""
    deadline = time.monotonic() + 60
    while int(gateway.call("/v3/lease/timetolive", {"ID": str(lease)}).get("TTL", 0)) > 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_member_that_is_stopped_and_comes_back(new_etcd: NewEtcd, rewrap: Prepare) -> None:
    cluster = new_etcd(EtcdOptions(version=EtcdVersion.V3_4))
    with rewrap(cluster).start(*STEADY) as running:
        running.wait_for_event("batch.page")
        cluster.members[0].stop()
        cluster.members[0].start()
        assert_complete(running)
    assert_all_rewritten_once(cluster.admin())


def test_a_leader_that_is_killed(etcd_three: EtcdCluster, rewrap: Prepare) -> None:
    with rewrap(etcd_three).start(*STEADY) as running:
        running.wait_for_event("batch.page")
        etcd_three.leader().kill()
        assert_complete(running)
    assert_all_rewritten_once(etcd_three.admin())


def test_a_member_that_freezes(etcd_three: EtcdCluster, rewrap: Prepare) -> None:
    """The one that the run talks to: nothing is refused, nothing is answered."""
    first = etcd_three.members[0]
    with rewrap(etcd_three).start(*STEADY) as running:
        running.wait_for_event("batch.page")
        first.freeze()
        try:
            assert_complete(running)
        finally:
            first.thaw()
    first.wait_until_healthy()
    assert_all_rewritten_once(etcd_three.admin())


def test_an_endpoint_that_was_never_there(etcd: EtcdCluster, rewrap: Prepare) -> None:
    command = rewrap(etcd)
    dead = f"http://127.0.0.1:{free_ports(1)[0]}"
    flags = tuple(f"{dead},{flag}" if flag == etcd.endpoints[0] else flag for flag in command.flags)
    document = Command(command.directory, flags).json("run", "--rate", "0")
    assert document["rewritten"] == OBJECTS
    assert_all_rewritten_once(etcd.admin())


def test_etcd_that_stays_away_ends_with_5_and_the_next_run_goes_on(new_etcd: NewEtcd, rewrap: Prepare) -> None:
    cluster = new_etcd(EtcdOptions())
    command = rewrap(cluster)
    impatient = command.directory / "settings.toml"
    impatient.write_text("[page]\nobjects = 40\n[etcd]\ncall_timeout = 1.0\ngive_up_after = 1.0\n")
    with command.start(*SLOW) as running:
        running.wait_for_event("batch.page")
        cluster.members[0].stop()
        ended = running.end()
    assert (ended.code, ended.error["code"]) == (5, 5)
    cluster.members[0].start()
    gateway = cluster.admin()
    owner = gateway.get("/kube-rewrap/v1/owner")
    assert owner is not None  # it could not give its lock back, which ends with its lease
    gateway.call("/v3/lease/revoke", {"ID": str(owner.lease)})
    document = command.json("run", "--rate", "0")
    assert document["state"] == "complete"
    assert_all_rewritten_once(cluster.admin())
