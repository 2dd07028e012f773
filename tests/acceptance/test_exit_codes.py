"""How commands end: the code, and with `-o json` exactly one document on stdout, on errors too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.acceptance.command import Command, command_for
from tests.integration.apiserver import (
    IDENTITY,
    Key,
    configuration,
    configure,
    manifest,
    opened,
    secrets,
    store,
    write_private,
)
from tests.servers.etcd import EtcdCluster
from tests.servers.gateway import Gateway
from tests.servers.ports import free_ports

OLD, NEW, BOX = Key.new("aescbc", "old"), Key.new("aesgcm", "new"), Key.new("secretbox", "box")
POISON = "/registry/secrets/default/poison"


@pytest.fixture
def gateway(etcd: EtcdCluster) -> Gateway:
    gateway = etcd.admin()
    store(gateway, secrets(30), OLD)
    return gateway


@pytest.fixture
def rewrap(etcd: EtcdCluster, gateway: Gateway, tmp_path: Path) -> Command:
    """For thirty secrets under the old key."""
    return command_for(tmp_path, etcd, configure(tmp_path, NEW, OLD, IDENTITY))


def test_everything_under_the_primary_ends_with_0(rewrap: Command, gateway: Gateway) -> None:
    assert rewrap.run("verify").code == 3
    assert rewrap.run("run").code == 0
    assert rewrap.run("verify").code == 0
    assert opened(gateway.read("/registry/"), NEW) == secrets(30)


def test_an_object_that_nobody_can_read_ends_with_3(rewrap: Command, gateway: Gateway) -> None:
    gateway.put(POISON, b"k8s:enc:aesgcm:v1:new:" + b"x" * 60)
    ended = rewrap.run("run")
    assert ended.code == 3
    assert POISON in ended.stdout
    assert "NOT COMPLETE" in ended.stdout
    assert rewrap.run("inspect", POISON).code == 3


def test_a_second_run_has_nothing_to_write_but_its_records(rewrap: Command, gateway: Gateway) -> None:
    assert rewrap.json("run")["rewritten"] == 30
    before = gateway.read("/registry/")
    again = rewrap.json("run")
    assert (again["state"], again["rewritten"], again["encryptions"]) == ("complete", 0, 0)
    assert gateway.read("/registry/") == before


@pytest.fixture
def away(tmp_path: Path) -> Command:
    """For a server that is not there."""
    [port] = free_ports(1)
    settings = write_private(tmp_path / "settings.toml", "[etcd]\nconnect_timeout = 0.5\n")
    flags = ("--endpoints", f"http://127.0.0.1:{port}", "--settings", str(settings))
    return Command(tmp_path, (*flags, "--encryption-config", str(configure(tmp_path, NEW))))


@pytest.mark.parametrize("command", [["verify"], ["run"], ["inspect", "/k"]])
def test_a_server_that_is_not_there_ends_with_5(away: Command, command: list[str]) -> None:
    ended = away.run(*command, "-o", "json")
    assert ended.code == 5
    assert (ended.error["code"], ended.error["type"]) == (5, "UnavailableError")
    assert away.flags[1] in ended.error["message"]


def test_in_text_an_error_is_on_stderr_alone(away: Command) -> None:
    ended = away.run("status")
    assert (ended.code, ended.stdout) == (5, "")
    assert away.flags[1] in ended.stderr
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["frob"], "'frob' is none of check, "),
        (["run", "--no-such-flag"], "--no-such-flag"),
        (["run", "--rate", "fast"], "--rate"),
        (["run", "--rate", "-1"], "must be 0 or 1 to 1000000"),
        (["run", "--gcm-limit", "4294967297"], "2^32"),
        (["run", "--max-window", "0"], "max_window"),
        (["run", "--resource", "pods"], "pods is not governed"),
        (["run", "--namespace", "No_Namespace"], "--namespace"),
        (["run", "--namespace", "no-object"], "no-object: no object is there"),
        (["run", "--dry-run", "--namespace", "default", "--namespace", "no-object"], "no-object: no object is there"),
        (["run", "--state-prefix", "/registry/mine"], "outside the registry"),
        (["keys", "--accept", "0000000000000000"], "no budget is on record"),
        (["inspect", "/registry/pods/default/p"], "no resource that the configuration governs"),
        (["inspect", "/registry/secrets/default/absent"], "does not exist"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_wrong_usage_ends_with_2(rewrap: Command, gateway: Gateway, command: list[str], said: str) -> None:
    revision = gateway.revision()
    ended = rewrap.run(*command, "-o", "json")
    assert ended.code == 2
    assert ended.error["code"] == 2
    assert said in ended.error["message"]
    assert gateway.revision() == revision


def test_no_command_at_all_ends_with_2(tmp_path: Path) -> None:
    ended = Command(tmp_path).run()
    assert (ended.code, ended.stdout) == (2, "")
    assert "COMMAND" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_configuration_that_kube_apiserver_refuses_ends_with_2(rewrap: Command, tmp_path: Path) -> None:
    (tmp_path / "enc.json").write_text(
        '{"apiVersion": "apiserver.config.k8s.io/v1", "kind": "EncryptionConfiguration"}'
    )
    ended = rewrap.run("run", "-o", "json")
    assert (ended.code, ended.error["type"]) == (2, "EncryptionConfigError")
    assert "resources" in ended.error["message"]
    checked = Command(tmp_path).json("check", str(tmp_path / "enc.json"), code=2)
    assert (checked["ok"], checked["resources"]) == (False, [])
    assert [fault["path"] for fault in checked["errors"]] == ["resources"]


@pytest.mark.parametrize("mode", [0o640, 0o604])
def test_a_configuration_that_others_can_read_is_refused_with_the_way_out(
    rewrap: Command, gateway: Gateway, tmp_path: Path, mode: int
) -> None:
    file = tmp_path / "enc.json"
    file.chmod(mode)
    revision = gateway.revision()
    ended = rewrap.run("run", "-o", "json")
    assert (ended.code, ended.error["type"]) == (2, "SourceError")
    assert f"chmod 600 {file}" in ended.error["message"]
    assert gateway.revision() == revision


def test_a_configuration_that_others_can_read_is_taken_where_that_is_meant(rewrap: Command, tmp_path: Path) -> None:
    (tmp_path / "enc.json").chmod(0o644)
    assert rewrap.run("run", "--allow-readable-config").code == 0


def kms_first(directory: Path) -> Path:
    provider = {"kms": {"apiVersion": "v2", "name": "plugin", "endpoint": "unix:///nowhere.sock"}}
    document = {
        "apiVersion": "apiserver.config.k8s.io/v1",
        "kind": "EncryptionConfiguration",
        "resources": [{"resources": ["secrets"], "providers": [provider, OLD.block()]}],
    }
    return write_private(directory / "kms.json", json.dumps(document))


@pytest.mark.parametrize("mode", [[], ["--dry-run"]], ids=["run", "dry run"])
def test_a_kms_primary_without_its_plugin_ends_with_5(
    etcd: EtcdCluster, gateway: Gateway, tmp_path: Path, mode: list[str]
) -> None:
    revision = gateway.revision()
    rewrap = command_for(tmp_path, etcd, kms_first(tmp_path))
    ended = rewrap.run("run", *mode, "-o", "json")
    assert (ended.code, ended.error["type"]) == (5, "KmsUnavailableError")
    assert gateway.revision() == revision
    assert rewrap.json("status")["stale"] == 30


def test_an_identity_primary_is_refused_unless_it_is_meant(etcd: EtcdCluster, gateway: Gateway, tmp_path: Path) -> None:
    revision = gateway.revision()
    rewrap = command_for(tmp_path, etcd, configure(tmp_path, IDENTITY, OLD))
    ended = rewrap.run("run", "-o", "json")
    assert ended.code == 4
    assert "--allow-plaintext" in ended.error["message"]
    assert rewrap.run("run", "--dry-run").code == 4
    assert gateway.revision() == revision
    assert rewrap.json("run", "--allow-plaintext")["state"] == "complete"
    assert {one.key: one.value for one in gateway.read("/registry/")} == secrets(30)


def test_a_budget_that_is_too_small_is_refused_before_the_first_write(rewrap: Command, gateway: Gateway) -> None:
    revision = gateway.revision()
    ended = rewrap.run("run", "--gcm-limit", "29", "-o", "json")
    assert (ended.code, ended.error["type"]) == (4, "BudgetExhaustedError")
    assert NEW.fingerprint in ended.error["message"]
    assert gateway.revision() == revision
    assert rewrap.run("run", "--gcm-limit", "30").code == 0
    [spent] = [key for key in rewrap.json("keys", "--gcm-limit", "30")["keys"] if key["names"] == ["new"]]
    assert (spent["used"], spent["limit"], spent["state"]) == (30, 30, "exhausted")


def test_a_wrong_password_is_told(etcd_auth: EtcdCluster, tmp_path: Path) -> None:
    flags = ("--endpoints", etcd_auth.endpoints[0], "--user", "rewrap:wrong")
    rewrap = Command(tmp_path, (*flags, "--encryption-config", str(configure(tmp_path, NEW))))
    ended = rewrap.run("status", "-o", "json")
    assert (ended.code, ended.error["type"]) == (2, "RequestRefusedError")
    assert "refuses the user or the password; check --user and REWRAP_PASSWORD" in ended.error["message"]


def test_a_missing_permission_is_told(etcd_auth: EtcdCluster, tmp_path: Path) -> None:
    rewrap = command_for(tmp_path, etcd_auth, configure(tmp_path, NEW))
    ended = rewrap.run("status", "--etcd-prefix", "/elsewhere", "-o", "json")
    assert (ended.code, ended.error["type"]) == (2, "RequestRefusedError")
    assert "permission denied" in ended.error["message"]


def test_a_record_of_a_newer_version_is_named(rewrap: Command, gateway: Gateway) -> None:
    gateway.put("/kube-rewrap/v1/campaigns/20990101-000000-abcdef", b'{"v": 2}')
    ended = rewrap.run("run", "-o", "json")
    assert (ended.code, ended.document["state"]) == (0, "complete")
    named = [line["because"] for line in ended.events if line["event"] == "record.unreadable"]
    assert len(named) == 1
    assert "/kube-rewrap/v1/campaigns/20990101-000000-abcdef is of a version" in named[0]


def test_a_record_that_nothing_can_be_told_without_is_named(rewrap: Command, gateway: Gateway) -> None:
    gateway.put("/kube-rewrap/v1/observer", b'{"v": 2}')
    ended = rewrap.run("run", "-o", "json")
    assert (ended.code, ended.error["type"]) == (1, "RecordError")
    assert "/kube-rewrap/v1/observer" in ended.error["message"]


def test_every_flag_has_a_variable(etcd: EtcdCluster, gateway: Gateway, tmp_path: Path) -> None:
    file = configure(tmp_path, NEW, OLD)
    variables = {
        "REWRAP_ENDPOINTS": etcd.endpoints[0],
        "REWRAP_ENCRYPTION_CONFIG": str(file),
        "REWRAP_OUTPUT": "json",
        "REWRAP_GCM_LIMIT": "29",
    }
    bare = Command(tmp_path, environment=variables)
    assert bare.run("run").error["code"] == 4
    assert bare.run("run", "--gcm-limit", "30").document["state"] == "complete"
    assert bare.run("keys").document["keys"][0]["limit"] == 29


def test_a_registry_without_governed_objects_is_complete(etcd: EtcdCluster, tmp_path: Path) -> None:
    etcd.admin().put("/registry/namespaces/default", manifest("Namespace", "", "default", "x"))
    document = command_for(tmp_path, etcd, configure(tmp_path, NEW)).json("run")
    assert (document["state"], document["proof"]["objects"], document["rewritten"]) == ("complete", 0, 0)


def test_the_keys_of_a_file_are_judged_where_there_was_nothing_to_scan(etcd: EtcdCluster, tmp_path: Path) -> None:
    etcd.admin().put("/registry/namespaces/default", manifest("Namespace", "", "default", "x"))
    entries = (["*.apps"], [NEW, OLD]), (["deployments"], [BOX])
    document = command_for(tmp_path, etcd, write_private(tmp_path / "enc.json", configuration(*entries))).json("verify")
    keys = {one["key"]: (one["objects"], one["removable"], one["blockers"]) for one in document["keys"]}
    assert list(keys) == [NEW.name, OLD.name, BOX.name]
    assert all((objects, removable) == (0, False) for objects, removable, _ in keys.values())
    assert keys[NEW.name][2][0] == "it is the primary of *.apps"
    assert keys[BOX.name][2][0] == "it is the primary of deployments, which governs nothing"
    assert not [blocker for blocker in keys[OLD.name][2] if "primary" in blocker]


@pytest.mark.parametrize("command", ["status", "run", "verify"])
def test_where_there_is_no_registry_nothing_is_called_complete(etcd: EtcdCluster, tmp_path: Path, command: str) -> None:
    ended = command_for(tmp_path, etcd, configure(tmp_path, NEW)).run(command, "-o", "json")
    assert ended.code == 4
    assert "--etcd-prefix" in ended.error["message"]


def test_garbage_without_a_prefix_is_never_taken_for_plaintext(rewrap: Command, gateway: Gateway) -> None:
    for number, garbage in enumerate([b"", b"\0" * 40, b"{not json", manifest("Secret", "default", "cut", "x")[:-3]]):
        gateway.put(f"{POISON}-{number}", garbage)
    document = rewrap.json("run", code=3)
    assert {one["key"]: one["reason"] for one in document["quarantined"]} == {
        f"{POISON}-{number}": "unknown_bytes" for number in range(4)
    }
    assert {one.version for one in gateway.read(POISON)} == {1}


def test_no_proxy_stands_between_us_and_etcd(rewrap: Command, gateway: Gateway) -> None:
    nothing_there = "http://127.0.0.1:9"
    proxied = dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), nothing_there)
    ended = rewrap.with_environment(**proxied, no_proxy="", NO_PROXY="", no_grpc_proxy="").run("status", "-o", "json")
    assert ended.code == 0, ended.stderr


@pytest.mark.parametrize("endpoint", ["http://[::1", "http://[31m", "http://host:port", "ftp://host"])
def test_an_endpoint_that_is_none_ends_with_2(rewrap: Command, endpoint: str) -> None:
    ended = rewrap.run("status", "--endpoints", endpoint, "-o", "json")
    assert ended.code == 2
    assert "is not an endpoint" in ended.error["message"]
