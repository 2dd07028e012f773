"""`rewrap audit` as an operator calls it, on a cluster that is in order and on one that is not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kube_rewrap.config.encryption.generation import content_hash
from tests.acceptance.command import Command, Ended, command_for
from tests.acceptance.marks import BOX, CBC, GCM, LOST, PAYLOAD, marks_in
from tests.integration.apiserver import IDENTITY, configuration, configure, manifest, secrets, store, write_private
from tests.servers.apiserver_metrics import Access, MetricsServer, metrics_servers, sha256
from tests.servers.certificates import Certificates
from tests.servers.etcd import EtcdCluster
from tests.servers.ports import free_ports

RESOURCES = ["secrets", "configmaps"]


@pytest.fixture
def good_file(tmp_path: Path) -> Path:
    return configure(tmp_path, GCM, resources=RESOURCES)


@pytest.fixture
def replicas(etcd_tls: EtcdCluster, good_file: Path, tmp_path: Path) -> Iterator[list[MetricsServer]]:
    """Two kube-apiservers that run the file; their leases are in etcd."""
    with metrics_servers(2, Access(Certificates.write(tmp_path / "pki"))) as servers:
        for server in servers:
            server.shown.hash = sha256(good_file.read_bytes())
            etcd_tls.admin().put(*server.lease())
        yield servers


@pytest.fixture
def good(etcd_tls: EtcdCluster, good_file: Path, replicas: list[MetricsServer], tmp_path: Path) -> Command:
    """TLS with client certificates, everything under one key and proven so, rotation by itself."""
    store(etcd_tls.admin(), secrets(5, payload=PAYLOAD), GCM)
    rewrap = command_for(tmp_path, etcd_tls, good_file)
    rewrap.json("run")
    settings = write_private(tmp_path / "settings.toml", "[rotation]\nauto = true\n")
    urls = (flag for server in replicas for flag in ("--apiserver", server.url))
    ca = ("--apiserver-cacert", str(tmp_path / "pki" / "ca.crt"))
    return rewrap.with_flags("--settings", str(settings), *urls, *ca)


@pytest.fixture
def bad(etcd: EtcdCluster, tmp_path: Path) -> Command:
    """Plain http; plaintext first, aescbc and a key with a second name behind it; a file that all can read."""
    gateway = etcd.admin()
    store(gateway, secrets(3, payload=PAYLOAD), IDENTITY)
    store(gateway, secrets(2, namespace="other", payload=PAYLOAD), CBC)
    store(gateway, {"/registry/secrets/zone/lost": manifest("Secret", "zone", "lost", PAYLOAD)}, LOST)
    entries = (["secrets"], [IDENTITY, CBC]), (["events"], [BOX, IDENTITY, replace(CBC, name="copy")])
    directory = tmp_path / "enc"
    directory.mkdir()
    file = write_private(directory / "enc.json", configuration(*entries))
    file.chmod(0o644)
    directory.chmod(0o777)
    return command_for(tmp_path, etcd, file)


def by_state(document: dict[str, Any], state: str) -> list[str]:
    return [check["id"] for check in document["checks"] if check["state"] == state]


def reasons(document: dict[str, Any]) -> dict[str, str]:
    return {check["id"]: check["reason"] for check in document["checks"]}


def clean(ended: Ended) -> Ended:
    """Asserts that no mark of a key or of an object came out."""
    assert marks_in(ended.stdout + ended.stderr) == []
    return ended


def test_a_good_cluster_fails_nothing(
    good: Command, etcd_tls: EtcdCluster, good_file: Path, replicas: list[MetricsServer]
) -> None:
    revision = etcd_tls.admin().revision()
    ended = clean(good.run("audit", "-o", "json"))
    assert ended.code == 0, ended.stdout + ended.stderr
    document = ended.document
    assert list(document) == ["generation", "revision", "missing", "checks", "summary"]
    assert document["missing"] is None
    assert all(
        list(check) == ["id", "state", "reason", "remedy", "severity", "references"] for check in document["checks"]
    )
    assert (document["generation"], document["revision"]) == (content_hash(good_file.read_bytes()), revision)
    # No scheduler observes, and no rotation brought the key in: nobody can know these two.
    assert by_state(document, "unknown") == ["write-budget", "key-age"]
    assert by_state(document, "warn") == ([] if os.getuid() == 0 else ["file-owner"])
    assert by_state(document, "fail") == []
    states = [check["state"] for check in document["checks"]]
    assert document["summary"] == {state: states.count(state) for state in ("pass", "warn", "fail", "unknown")}
    assert all(bool(check["remedy"]) == (check["state"] != "pass") for check in document["checks"])

    said = reasons(document)
    [url] = etcd_tls.endpoints
    assert said["etcd-access"] == f"a client without certificate and password gets no data: {url} refuses"
    assert said["converged"] == f"all kube-apiservers (2) run {document['generation']}"
    assert said["proof-age"].startswith("everything was proven 0 days ago, at revision ")
    assert etcd_tls.admin().revision() == revision, "it wrote"

    text = clean(good.run("audit"))
    assert text.code == 0
    assert text.stdout.splitlines()[0].split() == ["STATE", "SEVERITY", "CHECK", "REASON"]
    assert text.stdout.splitlines()[-1].endswith(f"; {document['generation']} at revision {revision}")

    # Two points are unknown: a low severity, with which the command ends with 0 unless it is asked for.
    assert {check["severity"] for check in document["checks"] if check["state"] == "unknown"} == {"low"}
    assert good.run("audit", "--fail-on", "low").code == 3

    replicas[0].shown.hash = sha256("another file")
    lagging = clean(good.run("audit", "--max-proof-age", "0.000001", "--gcm-limit", "6", "-o", "json"))
    assert lagging.code == 3
    assert by_state(lagging.document, "fail") == ["converged"]
    assert {"proof-age", "write-budget"} <= set(by_state(lagging.document, "warn"))
    assert good.run("audit", "--fail-on", "critical").code == 0, "the only failure is high, not critical"


def test_a_bad_cluster_fails_what_is_bad(bad: Command, etcd: EtcdCluster) -> None:
    ended = clean(bad.run("audit", "-o", "json"))
    assert ended.code == 3, ended.stdout + ended.stderr
    document = ended.document
    assert by_state(document, "fail") == [
        "primary-encrypts",
        "secrets-covered",
        "plaintext",
        "readable",
        "proof-age",
        "file-mode",
        "directory-mode",
        "etcd-access",
    ]
    owner = [] if os.getuid() == 0 else ["file-owner"]
    assert by_state(document, "warn") == [
        "configmaps-covered",
        "current",
        "identity-reads",
        "key-material",
        *owner,
        "etcd-tls",
    ]
    assert by_state(document, "unknown") == ["key-age", "converged"]

    said, [url] = reasons(document), etcd.endpoints
    assert said["primary-encrypts"] == "secrets: written in plaintext, for identity is the first provider"
    assert said["plaintext"] == "3 objects are stored in plaintext: secrets 3"
    assert "/registry/secrets/zone/lost (unknown_prefix)" in said["readable"]
    assert said["etcd-access"] == f"a client without certificate and password can read from {url}"
    assert said["etcd-tls"] == f"no TLS, though not beyond this machine: {url}"

    text = clean(bad.run("audit"))
    assert text.code == 3
    assert "  etcd-access: run etcd with --client-cert-auth and --trusted-ca-file" in text.stdout.splitlines()


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["--max-key-age", "0"], 2, "argument --max-key-age: must be a number of days above 0"),
        (["--max-proof-age", "nan"], 2, "argument --max-proof-age: must be a number of days above 0"),
        (["--max-proof-age", "soon"], 2, "argument --max-proof-age: must be a number of days above 0"),
        (["--encryption-config", "/nonexistent"], 2, "it can't be read"),
        (["--etcd-prefix", "/empty"], 4, "no key exists under /empty/"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_how_it_ends_without_a_checklist(bad: Command, words: list[str], code: int, said: str) -> None:
    ended = clean(bad.with_flags(*words).run("audit", "-o", "json"))
    assert ended.code == code
    assert said in ended.error["message"]


def test_without_etcd_it_ends_with_5(good_file: Path, tmp_path: Path) -> None:
    settings = write_private(tmp_path / "quick.toml", "[etcd]\nconnect_timeout = 0.3\n")
    [port] = free_ports(1)
    flags = ("--endpoints", f"http://127.0.0.1:{port}", "--encryption-config", str(good_file))
    ended = Command(tmp_path, flags).run("audit", "--settings", str(settings), "-o", "json")
    assert (ended.code, ended.error["code"]) == (5, 5)


def test_an_endpoint_that_is_down_is_not_vouched_for(bad: Command) -> None:
    [port] = free_ports(1)
    down = f"http://127.0.0.1:{port}"
    document = bad.json("audit", "--endpoints", down, code=3)
    assert reasons(document)["space"].endswith(f", but these endpoints did not report theirs: {down}")
    assert "space" in by_state(document, "unknown")
