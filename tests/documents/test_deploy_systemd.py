"""deploy/systemd: the units say what they mean, start what exists, and give up every right that is not needed."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.documents.deployment import DEPLOY, EXAMPLE, PAGE, UNITS, unit

HARDENING = {
    "AmbientCapabilities": "",
    "CapabilityBoundingSet": "",
    "InaccessiblePaths": "-/var/lib/etcd",
    "KeyringMode": "private",
    "LimitCORE": "0",
    "LockPersonality": "yes",
    "MemoryDenyWriteExecute": "yes",
    "MemorySwapMax": "0",
    "NoNewPrivileges": "yes",
    "PrivateDevices": "yes",
    "PrivateTmp": "yes",
    "ProtectClock": "yes",
    "ProtectControlGroups": "yes",
    "ProtectHome": "yes",
    "ProtectHostname": "yes",
    "ProtectKernelLogs": "yes",
    "ProtectKernelModules": "yes",
    "ProtectKernelTunables": "yes",
    "ProtectProc": "invisible",
    "ProtectSystem": "strict",
    "RestrictAddressFamilies": "AF_INET AF_INET6 AF_UNIX AF_NETLINK",
    "RestrictNamespaces": "yes",
    "RestrictRealtime": "yes",
    "RestrictSUIDSGID": "yes",
    "SystemCallArchitectures": "native",
    "SystemCallErrorNumber": "EPERM",
    "UMask": "0077",
}
# The only one that comes more than once: what is allowed, then what of that is not.
FILTERS = ["@system-service", "~@privileged"]
OWN = {
    "EnvironmentFile",
    "ExecStart",
    "KillMode",
    "MemoryMax",
    "Restart",
    "RestartSec",
    "TasksMax",
    "TimeoutStopSec",
}
each_unit = pytest.mark.parametrize("path", UNITS, ids=lambda path: path.name)


def values(path: Path, section: str) -> dict[str, list[str]]:
    """The values of each key, in their order."""
    found: dict[str, list[str]] = {}
    for part, key, value in unit(path):
        if part == section:
            found.setdefault(key, []).append(value)
    return found


def test_there_is_a_unit_for_each_daemon() -> None:
    assert [path.name for path in UNITS] == ["kube-rewrap-scheduler.service", "kube-rewrap-worker.service"]


@each_unit
def test_a_units_sections_and_keys_are_known(path: Path) -> None:
    assert {section for section, _, _ in unit(path)} == {"Unit", "Service", "Install"}
    assert set(values(path, "Unit")) == {"Description", "After", "Wants", "StartLimitIntervalSec"}
    assert values(path, "Install") == {"WantedBy": ["multi-user.target"]}
    assert set(values(path, "Service")) - OWN == {*HARDENING, "SystemCallFilter"}


@each_unit
def test_a_unit_gives_up_what_it_does_not_need(path: Path) -> None:
    service = values(path, "Service")
    assert {key: found for key, found in service.items() if key in HARDENING} == {
        key: [value] for key, value in HARDENING.items()
    }
    assert service["SystemCallFilter"] == FILTERS


@each_unit
def test_a_unit_starts_the_program_where_the_page_installs_it(path: Path) -> None:
    [line] = values(path, "Service")["ExecStart"]
    program, command, *_ = shlex.split(line)
    assert program == "/opt/kube-rewrap/bin/rewrap"
    assert "/opt/kube-rewrap" in PAGE.read_text(encoding="utf-8")
    assert path.name == f"kube-rewrap-{command}.service"


@each_unit
def test_a_unit_reads_the_file_that_the_example_is_for(path: Path) -> None:
    [file] = values(path, "Service")["EnvironmentFile"]
    assert EXAMPLE.read_text(encoding="utf-8").startswith(f"# {file}, ")
    assert f"install -m 0600 {EXAMPLE.relative_to(DEPLOY.parent)} {file} " in PAGE.read_text(encoding="utf-8")


@each_unit
def test_a_unit_is_started_again_for_as_long_as_it_takes(path: Path) -> None:
    assert values(path, "Unit")["StartLimitIntervalSec"] == ["0"]
    assert values(path, "Service")["Restart"] == ["always"]


def test_a_workers_children_may_end_their_work_when_it_is_stopped() -> None:
    [worker] = [path for path in UNITS if "worker" in path.name]
    assert values(worker, "Service")["KillMode"] == ["mixed"]


def test_the_daemons_of_one_machine_serve_metrics_on_loopback_and_on_ports_of_their_own() -> None:
    lines = [values(path, "Service")["ExecStart"][0] for path in UNITS]
    addresses = [re.findall(r"--metrics-addr (\S+)$", line) for line in lines]
    assert addresses == [["127.0.0.1:9464"], ["127.0.0.1:9465"]]
    page = PAGE.read_text(encoding="utf-8")
    assert "port 9464 (scheduler) and 9465 (worker)" in " ".join(page.split())


def test_the_example_names_each_variable_once_and_with_a_value() -> None:
    lines = [line for line in EXAMPLE.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    pairs = [line.split("=", 1) for line in lines]
    assert len({name for name, _ in pairs}) == len(pairs)
    # Redis' URL has a password, so it is the operator's to fill in.
    assert [name for name, value in pairs if not value] == ["REWRAP_BROKER"]
    # A shell reads it, too.
    assert [value for _, value in pairs if shlex.split(value) != ([value] if value else [])] == []


@each_unit
def test_systemd_itself_finds_no_fault_where_it_is_installed(path: Path, tmp_path: Path) -> None:
    """Where it is not, the tests above are all there is."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    copy = tmp_path / path.name
    # A program that is here: whether ours is installed is another matter.
    copy.write_text(path.read_text(encoding="utf-8").replace("/opt/kube-rewrap/bin/rewrap", "/bin/true"))
    done = subprocess.run([analyze, "verify", str(copy)], capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in done.stderr.splitlines() if path.name in line] == []
