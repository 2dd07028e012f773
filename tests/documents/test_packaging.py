"""A wheel holds the same files whether it is built from the repository or from a source distribution."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build(target: str, source: Path, directory: Path) -> Path:
    command = [sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(directory)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, timeout=60)
    [made] = directory.iterdir()
    return made


def files(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as opened:
        return {name for name in opened.namelist() if ".dist-info/" not in name}


def test_both_ways_to_a_wheel_lead_to_all_modules(tmp_path: Path) -> None:
    direct = files(build("wheel", ROOT, tmp_path / "wheel"))
    with tarfile.open(build("sdist", ROOT, tmp_path / "sdist")) as opened:
        opened.extractall(tmp_path / "unpacked", filter="data")
    [source] = (tmp_path / "unpacked").iterdir()
    assert files(build("wheel", source, tmp_path / "second")) == direct
    modules = {path for one in ("cli", "config", "scheduler", "worker") for path in (ROOT / one).rglob("*.py")}
    expected = {f"kube_rewrap/{path.relative_to(ROOT).as_posix()}" for path in modules}
    assert expected | {"kube_rewrap/__init__.py", "kube_rewrap/py.typed"} == direct
