"""A wheel holds the same files whether it is built from the repository or from a source distribution."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

from kube_rewrap.cli.parser import COMMANDS
from tools import man_page

ROOT = Path(__file__).parents[2]


def build(target: str, source: Path, directory: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(directory)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    [made] = directory.iterdir()
    return made


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as opened:
        return {name for name in opened.namelist() if ".dist-info/" not in name and ".data/" not in name}


def test_both_ways_to_a_wheel_lead_to_all_modules(tmp_path: Path) -> None:
    direct = files(build("wheel", ROOT, tmp_path / "wheel"))
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    [source] = (tmp_path / "unpacked").iterdir()
    assert files(build("wheel", source, tmp_path / "second")) == direct
    modules = {path for one in ("cli", "config", "scheduler", "worker") for path in (ROOT / one).rglob("*.py")}
    expected = {f"kube_rewrap/{path.relative_to(ROOT).as_posix()}" for path in modules}
    data = {"kube_rewrap/cli/report_page.html"}
    assert expected | data | {"kube_rewrap/__init__.py", "kube_rewrap/py.typed", "kube_rewrap/COMMIT"} == direct


def test_a_wheel_says_which_commit_it_was_made_from_and_brings_the_manual_page(tmp_path: Path) -> None:
    wheel = build("wheel", ROOT, tmp_path)
    git = [shutil.which("git") or "git", "-C", str(ROOT), "rev-parse", "HEAD"]
    head = subprocess.run(git, check=True, capture_output=True, text=True, timeout=60)
    with zipfile.ZipFile(wheel) as opened:
        assert opened.read("kube_rewrap/COMMIT").decode().startswith(head.stdout.strip())
        [page] = [name for name in opened.namelist() if name.endswith(".data/data/share/man/man1/rewrap.1")]
        assert opened.read(page).decode() == man_page.page()
        [points] = [name for name in opened.namelist() if name.endswith("entry_points.txt")]
        assert {line.split(" =")[0] for line in opened.read(points).decode().splitlines() if "=" in line} == {
            "rewrap",
            "kubectl-rewrap",
        }


def test_a_build_without_a_repository_takes_the_commit_from_its_variable(tmp_path: Path) -> None:
    def built(commit: str) -> subprocess.CompletedProcess[bytes]:
        command = [
            sys.executable,
            "-m",
            "hatchling",
            "build",
            "--target",
            "wheel",
            "--directory",
            str(tmp_path / "out"),
        ]
        environment = {**os.environ, "KUBE_REWRAP_COMMIT": commit}
        return subprocess.run(command, cwd=ROOT, check=False, capture_output=True, timeout=60, env=environment)

    assert built("main; rm -rf /").returncode != 0
    assert built("0123456789abcdef").returncode == 0
    [wheel] = (tmp_path / "out").iterdir()
    with zipfile.ZipFile(wheel) as opened:
        assert opened.read("kube_rewrap/COMMIT") == b"0123456789abcdef\n"


def test_an_installed_wheel_tells_its_version(tmp_path: Path) -> None:
    wheel = build("wheel", ROOT, tmp_path / "wheel")
    target = tmp_path / "installed"
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target), str(wheel)]
    subprocess.run(install, check=True, capture_output=True, timeout=60)
    # Before the editable install on the path, behind it the libraries.
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, str(target / "bin" / "rewrap"), "version", "-o", "json"]
    ran = subprocess.run(command, check=True, capture_output=True, timeout=60, env=environment, cwd=tmp_path)
    told = json.loads(ran.stdout)
    assert told["commit"] == (target / "kube_rewrap" / "COMMIT").read_text(encoding="ascii").strip()
    assert told["version"] == version("kube-rewrap")
    assert told["libraries"]["celery"] == version("celery")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completions_name_every_command_and_the_shell_reads_them(shell: str) -> None:
    script = subprocess.run(
        [sys.executable, "-c", f"from kube_rewrap.cli.main import main; main(['completion', '{shell}'])"],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    assert {name for name in COMMANDS if name not in script} == set()
    reader = shutil.which(shell)
    if reader is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([reader, "-n"], input=script, check=True, capture_output=True, text=True, timeout=60)


def test_the_manual_page_is_what_the_parser_says() -> None:
    assert man_page.PAGE.read_text(encoding="utf-8") == man_page.page(), "make docs writes it anew"
