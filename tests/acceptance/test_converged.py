"""`rewrap converged` as an operator calls it: what it prints, and how it ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.command import Command
from tests.integration.apiserver import Key, configure, write_private
from tests.servers.apiserver_metrics import Access, MetricsServer, metrics_servers, sha256
from tests.servers.certificates import Certificates
from tests.servers.etcd import EtcdCluster

OTHER = sha256("other")
TOKEN = "canary-token"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return configure(tmp_path, Key.new("secretbox", "one"))


@pytest.fixture
def file_hash(file: Path) -> str:
    return sha256(file.read_bytes())


@pytest.fixture
def replicas(etcd: EtcdCluster, file_hash: str, tmp_path: Path) -> Iterator[list[MetricsServer]]:
    """Two that run the file, with TLS, and a token asked for; their leases are in etcd."""
    access = Access(Certificates.write(tmp_path / "pki"), token=TOKEN)
    with metrics_servers(2, access) as servers:
        for server in servers:
            server.shown.hash = file_hash
            etcd.admin().put(*server.lease())
        yield servers


@pytest.fixture
def nobody(etcd: EtcdCluster, tmp_path: Path, file: Path) -> Command:
    """Without an address."""
    return Command(tmp_path, (*etcd.client_flags(), "--encryption-config", str(file)))


@pytest.fixture
def rewrap(nobody: Command, replicas: list[MetricsServer], tmp_path: Path) -> Command:
    token = write_private(tmp_path / "token", TOKEN + "\n")
    urls = (flag for server in replicas for flag in ("--apiserver", server.url))
    access = ("--apiserver-cacert", str(tmp_path / "pki" / "ca.crt"), "--apiserver-token-file", str(token))
    return nobody.with_flags(*urls, *access)


def test_the_command(rewrap: Command, replicas: list[MetricsServer], file_hash: str, file: Path) -> None:
    document = rewrap.json("converged")
    assert document == {
        "converged": True,
        "file_hash": file_hash,
        "because": f"all kube-apiservers (2) run {file_hash}",
        "replicas": [
            {
                "address": server.url,
                "id": server.id_hash,
                "name": server.name,
                "state": "converged",
                "hash": file_hash,
                "because": f"{server.url} runs it",
            }
            for server in replicas
        ],
        "warnings": [],
        "assumed": None,
    }

    replicas[1].shown.hash = OTHER
    ended = rewrap.run("converged", str(file))
    assert ended.code == 3
    assert [line.split()[:3] for line in ended.stdout.splitlines()[:3]] == [
        ["ADDRESS", "REPLICA", "STATE"],
        [replicas[0].url, replicas[0].name, "converged"],
        [replicas[1].url, replicas[1].name, "other"],
    ]
    assert ended.stdout.splitlines()[-1] == f"NOT CONVERGED: {replicas[1].url} runs {OTHER}"
    assert rewrap.json("converged", "--wait", "--converge-timeout", "0.2", code=3)["converged"] is False

    with rewrap.start("converged", "--wait", "-o", "json") as waiting:
        waiting.wait_for_event("convergence.waiting")
        replicas[1].shown.hash = file_hash
        ended = waiting.end()
    assert (ended.code, ended.document["converged"]) == (0, True)
    assert [event["event"] for event in ended.events] == ["convergence.waiting", "convergence.reached"]
    assert TOKEN not in ended.stdout + ended.stderr

    for server in replicas:
        server.go_down()
    unreachable = rewrap.json("converged", code=5)
    assert [one["state"] for one in unreachable["replicas"]] == ["unreachable"] * 2 + ["not listed"] * 2


def test_an_operators_word(nobody: Command, file: Path, file_hash: str) -> None:
    assert nobody.json("converged", code=3)["replicas"] == []
    given = nobody.json("converged", "--assume-converged", "restarted all of them")
    assert (given["converged"], given["assumed"]) == (True, "restarted all of them")
    assert nobody.json("converged") == given
    [entry] = nobody_s_log(nobody)
    assert (entry["event"], entry["detail"]) == (
        "convergence.assumed",
        {"file_hash": file_hash, "reason": "restarted all of them"},
    )
    file.write_text(file.read_text() + "\n")
    assert nobody.json("converged", code=3)["assumed"] is None


def nobody_s_log(command: Command) -> list[dict[str, object]]:
    flags = command.flags[: command.flags.index("--encryption-config")]
    entries: list[dict[str, object]] = Command(command.directory, flags).json("audit-log", "list")["entries"]
    return entries


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--assume-converged", " "], "--assume-converged: gives no reason"),
        (["--assume-converged", "sure\x1b[2J"], "the reason must be a printable text of at most 500"),
        (["--assume-converged", "a\nb"], "the reason must be a printable text of at most 500"),
        (["--assume-converged", "x" * 501], "the reason must be a printable text of at most 500"),
        (["--apiserver", "10.0.0.1:6443"], "apiservers.addresses: must be URLs"),
        (["--apiserver", "https://root:secret@10.0.0.1"], "apiservers.addresses: must be URLs"),
        (["--apiserver", "http://a", "--apiserver-token-file", "f"], "a token is sent over https only"),
        (["--apiserver", "https://a", "--apiserver-cert", "f"], "a client certificate needs its key"),
        (["--apiserver", "https://a", "--apiserver-token-file", "/nonexistent"], "apiservers.token_file"),
        (["--converge-timeout", "0"], "apiservers.converge_timeout: must be above 0, at most 86400"),
        (["/nonexistent.yaml"], "it can't be read"),
    ],
    ids=lambda value: ascii(" ".join(value))[1:60] if isinstance(value, list) else None,
)
def test_wrong_usage_ends_with_2(nobody: Command, words: list[str], said: str) -> None:
    ended = nobody.run("converged", *words, "-o", "json")
    assert ended.code == 2
    assert said in ended.error["message"]
    assert nobody_s_log(nobody) == []
    assert "secret" not in ended.error["message"]


def test_without_a_file_it_ends_with_2(tmp_path: Path) -> None:
    ended = Command(tmp_path).run("converged", "-o", "json")
    assert (ended.code, "FILE: is missing" in ended.error["message"]) == (2, True)
