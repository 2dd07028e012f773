"""When a former KEK may be removed: no object is under it, every kube-apiserver left it 240 s ago, etcd has compacted.

Nothing waits here: each stand-in shows the times at which its plugin named each KEK, and they are its own clock's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import configure, secrets, store, write_private
from tests.servers.apiserver_metrics import MetricsServer, metrics_servers, sha256
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway
from tests.servers.kms_plugin import KmsPlugin, start_plugin
from tests.servers.kms_values import KmsKey

OBJECTS = 5
FIRST, SECOND = sha256("kek-1"), sha256("kek-2")
NAMED_AT = 1_700_000_000.0
SETTINGS = "[kms]\nsettle = 0.001\n"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    with start_plugin(str(tmp_path / "kms.sock")) as process:
        yield process


@pytest.fixture
def kms(plugin: KmsPlugin) -> KmsKey:
    return KmsKey("cloud", plugin.endpoint)


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    return etcd.admin()


@pytest.fixture
def replicas() -> Iterator[list[MetricsServer]]:
    with metrics_servers(2) as servers:
        yield servers


@pytest.fixture
def rewrap(etcd: EtcdCluster, plugin: KmsPlugin, kms: KmsKey, replicas: list[MetricsServer], tmp_path: Path) -> Command:
    """Everything was moved from the first KEK to the second one, and proven; etcd has compacted past that."""
    gateway = etcd.admin()
    store(gateway, secrets(OBJECTS), kms)
    file = configure(tmp_path, kms)
    for one in replicas:
        one.shown.hash = sha256(file.read_bytes())
        gateway.put(*one.lease())
    settings = write_private(tmp_path / "settings.toml", SETTINGS)
    urls = (flag for one in replicas for flag in ("--apiserver", one.url))
    command = command_for(tmp_path, etcd, file).with_flags("--settings", str(settings), *urls)
    for one in replicas:
        one.shown.keks = {("cloud", FIRST): NAMED_AT}
    assert command.json("run")["rewritten"] == 0
    plugin.rotate("kek-2")
    left(replicas, 241.0)
    assert command.run("run").code == 4, "the new KEK has not stood yet"
    assert command.json("run")["rewritten"] == OBJECTS
    gateway.compact(gateway.revision())
    return command


def left(replicas: list[MetricsServer], *seconds: float) -> None:
    """Each kube-apiserver's plugin named the second KEK so long after it named the first one last."""
    for one, later in zip(replicas, seconds * len(replicas), strict=False):
        one.shown.keks = {("cloud", FIRST): NAMED_AT, ("cloud", SECOND): NAMED_AT + later}


def former(rewrap: Command, kms: KmsKey) -> dict[str, Any]:
    """The verdict on the first KEK, the same of `verify` and of `keys`."""
    [verified] = [
        one for one in rewrap.run("verify", "-o", "json").document["keys"] if one["fingerprint"] == kms.fingerprint
    ]
    [listed] = [one for one in rewrap.json("keys")["kms"] if one["kek"] == kms.fingerprint]
    assert (listed["removable"], listed["blockers"]) == (verified["removable"], verified["blockers"])
    return dict(verified)


def test_a_kek_that_all_left_long_ago_is_removable_and_backups_are_named(rewrap: Command, kms: KmsKey) -> None:
    assert former(rewrap, kms)["blockers"] == []
    for words in ("verify", "keys"):
        said = rewrap.run(words).stdout
        assert "Backups of etcd hold old ciphertext" in said
        assert "disable it in the KMS before you think of destroying it" in said


@pytest.mark.parametrize(
    ("seconds", "blocker"),
    [
        ((179.0, 500.0), "may write under its former KEK of the KMS provider 'cloud' for another 1 s"),
        ((500.0, 181.0), "may write under its former KEK of the KMS provider 'cloud' for another 59 s"),
        ((239.0, 239.0), "may write under its former KEK of the KMS provider 'cloud' for another 1 s"),
        ((-1.0, 500.0), "has another KEK of the KMS provider 'cloud' than this configuration's"),
        ((240.0, 500.0), None),
    ],
    ids=["one 179 s", "the other 181 s", "both 239 s", "one went back", "240 s and more"],
)
def test_a_kek_that_a_replica_left_too_late_is_kept(
    rewrap: Command, kms: KmsKey, replicas: list[MetricsServer], seconds: tuple[float, float], blocker: str | None
) -> None:
    left(replicas, *seconds)
    verdict = former(rewrap, kms)
    assert verdict["removable"] is (blocker is None)
    assert [one for one in verdict["blockers"] if blocker is None] == []
    assert blocker is None or any(blocker in one for one in verdict["blockers"])


def test_a_replica_that_was_restarted_since_has_left_it(
    rewrap: Command, kms: KmsKey, replicas: list[MetricsServer]
) -> None:
    for one in replicas:
        one.shown.keks = {("cloud", SECOND): NAMED_AT}
    assert former(rewrap, kms)["removable"] is True
    replicas[0].shown.keks = {}
    assert former(rewrap, kms)["removable"] is False


def test_a_kek_under_which_an_object_is_or_may_be_seen_is_kept(rewrap: Command, kms: KmsKey, gateway: Gateway) -> None:
    name, plaintext = next(iter(secrets(1).items()))
    current = gateway.get(name)
    assert current is not None
    gateway.put(name, kms.seal(name, plaintext))
    assert "1 objects are under it" in former(rewrap, kms)["blockers"]
    assert rewrap.json("run")["rewritten"] == 1
    # The write that was repaired: a watch may still show it until etcd compacts past the new proof.
    [blocker] = former(rewrap, kms)["blockers"]
    assert blocker.startswith("etcd has not compacted past revision ")
    gateway.compact(gateway.revision())
    assert former(rewrap, kms)["removable"] is True


def test_the_kek_in_force_is_never_removable(rewrap: Command, plugin: KmsPlugin, kms: KmsKey) -> None:
    kms.turn(plugin.behaviour.key_id)
    assert former(rewrap, kms)["blockers"][0] == "it is the primary of secrets"
