"""deploy/systemd in a Debian that booted: one campaign by the two units."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.documents.deployment import EXAMPLE
from tests.image.bases import SYSTEMD
from tests.image.engine import Engine, wait_for

pytestmark = [pytest.mark.image, pytest.mark.timeout(1800)]

_NAME = "kube-rewrap-test-systemd"
_REWRAP = "/opt/kube-rewrap/bin/rewrap"
_FILE = "/etc/kubernetes/enc/encryption.yaml"
_SETTINGS = "/etc/kube-rewrap/rewrap.env"
_UNITS = ("kube-rewrap-scheduler", "kube-rewrap-worker")
_OBJECTS = "2000"
_OWN = {
    "REWRAP_ENDPOINTS": "http://127.0.0.1:2379",
    "REWRAP_BROKER": "redis://127.0.0.1:6379/0",
}
# Paths of certificates, for an etcd and a Redis with TLS.
_LEFT_OUT = ("REWRAP_CACERT", "REWRAP_CERT", "REWRAP_KEY", "REWRAP_BROKER_CACERT")


class Machine:
    """A booted container: its systemd is the first process."""

    def __init__(self, docker: Engine) -> None:
        self._docker = docker

    def run(self, *words: str) -> str:
        return self._docker.docker("exec", _NAME, *words)

    def is_up(self) -> bool:
        try:
            return self.run("systemctl", "is-system-running").strip() == "running"
        except RuntimeError:
            return False

    def rewrap(self, *words: str) -> str:
        script = f'set -a; . {_SETTINGS}; exec {_REWRAP} "$@"'
        return self.run("sh", "-c", script, "sh", *words)

    def show(self, unit: str, name: str) -> str:
        return self.run("systemctl", "show", "--property", name, "--value", unit).strip()


def environment() -> str:
    """rewrap.env.example, filled in for servers without TLS."""
    lines = [line for line in EXAMPLE.read_text().splitlines() if line and not line.startswith("#")]
    values = {name: value for name, _, value in (line.partition("=") for line in lines)}
    assert _OWN.keys() <= values.keys()
    return "".join(f"{name}={value}\n" for name, value in {**values, **_OWN}.items() if name not in _LEFT_OUT)


@pytest.fixture(scope="module")
def machine(docker: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Machine]:
    file = tmp_path_factory.mktemp("units") / "rewrap.env"
    file.write_text(environment())
    file.chmod(0o600)
    # systemd needs SYS_ADMIN to set up the units' file systems, and its cgroups.
    rights = ["--cap-add", "SYS_ADMIN", "--security-opt", "seccomp=unconfined", "--security-opt", "apparmor=unconfined"]
    places = ["--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp"]  # noqa: S108
    groups = ["--cgroupns", "private"] if Path("/sys/fs/cgroup/cgroup.controllers").exists() else ["--cgroupns", "host"]
    groups += ["--volume", "/sys/fs/cgroup:/sys/fs/cgroup:ro"] if groups[1] == "host" else []
    docker.docker(
        "create", "--name", _NAME, "--network", "none", *rights, *places, *groups, SYSTEMD, "/lib/systemd/systemd"
    )
    try:
        docker.docker("cp", file, f"{_NAME}:{_SETTINGS}")
        docker.docker("start", _NAME)
        found = Machine(docker)
        wait_for("systemd has booted", found.is_up, 60.0)
        found.run("systemd-run", "--unit", "etcd-test", "etcd", "--data-dir", "/var/lib/etcd-test")
        found.run("systemd-run", "--unit", "redis-test", "redis-server", "--save", "")
        wait_for("etcd answers", lambda: found.show("etcd-test", "SubState") == "running", 30.0)
        seed = ["demo", "--objects", _OBJECTS, "--seed-only", _OWN["REWRAP_ENDPOINTS"], "--file", _FILE]
        found.run(_REWRAP, *seed)
        yield found
    finally:
        docker.docker("rm", "--force", _NAME)


def test_the_units_end_a_campaign_with_its_proof(machine: Machine) -> None:
    machine.run("systemctl", "enable", "--now", *_UNITS)
    wait_for(
        "a campaign", lambda: bool(json.loads(machine.rewrap("campaign", "list", "-o", "json"))["campaigns"]), 60.0
    )
    [campaign] = json.loads(machine.rewrap("campaign", "list", "-o", "json"))["campaigns"]
    machine.rewrap("campaign", "wait", campaign["id"], "--timeout", "50")
    proof = json.loads(machine.rewrap("verify", "-o", "json"))
    assert (proof["complete"], proof["objects"]) == (True, int(_OBJECTS))
    for unit in _UNITS:
        assert machine.show(unit, "ActiveState") == "active"
        assert machine.show(unit, "NRestarts") == "0"


def test_a_running_unit_has_no_more_rights_than_it_needs(machine: Machine) -> None:
    for unit in _UNITS:
        process = f"/proc/{machine.show(unit, 'MainPID')}"
        lines = machine.run("cat", f"{process}/status").splitlines()
        status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
        assert {int(status[kind][0], 16) for kind in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {0}
        assert (status["NoNewPrivs"], status["Seccomp"]) == (["1"], ["2"])
        mounts = [line.split() for line in machine.run("cat", f"{process}/mounts").splitlines()]
        # A later mount of the same place covers the earlier ones.
        assert "ro" in [options.split(",") for _, place, _, options, *_ in mounts if place == "/"][-1]


def test_a_killed_daemon_is_started_again(machine: Machine) -> None:
    for unit in _UNITS:
        first = machine.show(unit, "MainPID")
        machine.run("systemctl", "kill", "--signal", "KILL", unit)
        wait_for(f"{unit} runs again", lambda: machine.show(unit, "MainPID") not in {first, "0"}, 60.0)  # noqa: B023
        assert machine.show(unit, "NRestarts") == "1"


def test_the_journal_holds_no_error_and_systemd_knows_every_option(machine: Machine) -> None:
    assert machine.run("systemd-analyze", "verify", *(f"{unit}.service" for unit in _UNITS)) == ""
    for unit in _UNITS:
        entries = machine.run("journalctl", "--boot", "--output", "cat", "--unit", unit).splitlines()
        lines = [json.loads(line) for line in entries if line.startswith("{")]
        assert lines != []
        assert [line for line in lines if line["level"] not in {"debug", "info", "warning"}] == []


def test_a_stop_ends_both_daemons_in_peace(machine: Machine) -> None:
    machine.run("systemctl", "stop", *_UNITS)
    assert {machine.show(unit, "Result") for unit in _UNITS} == {"success"}
