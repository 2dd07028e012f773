"""deploy/backups: the examples of a backup job name commands, flags and files that exist, and the job does its work."""

from __future__ import annotations

import importlib
import os
import re
import shlex
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from kube_rewrap.cli.parser import parse
from tests.documents.deployment import DEPLOY, TOP, unit
from tests.documents.test_deploy_systemd import FILTERS, HARDENING, values

# Typed nowhere; the schemas of this version come with it.
kubernetes_validate: Any = importlib.import_module("kubernetes_validate")

BACKUPS = DEPLOY / "backups"
SCRIPT = BACKUPS / "backup-etcd"
SERVICE, TIMER = BACKUPS / "kube-rewrap-backup.service", BACKUPS / "kube-rewrap-backup.timer"
FAILED = BACKUPS / "kube-rewrap-backup-failed.service"
EXAMPLE = BACKUPS / "backup.env.example"
PAGE = (TOP / "docs" / "backups.md").read_text(encoding="utf-8")


def test_the_page_names_every_file() -> None:
    assert [path.name for path in BACKUPS.iterdir() if f"deploy/backups/{path.name}" not in PAGE] == []


def test_the_cron_job_fits_the_schema_and_adds_the_snapshot_that_it_saved() -> None:
    job, policy = yaml.safe_load_all((BACKUPS / "cronjob.yaml").read_text(encoding="utf-8"))
    for document in (job, policy):
        kubernetes_validate.validate(document, "1.34", strict=True)
    template = job["spec"]["jobTemplate"]["spec"]["template"]
    assert policy["spec"]["podSelector"]["matchLabels"].items() <= template["metadata"]["labels"].items()
    pod = template["spec"]
    [snapshot], [prove] = pod["initContainers"], pod["containers"]
    args = parse(prove["args"])
    assert (args.command, args.verb, args.files) == ("backups", "add", [snapshot["command"][-1]])
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for one in (snapshot, prove) for mount in one["volumeMounts"]} == volumes
    for one in (snapshot, prove):
        assert one["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert one["securityContext"]["readOnlyRootFilesystem"]


def test_the_unit_gives_up_what_it_does_not_need() -> None:
    service = values(SERVICE, "Service")
    # No daemon: an interpreter and a shell script are not tried without writable and executable memory.
    wanted = {key: [value] for key, value in HARDENING.items() if key != "MemoryDenyWriteExecute"}
    assert {key: found for key, found in service.items() if key in wanted} == wanted
    assert service["SystemCallFilter"] == FILTERS
    assert service["Type"] == ["oneshot"]
    assert values(SERVICE, "Unit")["OnFailure"] == [FAILED.name]


def test_unit_example_and_script_name_the_same_files() -> None:
    service = values(SERVICE, "Service")
    example = dict(line.split("=", 1) for line in EXAMPLE.read_text("utf-8").splitlines() if re.match(r"\w+=", line))
    assert service["ReadWritePaths"] == [example["BACKUPS"]]
    assert EXAMPLE.read_text("utf-8").startswith(f"# {service['EnvironmentFile'][0]}, ")
    assert service["ExecStart"] == [f"/opt/kube-rewrap/bin/{SCRIPT.name}"]
    assert example["PATH"].startswith("/opt/kube-rewrap/bin:")
    assert example["REWRAP_CATALOGUE"].startswith(f"{example['BACKUPS']}/")


def test_the_timer_starts_the_unit() -> None:
    assert TIMER.stem == SERVICE.stem
    assert ("Install", "WantedBy", "timers.target") in unit(TIMER)


@pytest.mark.parametrize("path", [SERVICE, TIMER, FAILED], ids=lambda path: path.name)
def test_systemd_itself_finds_no_fault_where_it_is_installed(path: Path, tmp_path: Path) -> None:
    """Where it is not, the tests above are all there is."""
    analyze = shutil.which("systemd-analyze")
    if analyze is None:
        return
    for one in (SERVICE, TIMER, FAILED):
        text = re.sub(r"^ExecStart=\S+", "ExecStart=/bin/true", one.read_text("utf-8"), flags=re.MULTILINE)
        (tmp_path / one.name).write_text(text)
    command = [analyze, "verify", str(tmp_path / path.name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert [line for line in done.stderr.splitlines() if path.name in line] == []


def run_script(tmp_path: Path, *, proof: int) -> tuple[int, list[str], list[str]]:
    """Runs the script with stand-ins for etcdctl and rewrap; returns its code, their words, and the backups left."""
    programs, backups = tmp_path / "bin", tmp_path / "backups"
    programs.mkdir()
    backups.mkdir()
    (programs / "etcdctl").write_text(f'#!/bin/sh\necho "etcdctl $*" >> {tmp_path}/log\necho x > "$3"\n')
    (programs / "rewrap").write_text(f'#!/bin/sh\necho "rewrap $*" >> {tmp_path}/log\nexit {proof}\n')
    for program in programs.iterdir():
        program.chmod(0o755)
    for name, age in (("etcd-old.db", 40), ("etcd-recent.db", 20), ("other.db", 40)):
        (backups / name).touch()
        os.utime(backups / name, (time.time() - age * 86_400,) * 2)
    environment = {
        "PATH": f"{programs}:{os.environ['PATH']}",
        "BACKUPS": str(backups),
        "REWRAP_CATALOGUE": "catalogue",
        "REWRAP_ENCRYPTION_CONFIG": "enc.yaml",
    }
    done = subprocess.run(["/bin/sh", str(SCRIPT)], env=environment, timeout=60, check=False)
    log = (tmp_path / "log").read_text().splitlines()
    return done.returncode, log, sorted(path.name for path in backups.iterdir())


def test_the_script_saves_proves_and_deletes_what_expired(tmp_path: Path) -> None:
    code, (saved, added), left = run_script(tmp_path, proof=0)
    assert code == 0
    args = parse(shlex.split(added)[1:])
    [file] = args.files
    assert (args.verb, args.expires) == ("add", "32d")
    assert saved == f"etcdctl snapshot save {file}.part"
    assert left == [Path(file).name, "etcd-recent.db", "other.db"]


def test_the_script_deletes_nothing_where_the_proof_fails(tmp_path: Path) -> None:
    code, _, left = run_script(tmp_path, proof=3)
    assert code == 3
    assert "etcd-old.db" in left
