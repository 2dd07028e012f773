"""Names that govern nothing: kube-apiserver stores these objects in plaintext, and no command touches them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import IDENTITY, Key, configuration, manifest, opened, secrets, store, write_private
from tests.servers.etcd import EtcdCluster

KEY = Key.new("secretbox", "new")
SLIPS = ("deployments", "cronjobs.apps", "services.apps", "leases", "endpointslices.networking.k8s.io", "ingress")
OTHERS = {
    f"/registry/{path}/default/a": manifest(kind, "default", "a", kind)
    for path, kind in {
        "deployments": "Deployment",
        "cronjobs": "CronJob",
        "services/specs": "Service",
        "services/endpoints": "Endpoints",
        "leases": "Lease",
        "endpointslices": "EndpointSlice",
        "ingress": "Ingress",
        "apps/deployments": "Deployment",
    }.items()
}


@pytest.mark.parametrize("governing", ["secrets", "*.example.com"])
def test_what_nobody_named_stays_as_it_is(etcd: EtcdCluster, tmp_path: Path, governing: str) -> None:
    mine = (
        secrets(3)
        if governing == "secrets"
        else {"/registry/example.com/widgets/default/a": manifest("W", "d", "a", "")}
    )
    gateway = etcd.admin()
    store(gateway, OTHERS | mine, IDENTITY)
    before = {one.key: one for one in gateway.read("/registry/") if one.key in OTHERS}
    file = write_private(tmp_path / "enc.json", configuration((SLIPS, [KEY, IDENTITY]), ([governing], [KEY, IDENTITY])))
    rewrap = command_for(tmp_path, etcd, file)

    checked = Command(tmp_path).json("check", str(file))
    assert [warning["resource"] for warning in checked["warnings"]] == list(SLIPS)
    assert "Warning: deployments governs nothing" in Command(tmp_path).run("check", str(file)).stdout

    done = rewrap.run("run", "-o", "json")
    verified = rewrap.run("verify", "-o", "json")
    # A wildcard may mean what lies under a path that no table knows.
    wild = governing != "secrets"
    assert (done.code, verified.code) == ((3, 3) if wild else (0, 0))
    assert done.document["rewritten"] == verified.document["objects"] == len(mine)
    assert verified.document["unknown_paths"] == (["/registry/apps/"] if wild else [])
    assert {one.key: one for one in gateway.read("/registry/") if one.key in OTHERS} == before
    assert {name: found for name, found in opened(gateway.read("/registry/"), KEY).items() if found} == mine

    for refused in (
        rewrap.run("run", "--resource", "deployments", "-o", "json"),
        Command(tmp_path).run("campaign", "start", "--resource", "deployments", "-o", "json"),
    ):
        assert refused.code == 2
        assert "deployments governs nothing" in refused.error["message"]
    looked = rewrap.run("inspect", "/registry/deployments/default/a", "-o", "json")
    assert looked.code == 2
    assert "belongs to deployments.apps" in looked.error["message"]
    assert "deployments is another name, and governs nothing" in looked.error["message"]
    looked = rewrap.run("inspect", "secrets/default/s00001", "-o", "json")
    assert looked.code == 2
    assert "lies outside /registry/, where kube-apiserver stores objects" in looked.error["message"]


def test_a_name_that_a_newer_kubernetes_may_store_keeps_the_proof_open_until_it_is_told(
    etcd: EtcdCluster, tmp_path: Path
) -> None:
    gateway = etcd.admin()
    gadget = {"/registry/gadgets/default/a": manifest("Gadget", "default", "a", "")}
    store(gateway, secrets(1) | gadget, IDENTITY)
    file = write_private(tmp_path / "enc.json", configuration((["secrets", "gadgets.batch"], [KEY, IDENTITY])))
    rewrap = command_for(tmp_path, etcd, file)
    ended = rewrap.run("run", "-o", "json")
    assert ended.code == 3
    assert ended.document["proof"]["unknown_paths"] == ["/registry/gadgets/"]
    assert opened(gateway.read("/registry/gadgets/"), IDENTITY) == gadget
    told = ("--path", "gadgets.batch=gadgets")
    assert Command(tmp_path).json("check", str(file), *told)["warnings"] == []
    assert rewrap.run("run", *told).code == 0
    assert opened(gateway.read("/registry/gadgets/"), KEY) == gadget
    assert rewrap.run("run", "--path", "gadgets.batch=secrets").code == 2
