"""A KEK rotated under the same key id, as AWS does, or under KMS v1: an operator names the revision of the rotation."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import IDENTITY, Key, configuration, secrets, store, write_private
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway, KeyValue
from tests.servers.kms_plugin import Behaviour, KmsPlugin, start_plugin, version_at_aws
from tests.servers.kms_values import KmsStanza

pytestmark = pytest.mark.timeout(180)

OBJECTS = 60
OLD = Key.new("aescbc", "old")
SETTINGS = "[page]\nobjects = 20\n[kms]\nv1_rate = 0\n"
PREFIX = "/registry/secrets/"
OWNER = "/kube-rewrap/v1/owner"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[KmsPlugin]:
    with start_plugin(str(tmp_path / "kms.sock"), Behaviour(kind="aws", wrapping="aesgcm")) as process:
        yield process


@pytest.fixture(params=["v1", "v2"])
def kms(request: pytest.FixtureRequest, plugin: KmsPlugin) -> KmsStanza:
    return KmsStanza("cloud", plugin.endpoint, request.param)


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    return etcd.admin()


@pytest.fixture
def rewrap(etcd: EtcdCluster, gateway: Gateway, plugin: KmsPlugin, kms: KmsStanza, tmp_path: Path) -> Command:
    """Objects that were moved to KMS, whose KEK was rotated in the KMS since."""
    store(gateway, secrets(OBJECTS), OLD)
    command = command_of(tmp_path, etcd, kms, OLD)
    assert command.json("run", "--rate", "0")["rewritten"] == OBJECTS
    assert versions(gateway, kms) == [1] * OBJECTS
    plugin.rotate()
    return command


def command_of(directory: Path, etcd: EtcdCluster, *keys: Key | KmsStanza) -> Command:
    file = write_private(directory / "enc.json", configuration((["secrets"], keys)))
    settings = write_private(directory / "settings.toml", SETTINGS)
    return command_for(directory, etcd, file).with_flags("--settings", str(settings))


def versions(gateway: Gateway, kms: KmsStanza) -> list[int]:
    """The version of the KEK that wrapped each object's key: what no reader but the KMS can tell."""
    return [version_at_aws(kms.wrapped(one.value)) for one in gateway.read(PREFIX)]


def write_again(gateway: Gateway, found: list[KeyValue]) -> None:
    """A kube-apiserver writes objects, under a key that the former KEK wrapped: as if it had not been restarted."""
    for one in found:
        gateway.put(one.key, one.value)


def test_nothing_is_rewritten_without_the_revision_and_everything_older_with_it(
    rewrap: Command, gateway: Gateway, kms: KmsStanza
) -> None:
    document = rewrap.json("run", "--rate", "0")
    assert (document["state"], document["rewritten"], document["since"]) == ("complete", 0, None)
    since = gateway.revision()
    late = gateway.read(PREFIX)[7:10]
    write_again(gateway, late)

    plan = rewrap.json("run", "--dry-run", "--since", str(since))
    assert (plan["to_rewrite"], plan["outdated"], plan["since"]) == (OBJECTS - 3, OBJECTS - 3, since)
    assert (plan["growth_bytes"], plan["refusals"]) == (0, [])
    document = rewrap.json("run", "--rate", "0", "--since", str(since))
    assert (document["state"], document["rewritten"], document["current"]) == ("complete", OBJECTS - 3, 3)
    assert (document["since"], document["proof"]["complete"], document["proof"]["stale"]) == (since, True, 0)
    # Where the operator's word was wrong, rewrap can't notice.
    assert versions(gateway, kms) == [2] * 7 + [1] * 3 + [2] * (OBJECTS - 10)
    assert all(one.mod_revision > since for one in gateway.read(PREFIX))

    before = gateway.read(PREFIX)
    document = rewrap.json("run", "--rate", "0", "--since", str(since))
    assert (document["state"], document["rewritten"], document["current"]) == ("complete", 0, OBJECTS)
    assert gateway.read(PREFIX) == before
    assert rewrap.json("verify")["complete"]


def test_a_killed_run_goes_on_and_writes_no_object_twice(rewrap: Command, gateway: Gateway, kms: KmsStanza) -> None:
    since = gateway.revision()
    with rewrap.start("run", "-o", "json", "--since", str(since), "--rate", "20") as running:
        running.wait_for_event("batch.page")
        late = gateway.read(PREFIX)[-5:]
        write_again(gateway, late)
        running.send(signal.SIGKILL)
        assert running.end().code == -signal.SIGKILL
    owner = gateway.get(OWNER)
    assert owner is not None
    gateway.call("/v3/lease/revoke", {"ID": str(owner.lease)})
    assert 0 < versions(gateway, kms).count(2) < OBJECTS - 5

    plan = rewrap.json("run", "--dry-run")
    assert (plan["resumes"] is not None, plan["since"]) == (True, since)
    document = rewrap.json("run", "--rate", "0", "--since", str(since))
    assert (document["campaign"], document["state"]) == (plan["resumes"], "complete")
    assert versions(gateway, kms) == [2] * (OBJECTS - 5) + [1] * 5
    # Each was written by us for the move to KMS, and since then once: by us, or by the kube-apiserver.
    assert {one.version for one in gateway.read(PREFIX)} == {3}


@pytest.mark.parametrize("kms", ["v2"], indirect=True)
def test_a_revision_of_the_future_is_refused(rewrap: Command, gateway: Gateway) -> None:
    before = gateway.read(PREFIX)
    ended = rewrap.run("run", "-o", "json", "--since", str(gateway.revision() + 1_000))
    assert (ended.code, ended.error["type"]) == (4, "RefusedError")
    assert "lies in the future: etcd is at revision" in ended.error["message"]
    for wrong in ("-1", str(2**63), "soon"):
        assert rewrap.run("run", f"--since={wrong}").code == 2
    assert gateway.read(PREFIX) == before


@pytest.mark.parametrize("kms", ["v2"], indirect=True)
def test_a_local_primary_is_refused(etcd: EtcdCluster, gateway: Gateway, kms: KmsStanza, tmp_path: Path) -> None:
    store(gateway, secrets(3), OLD)
    rewrap = command_of(tmp_path, etcd, OLD, kms)
    plan = rewrap.json("run", "--dry-run", "--since", str(gateway.revision()), code=4)
    [refusal] = plan["refusals"]
    assert refusal.startswith("--since is for resources whose primary is a KMS provider, not for secrets (aescbc:old")
    assert "rewrap rotate" in refusal


@pytest.mark.parametrize("kms", ["v2"], indirect=True)
def test_case_23_what_fits_only_without_the_growth_is_left_alone_and_the_plan_foresaw_it(
    etcd: EtcdCluster, gateway: Gateway, plugin: KmsPlugin, kms: KmsStanza, tmp_path: Path
) -> None:
    plugin.behaviour = replace(plugin.behaviour, kind="azure")
    plaintexts = secrets(OBJECTS)
    large = "/registry/secrets/default/s00007"
    padding = 3 * 2**19 - 600 - len(plaintexts[large])  # etcd takes 1.5 MiB; the transaction and a local cipher fit
    plaintexts[large] = plaintexts[large].replace(b'"payload": "', b'"payload": "' + b"x" * padding)
    store(gateway, plaintexts, IDENTITY)
    box = Key.new("secretbox", "box")
    document = command_of(tmp_path, etcd, box, IDENTITY).json("run", "--rate", "0")
    assert (document["state"], document["rewritten"]) == ("complete", OBJECTS)

    before = gateway.get(large)
    rewrap = command_of(tmp_path, etcd, kms, box)
    plan = rewrap.json("run", "--dry-run")
    document = rewrap.json("run", "--rate", "0", code=3)
    assert (document["state"], document["rewritten"]) == ("incomplete", OBJECTS - 1)
    assert [(one["key"], one["reason"]) for one in document["quarantined"]] == [(large, "too_large_after_encryption")]
    assert gateway.get(large) == before
    grown = {len(one.value) - len(plaintexts[one.key]) for one in gateway.read(PREFIX) if one.key != large}
    assert len(grown) == 1
    [growth] = grown
    assert growth > 500
    assert plan["growth_bytes"] == OBJECTS * growth
    assert plan["projected_bytes"] >= plan["bytes"] + plan["growth_bytes"]
