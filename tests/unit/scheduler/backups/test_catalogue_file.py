"""The catalogue's file is only ever appended to, under a lock."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kube_rewrap.config.errors import SourceError
from kube_rewrap.scheduler.backups import catalogue_file
from kube_rewrap.scheduler.backups.catalogue import line_of, moment
from kube_rewrap.scheduler.backups.catalogue_file import append_lines, read_catalogue
from tests.unit.scheduler.backups.backups import backup


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "catalogue.jsonl")


def test_a_new_catalogue_is_private_and_the_mode_of_an_old_one_stays(path: str) -> None:
    append_lines(path, [line_of(backup(1))])
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o600
    Path(path).chmod(0o644)
    append_lines(path, [line_of(backup(2))])
    assert stat.S_IMODE(Path(path).stat().st_mode) == 0o644
    assert read_catalogue(path).backups == (backup(1), backup(2))


def test_a_torn_line_is_ended_before_the_next_one(path: str) -> None:
    Path(path).write_bytes(line_of(backup(1)) + b"\n" + b'{"version"')
    append_lines(path, [line_of(backup(2))])
    found = read_catalogue(path)
    assert (found.backups, [one.number for one in found.damaged]) == ((backup(1), backup(2)), [2])


def test_appends_at_a_time_lose_nothing(path: str) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: append_lines(path, [line_of(backup(number))]), range(1, 65)))
    found = read_catalogue(path)
    assert sorted(one.digest for one in found.backups) == [backup(number).digest for number in range(1, 65)]
    assert not found.damaged


def test_a_write_that_fails_half_way_is_taken_back(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    append_lines(path, [line_of(backup(1))])
    before = Path(path).read_bytes()
    write = os.write

    def full(descriptor: int, data: memoryview) -> int:
        if len(data) < 50:
            raise OSError(28, "No space left on device")
        return write(descriptor, bytes(data[: len(data) // 2]))

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(SourceError, match="No space left"):
        append_lines(path, [line_of(backup(2))])
    assert Path(path).read_bytes() == before


def test_a_lock_is_not_waited_for_without_end(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    append_lines(path, [line_of(backup(1))])
    monkeypatch.setattr(catalogue_file, "_LOCK_SECONDS", 0.1)
    with Path(path).open() as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        with pytest.raises(SourceError, match="locked"):
            read_catalogue(path)
        with pytest.raises(SourceError, match="locked"):
            append_lines(path, [line_of(backup(2))])
    assert read_catalogue(path).backups == (backup(1),)


def test_a_catalogue_that_another_user_could_write_says_so(path: str) -> None:
    append_lines(path, [line_of(backup(1))])
    assert read_catalogue(path).distrust == ""
    Path(path).chmod(0o662)
    assert "may write" in read_catalogue(path).distrust


def test_a_backup_is_present_while_the_same_file_is_at_its_path(path: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    file.write_bytes(b"x" * 100)
    one = backup(1, file=str(file), made=file.stat().st_mtime)
    append_lines(path, [line_of(one)])
    assert read_catalogue(path).present == {one.digest}
    os.utime(file, (0, 0))
    assert moment(0) != one.made
    assert read_catalogue(path).present == frozenset()


def test_any_copy_that_is_there_counts_and_so_does_one_that_can_not_be_looked_at(path: str, tmp_path: Path) -> None:
    file = tmp_path / "backup.db"
    file.write_bytes(b"x" * 100)
    here = backup(1, file=str(file), made=file.stat().st_mtime)
    append_lines(path, [line_of(here), line_of(backup(1, file="/none.db")), line_of(backup(2, file="/none.db"))])
    assert read_catalogue(path).present == {here.digest}
    names = [str(file / "below"), "/" + "x" * 5_000, "/nul\0", str(tmp_path / "loop")]
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    Path(path).unlink()
    append_lines(path, [line_of(backup(number, file=name)) for number, name in enumerate(names)])
    assert read_catalogue(path).present == frozenset()


def test_a_backup_may_be_where_this_user_can_not_look(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    append_lines(path, [line_of(backup(1)), line_of(backup(2))])
    look = Path.stat

    def refuse(place: Path, *, follow_symlinks: bool = True) -> os.stat_result:
        if str(place) == "/backup/1.db":
            raise PermissionError(errno.EACCES, "Permission denied")
        return look(place, follow_symlinks=follow_symlinks)

    monkeypatch.setattr(Path, "stat", refuse)
    assert read_catalogue(path).present == {backup(1).digest}


def test_a_path_that_is_none_is_refused() -> None:
    for path in ("nul\0", "", "/" + "x" * 5_000):
        with pytest.raises(SourceError):
            read_catalogue(path)
        with pytest.raises(SourceError):
            append_lines(path, [line_of(backup(1))])


def test_a_catalogue_out_of_all_proportion_is_refused(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    append_lines(path, [line_of(backup(1))])
    monkeypatch.setattr(catalogue_file, "_MOST_BYTES", 1_000)
    with pytest.raises(SourceError, match="exceed"):
        append_lines(path, [line_of(backup(2))] * 3)
    Path(path).write_bytes(b"x" * 1_001)
    with pytest.raises(SourceError, match="larger"):
        read_catalogue(path)
