"""A user who can replace the file chooses the keys: nothing on the path to it may belong to another user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kube_rewrap.config.encryption.source import read
from kube_rewrap.config.encryption.trust import distrust
from kube_rewrap.config.errors import SourceError

STRANGER = 4711

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "enc").mkdir(mode=0o755)
    path = tmp_path / "enc" / "encryption.yaml"
    path.write_bytes(b"kind: x\n")
    path.chmod(0o600)
    return path


def refused(file: Path) -> str:
    """What `read` says, whether or not others may read the file."""
    said = set()
    for allowed in (False, True):
        with pytest.raises(SourceError) as caught:
            read(file, allow_readable=allowed)
        [fault] = caught.value.faults
        said.add(f"{fault.message}; {fault.remedy}")
    [sentence] = said
    return sentence


def linked(file: Path) -> Path:
    """The file behind links as kubelet makes them, in a directory beside its own."""
    mount = file.parent.parent / "mount"
    (mount / "..2024").mkdir(parents=True)
    (mount / "..2024" / "encryption.yaml").symlink_to(os.path.relpath(file, mount / "..2024"))
    (mount / "..data").symlink_to("..2024")
    (mount / "encryption.yaml").symlink_to("..data/encryption.yaml")
    return mount / "encryption.yaml"


def test_a_file_of_ours_in_directories_of_ours_is_read(file: Path) -> None:
    assert distrust(str(file)) is None
    assert read(file) == read(linked(file)) == b"kind: x\n"


@needs_root
def test_a_file_of_another_user_is_refused(file: Path) -> None:
    os.chown(file, STRANGER, -1)
    expected = f"it belongs to another user (number {STRANGER}), who decides on the content; run: chown -h 0 {file}"
    assert refused(file) == expected
    assert refused(linked(file)) == expected.replace("it ", f"{file} ", 1)


@pytest.mark.parametrize("mode", [0o775, 0o757, 0o777, 0o2775])
@pytest.mark.parametrize("depth", [0, 1], ids=["its directory", "the one above"])
def test_a_directory_that_others_may_write_to_is_refused(file: Path, mode: int, depth: int) -> None:
    directory = file.parents[depth]
    directory.chmod(mode)
    expected = f"group or others may write to {directory} (mode {mode:04o}), and decide on the content"
    assert refused(file) == f"{expected}; run: chmod go-w {directory}"
    directory.chmod(mode | 0o1000)
    assert read(file) == b"kind: x\n"


def test_so_is_one_that_only_a_link_leads_through(file: Path) -> None:
    link = linked(file)
    (link.parent / "..2024").chmod(0o777)
    assert refused(link).startswith(f"group or others may write to {link.parent / '..2024'} ")
    assert read(file) == b"kind: x\n"


@needs_root
def test_a_link_or_directory_of_another_user_is_refused(file: Path) -> None:
    link = linked(file)
    os.chown(link.parent / "..data", STRANGER, -1, follow_symlinks=False)
    assert refused(link).startswith(f"{link.parent / '..data'} belongs to another user")
    os.chown(file.parent, STRANGER, -1)
    assert refused(file).startswith(f"{file.parent} belongs to another user")


def test_a_name_may_lead_up_and_through_links_that_are_absolute(file: Path) -> None:
    link = file.parent.parent / "link"
    link.symlink_to(file.parent.absolute())
    assert read(link / ".." / "enc" / file.name) == b"kind: x\n"
    file.parent.chmod(0o777)
    assert refused(link / file.name).startswith(f"group or others may write to {file.parent} ")


def test_links_without_an_end_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        distrust(str(tmp_path / "a"))
