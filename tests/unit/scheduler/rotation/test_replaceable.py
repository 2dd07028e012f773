"""The reasons why the configuration file can't be replaced, found before a rotation and without a write."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.scheduler.rotation.archive import replace_file
from kube_rewrap.scheduler.rotation.replaceable import faults_of


@pytest.fixture
def file(tmp_path: Path) -> Path:
    folder = tmp_path / "enc"
    folder.mkdir()
    found = folder / "enc.yaml"
    found.write_bytes(b"old")
    found.chmod(0o600)
    return found


def everything(folder: Path) -> list[str]:
    return sorted(str(one) for one in folder.rglob("*"))


def as_link(file: Path) -> None:
    file.rename(file.with_name("real"))
    file.symlink_to(file.with_name("real"))


def as_folder_link(file: Path) -> None:
    file.parent.rename(file.parent.with_name("real"))
    file.parent.symlink_to(file.parent.with_name("real"))


def as_twin(file: Path) -> None:
    file.with_name("twin").hardlink_to(file)


def as_pipe(file: Path) -> None:
    file.unlink()
    os.mkfifo(file, 0o600)


def open_archive(file: Path) -> None:
    (file.parent / "archive").mkdir(0o755)


def linked_archive(file: Path) -> None:
    (file.parent / "real").mkdir(0o700)
    (file.parent / "archive").symlink_to(file.parent / "real")


def archive_is_a_file(file: Path) -> None:
    (file.parent / "archive").write_bytes(b"")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (as_link, "is a symbolic link, so something else manages it"),
        (as_folder_link, "the directory of"),
        (as_twin, "has a second name"),
        (as_pipe, "is not a regular file"),
        (open_archive, "others than this process' user could get at them"),
        (linked_archive, "is a symbolic link, or no directory"),
        (archive_is_a_file, "is a symbolic link, or no directory"),
        (Path.unlink, "No such file"),
    ],
)
def test_what_a_replacement_would_refuse_is_said_before(file: Path, spoil: Callable[[Path], None], words: str) -> None:
    spoil(file)
    before = everything(file.parent.parent)
    faults = faults_of(str(file), str(file.parent / "archive"))
    assert any(words in fault for fault in faults), faults
    assert everything(file.parent.parent) == before
    with pytest.raises(ConfigError):
        replace_file(file, b"old", b"new", file.parent / "archive", "stamp")


def test_a_file_of_ours_has_no_fault_and_can_be_replaced(file: Path) -> None:
    before = everything(file.parent.parent)
    assert faults_of(str(file), str(file.parent / "archive")) == ()
    assert everything(file.parent.parent) == before
    replace_file(file, b"old", b"new", file.parent / "archive", "stamp")
    assert faults_of(str(file), str(file.parent / "archive")) == ()


def test_the_archive_can_not_be_the_files_own_directory(file: Path) -> None:
    [fault] = faults_of(str(file), str(file.parent))
    assert "is the file's own directory" in fault


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_to_is_said(file: Path) -> None:
    file.parent.chmod(0o500)
    faults = faults_of(str(file), str(file.parent / "archive"))
    file.parent.chmod(0o700)
    assert len(faults) == 2
