"""The file after each way to succeed, to be refused, and to be interrupted; and what the archive holds."""

from __future__ import annotations

import fcntl
import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from kube_rewrap.scheduler.rotation.archive import ReplaceError, replace_file

OLD, NEW = b"kind: old\n", b"kind: new\n"
STAMP = "20261123T101500Z"
NAME = f"encryption.yaml.{STAMP}.{hashlib.sha256(OLD).hexdigest()[:12]}"


@dataclass(frozen=True)
class Place:
    file: Path
    archive: Path

    def replace(self, stamp: str = STAMP, before: bytes = OLD) -> Path:
        return replace_file(self.file, before, NEW, self.archive, stamp)

    def refused(self) -> str:
        with pytest.raises(ReplaceError) as caught:
            self.replace()
        (fault,) = caught.value.faults
        return str(fault)

    def names(self) -> list[str]:
        """What lies beside the file: itself, and nothing that was left over."""
        return sorted(path.name for path in self.file.parent.iterdir())

    def archived(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in self.archive.iterdir()}


@pytest.fixture
def place(tmp_path: Path) -> Place:
    folder = tmp_path / "etc"
    folder.mkdir()
    file = folder / "encryption.yaml"
    file.write_bytes(OLD)
    file.chmod(0o600)
    return Place(file, tmp_path / "archive")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_replaces_the_file_and_keeps_the_old_content(place: Place) -> None:
    assert place.replace() == place.archive / NAME
    assert place.file.read_bytes() == NEW
    assert place.archived() == {NAME: OLD}
    assert (mode(place.archive), mode(place.archive / NAME)) == (0o700, 0o600)
    assert place.names() == ["encryption.yaml"]


@pytest.mark.parametrize("wanted", [0o600, 0o400, 0o640, 0o644])
def test_the_mode_is_kept(place: Place, wanted: int) -> None:
    place.file.chmod(wanted)
    place.replace()
    assert mode(place.file) == wanted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_is_kept(place: Place) -> None:
    os.chown(place.file, 4711, 4712)
    place.replace()
    assert (place.file.stat().st_uid, place.file.stat().st_gid) == (4711, 4712)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_an_owner_that_can_not_be_kept_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    os.chown(place.file, 4711, 4712)
    monkeypatch.setattr(os, "fchown", failing(PermissionError(1, "Operation not permitted")))
    assert place.refused() == (
        "its owner or group is another one than ours, and only root could keep them; run this as root or as the file's "
        "owner"
    )
    assert_untouched(place)


def test_the_same_call_again_changes_nothing(place: Place) -> None:
    first = place.replace()
    inode = place.file.stat().st_ino
    assert place.replace() == first
    assert place.file.stat().st_ino == inode
    assert place.archived() == {NAME: OLD}


def test_a_content_is_archived_once_under_any_stamp(place: Place) -> None:
    first = place.replace()
    place.file.write_bytes(OLD)
    assert place.replace(stamp="later") == first
    assert place.archived() == {NAME: OLD}


def test_nothing_in_the_archive_is_overwritten(place: Place) -> None:
    place.archive.mkdir(0o700)
    (place.archive / NAME).write_bytes(b"something else")
    assert place.refused() == f"it holds {NAME} with another content; move that file away"
    assert place.archived() == {NAME: b"something else"}
    assert place.file.read_bytes() == OLD


def test_a_link_in_the_archive_is_not_followed(place: Place, tmp_path: Path) -> None:
    place.archive.mkdir(0o700)
    (tmp_path / "elsewhere").write_bytes(OLD)
    (place.archive / NAME).symlink_to(tmp_path / "elsewhere")
    assert place.refused() == f"it holds {NAME} with another content; move that file away"
    assert place.file.read_bytes() == OLD


def test_a_file_that_was_changed_meanwhile_is_left_alone(place: Place) -> None:
    place.file.write_bytes(b"kind: by hand\n")
    assert place.refused() == (
        "it was changed since it was read, by hand or by another program; look at the change, then start the step again"
    )
    assert place.file.read_bytes() == b"kind: by hand\n"
    assert place.names() == ["encryption.yaml"]


def test_a_change_during_the_last_step_is_noticed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    chmod = os.fchmod

    def changed_meanwhile(descriptor: int, wanted: int) -> None:
        place.file.write_bytes(b"kind: by hand\n")
        chmod(descriptor, wanted)

    monkeypatch.setattr(os, "fchmod", changed_meanwhile)
    assert place.refused().startswith("it was changed since it was read")
    assert place.file.read_bytes() == b"kind: by hand\n"
    assert place.names() == ["encryption.yaml"]


MANAGED = "change it where it is managed: rotate --manual says step by step what to write"


def test_the_links_of_a_kubelet_mount_are_refused(tmp_path: Path, place: Place) -> None:
    data = tmp_path / "..2024"
    place.file.parent.rename(data)
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "encryption.yaml").symlink_to("..data/encryption.yaml")
    linked = Place(tmp_path / "encryption.yaml", place.archive)
    assert linked.refused() == f"it is a symbolic link, so something else manages it; {MANAGED}"
    inside = Place(tmp_path / "..data" / "encryption.yaml", place.archive)
    assert inside.refused() == f"its directory is a symbolic link, so something else manages the file; {MANAGED}"
    assert (data / "encryption.yaml").read_bytes() == OLD
    assert not place.archive.exists()


def test_a_second_name_is_refused(place: Place) -> None:
    (place.file.parent / "other").hardlink_to(place.file)
    assert place.refused() == f"it has a second name (a hard link), which would keep the old content; {MANAGED}"


def test_what_is_no_file_is_refused(place: Place) -> None:
    place.file.unlink()
    assert place.refused() == (
        "it can't be replaced: No such file or directory; check the disk and the permissions of both directories"
    )
    os.mkfifo(place.file)
    assert place.refused() == "it is not a regular file; give the path of the file itself"


def test_a_mounted_file_is_refused(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "rename", failing(OSError(16, "Device or resource busy")))
    assert place.refused() == f"it can't be replaced: Device or resource busy; {MANAGED}"
    assert_untouched(place)


@pytest.mark.parametrize("wrong", [0o750, 0o705, 0o770, 0o701])
def test_an_archive_that_others_can_enter_is_refused(place: Place, wrong: int) -> None:
    place.archive.mkdir()
    place.archive.chmod(wrong)
    assert place.refused() == (
        "it would hold keys, and others than this process's user could get at them; "
        "make it a directory of this user's with mode 0700"
    )
    assert place.archived() == {}
    assert place.file.read_bytes() == OLD


def test_an_archive_behind_a_link_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(0o700)
    place.archive.symlink_to(tmp_path / "real")
    assert place.refused() == "it is a symbolic link; give the archive's directory itself"


def test_the_files_own_directory_is_no_archive(place: Place) -> None:
    place.file.parent.chmod(0o700)
    own = Place(place.file, place.file.parent)
    assert own.refused().startswith("another process is replacing a file there, or the archive is the file's own")
    assert own.names() == ["encryption.yaml"]


def test_two_at_once_are_refused(place: Place) -> None:
    descriptor = os.open(place.file.parent, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert place.refused().startswith("another process is replacing a file there")
    finally:
        os.close(descriptor)
    assert place.replace() == place.archive / NAME


@pytest.mark.parametrize("stamp", ["", "../x", "a/b", ".hidden", "a b"])
def test_a_stamp_that_is_no_part_of_a_name_is_a_bug_of_the_callers(place: Place, stamp: str) -> None:
    with pytest.raises(ValueError, match="a stamp consists of"):
        place.replace(stamp=stamp)


# ------------------------------------------------------------------------------------------------------------- crashes


class KilledError(BaseException):
    """Not an Exception: nothing may catch it on the way."""


def failing(error: BaseException) -> Callable[..., None]:
    def fail(*_: object, **__: object) -> None:
        raise error

    return fail


def assert_untouched(place: Place) -> None:
    assert place.file.read_bytes() == OLD
    assert place.names() == ["encryption.yaml"]
    assert place.archived() in ({}, {NAME: OLD})


@pytest.mark.parametrize("error", [KilledError(), OSError(28, "No space left on device")], ids=["killed", "disk full"])
@pytest.mark.parametrize("call", ["fsync", "fchmod", "rename", "link"])
def test_an_exception_leaves_the_old_file_and_nothing_else(
    place: Place, monkeypatch: pytest.MonkeyPatch, call: str, error: BaseException
) -> None:
    place.archive.mkdir(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(error))
        with pytest.raises((KilledError, ReplaceError)):
            place.replace()
    assert_untouched(place)
    place.replace()
    assert place.file.read_bytes() == NEW
    assert place.archived() == {NAME: OLD}


def test_a_crash_at_any_call_is_made_good_by_the_next_run(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kill, simulated at each call: from that call on, even the clean-up does not run."""
    for survived in range(40):
        place.file.write_bytes(OLD)
        left = survived

        def counted(real: Callable[..., object]) -> Callable[..., object]:
            def call(*args: object, **named: object) -> object:
                nonlocal left
                left -= 1
                if left < 0:
                    raise KilledError
                return real(*args, **named)

            return call

        with monkeypatch.context() as patch:
            for name in ("mkdir", "unlink", "link", "rename", "fsync", "fchmod", "stat", "listdir"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                place.replace()
            except KilledError:
                killed = True
            else:
                killed = False
        assert place.file.read_bytes() in {OLD, NEW}
        place.replace()
        assert place.file.read_bytes() == NEW
        assert place.names() == ["encryption.yaml"]
        assert place.archived() == {NAME: OLD}
        if not killed:
            return
        # The next round archives anew.
        (place.archive / NAME).unlink()
        place.archive.rmdir()
    pytest.fail("it never came to an end")


def test_the_content_is_on_disk_before_its_name(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """Archive first, then the file; of each: content, name, directory."""
    done: list[str] = []

    def noted(name: str, real: Callable[..., object]) -> Callable[..., object]:
        def call(first: object, *args: object, **named: object) -> object:
            if name == "fsync" and isinstance(first, int):
                done.append("sync " + ("directory" if stat.S_ISDIR(os.fstat(first).st_mode) else "content"))
            elif name != "fsync":
                done.append(name)
            return real(first, *args, **named)

        return call

    for name in ("fsync", "link", "rename"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    place.replace()
    assert done == [
        "sync directory", "sync content", "link", "sync directory", "sync content", "rename", "sync directory",
    ]  # fmt: skip
