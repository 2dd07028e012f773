from __future__ import annotations

import os
from pathlib import Path

import pytest

from kube_rewrap.config.encryption import source
from kube_rewrap.config.encryption.source import MAX_BYTES, read
from kube_rewrap.config.errors import SourceError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "encryption.yaml"
    path.write_bytes(b"kind: EncryptionConfiguration\n")
    path.chmod(0o600)
    return path


def refused(path: str | Path) -> str:
    with pytest.raises(SourceError) as caught:
        read(path)
    (fault,) = caught.value.faults
    assert caught.value.file == str(path)
    return f"{fault.message}; {fault.remedy}"


@pytest.mark.parametrize("mode", [0o600, 0o400, 0o700])
def test_reads_a_file_that_only_its_owner_can_touch(file: Path, mode: int) -> None:
    file.chmod(mode)
    assert read(file) == b"kind: EncryptionConfiguration\n"
    assert read(str(file)) == b"kind: EncryptionConfiguration\n"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o601, 0o644, 0o777])
def test_refuses_a_file_that_group_or_others_can_touch(file: Path, mode: int) -> None:
    file.chmod(mode)
    expected = f"it holds keys, and its mode {mode:04o} gives group or others access; run: chmod 600 {file}"
    assert refused(file) == expected
    if mode & 0o022:
        with pytest.raises(SourceError, match=r"group or others may write to it .*; run: chmod go-w "):
            read(file, allow_readable=True)
    else:
        assert read(file, allow_readable=True) == b"kind: EncryptionConfiguration\n"


def test_the_command_in_the_remedy_is_quoted(tmp_path: Path) -> None:
    path = tmp_path / "my config.yaml"
    path.write_bytes(b"kind: EncryptionConfiguration")
    path.chmod(0o644)
    assert refused(path).endswith(f"run: chmod 600 '{path}'")


def test_no_chmod_is_advised_for_a_file_of_another_kind(tmp_path: Path) -> None:
    path = tmp_path / "passwd"
    path.write_bytes(b"root:x:0:0:root:/root:/bin/bash\n")
    path.chmod(0o644)
    assert "chmod" not in refused(path)


def test_follows_the_links_of_a_kubelet_mount(tmp_path: Path, file: Path) -> None:
    (tmp_path / "..2024").mkdir()
    file.rename(tmp_path / "..2024" / "encryption.yaml")
    (tmp_path / "..data").symlink_to("..2024")
    (tmp_path / "encryption.yaml").symlink_to("..data/encryption.yaml")
    assert read(tmp_path / "encryption.yaml") == b"kind: EncryptionConfiguration\n"


def test_says_why_a_file_can_not_be_opened(tmp_path: Path) -> None:
    assert refused(tmp_path / "none") == (
        "it can't be read: No such file or directory; check the path and the permissions of its directories"
    )
    assert refused("a\0b").startswith("it can't be read: the path is not valid; ")


def test_refuses_what_is_no_regular_file_without_waiting_for_it(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe, 0o600)
    expected = "it is not a regular file; give the path of the file itself"
    assert refused(pipe) == expected
    assert refused(tmp_path) == expected


def test_refuses_a_file_past_the_limit(file: Path) -> None:
    file.write_bytes(b"x" * MAX_BYTES)
    assert len(read(file)) == MAX_BYTES
    file.write_bytes(b"x" * (MAX_BYTES + 1))
    assert refused(file) == f"it is larger than {MAX_BYTES} bytes; check that it is the configuration file"


def test_reads_again_when_the_file_was_replaced_meanwhile(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drain = source._drain
    replacements = [b"second", b"third and last"]

    def replaced_meanwhile(descriptor: int) -> bytes:
        raw = drain(descriptor)
        if replacements:
            other = file.with_suffix(".new")
            other.write_bytes(replacements.pop(0))
            other.chmod(0o600)
            other.rename(file)
        return raw

    monkeypatch.setattr(source, "_drain", replaced_meanwhile)
    assert read(file) == b"third and last"


def test_gives_up_on_a_file_that_never_stands_still(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drain = source._drain

    def written_meanwhile(descriptor: int) -> bytes:
        raw = drain(descriptor)
        with file.open("ab") as stream:
            stream.write(b"more\n")
        return raw

    monkeypatch.setattr(source, "_drain", written_meanwhile)
    assert refused(file) == "it changed during each of 5 reads; write another file and rename it to this name"


def test_a_file_that_vanished_after_the_read_is_read_again(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drain = source._drain

    def gone_meanwhile(descriptor: int) -> bytes:
        raw = drain(descriptor)
        file.unlink()
        return raw

    monkeypatch.setattr(source, "_drain", gone_meanwhile)
    assert refused(file).startswith("it can't be read: No such file or directory")
