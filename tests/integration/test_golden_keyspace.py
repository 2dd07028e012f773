"""What a real kube-apiserver stored, rewrapped under each provider, and compared with upstream's plaintexts."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.command import Command, Ended, command_for
from tests.integration.apiserver import Key, write_private
from tests.integration.golden_registry import Recorded, configuration_with, keys, load, recorded
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway, KeyValue
from tests.servers.kms_plugin import KmsPlugin, start_plugin

PRIMARIES = {key.provider: key for key in keys()}
GOVERNED = [one for one in recorded() if one.resource is not None]
KMS = [one for one in GOVERNED if one.is_kms]


@pytest.fixture(autouse=True)
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    """As the recording's: base64, and the key id `kek-1`."""
    with start_plugin(str(tmp_path / "kms.sock")) as started:
        yield started


def stored(gateway: Gateway) -> dict[str, KeyValue]:
    return {found.key: found for found in gateway.read("/registry/")}


def command(directory: Path, cluster: EtcdCluster, primary: Key) -> Command:
    text = configuration_with(primary, plugin=f"unix://{directory}/kms.sock")
    file = write_private(directory / "enc.json", text)
    return command_for(directory, cluster, file)


def run(rewrap: Command, primary: Key) -> Ended:
    return rewrap.run("run", "-o", "json", "--rate", "0", *(["--allow-plaintext"] * (primary.provider == "identity")))


def stale(one: Recorded, primary: Key) -> bool:
    return primary.open(one.key, one.value) != one.plaintext


@pytest.mark.parametrize("primary", PRIMARIES.values(), ids=PRIMARIES)
def test_every_object_ends_under_the_primary_with_upstreams_plaintext(
    etcd_any: EtcdCluster, tmp_path: Path, primary: Key
) -> None:
    gateway = etcd_any.admin()
    lease = load(gateway)
    before = stored(gateway)
    start = gateway.revision()
    ended = run(command(tmp_path, etcd_any, primary), primary)
    after = stored(gateway)

    assert ended.code == 0, ended.stderr
    assert before.keys() == after.keys() == {one.key for one in recorded()}
    assert {one.key: primary.open(one.key, after[one.key].value) for one in GOVERNED} == {
        one.key: one.plaintext for one in GOVERNED
    }
    to_rewrite = {one.key for one in GOVERNED if stale(one, primary)}
    changed = {key for key, now in after.items() if now.mod_revision > start}
    assert changed == to_rewrite
    assert {key: now for key, now in after.items() if key not in changed} == {
        key: was for key, was in before.items() if key not in changed
    }
    # Two objects of one revision would make kube-apiserver's watchers lose one of them.
    assert len({after[key].mod_revision for key in changed}) == len(changed)
    assert {after[key].version - before[key].version for key in changed} == {1}
    assert_leases_live(gateway, lease, after)
    assert_document(ended, len(to_rewrite))


def assert_leases_live(gateway: Gateway, lease: int, after: dict[str, KeyValue]) -> None:
    leased = {one.key for one in recorded() if one.lease}
    assert {key for key, now in after.items() if now.lease} == leased
    assert {after[key].lease for key in leased} == {lease}
    told = gateway.call("/v3/lease/timetolive", {"ID": str(lease), "keys": True})
    assert len(told["keys"]) == len(leased)
    assert 0 < int(told["TTL"]) < int(told["grantedTTL"])


def assert_document(ended: Ended, rewritten: int) -> None:
    document = ended.document
    counts = {name: document[name] for name in ("state", "rewritten", "current", "conflicts", "unknown", "gone")}
    assert counts == {
        "state": "complete",
        "rewritten": rewritten,
        "current": len(GOVERNED) - rewritten,
        "conflicts": 0,
        "unknown": 0,
        "gone": 0,
    }
    assert document["quarantined"] == []
    proof = document["proof"]
    assert (proof["complete"], proof["objects"], proof["stale"], proof["unreadable_total"]) == (
        True,
        len(GOVERNED),
        0,
        0,
    )


def test_one_primary_after_another_and_back_again(etcd: EtcdCluster, tmp_path: Path) -> None:
    gateway = etcd.admin()
    load(gateway)
    for primary in [*PRIMARIES.values(), PRIMARIES["aescbc"]]:
        ended = run(command(tmp_path, etcd, primary), primary)
        assert ended.code == 0, ended.stderr
        after = stored(gateway)
        assert {one.key: primary.open(one.key, after[one.key].value) for one in GOVERNED} == {
            one.key: one.plaintext for one in GOVERNED
        }


def test_without_its_kms_objects_the_recorded_registry_needs_no_plugin(
    etcd_any: EtcdCluster, tmp_path: Path, plugin: KmsPlugin
) -> None:
    plugin.stop()
    gateway = etcd_any.admin()
    load(gateway)
    for one in KMS:
        gateway.delete(one.key)
    rewrap = command(tmp_path, etcd_any, PRIMARIES["secretbox"])
    assert rewrap.json("run", "--rate", "0")["state"] == "complete"
    revision = gateway.revision()
    assert rewrap.json("verify")["complete"] is True
    assert rewrap.json("status")["stale"] == 0
    assert gateway.revision() == revision
