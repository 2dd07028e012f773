"""Which files the keys come from: each content once to open backups, each file to destroy a key."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube_rewrap.config.errors import ConfigError
from kube_rewrap.scheduler.backups.keys import read_copies, read_generations
from tests.integration.apiserver import Key, configure

ONE, TWO = Key.new("aesgcm", "one"), Key.new("aescbc", "two")


def test_a_content_is_read_once_and_each_file_that_has_it_is_named(tmp_path: Path) -> None:
    first = configure(tmp_path, ONE, name="enc.1")
    configure(tmp_path, TWO, name="enc.2")
    (tmp_path / "enc.copy").write_bytes(first.read_bytes())
    (tmp_path / "enc.copy").chmod(0o600)
    (tmp_path / ".hidden").write_text("no configuration")
    (tmp_path / "below").mkdir()
    names = ["enc.copy", "enc.2", "enc.1"]
    assert [Path(one.file).name for one in read_copies([str(tmp_path)], allow_readable=False)] == names
    assert [Path(one.file).name for one in read_generations([str(tmp_path)], allow_readable=False)] == names[:2]


@pytest.mark.parametrize("content", ["", "no configuration", "\0"])
def test_a_file_that_can_not_be_used_is_not_left_out(content: str, tmp_path: Path) -> None:
    configure(tmp_path, ONE, name="enc.1")
    (tmp_path / "enc.2").write_text(content)
    (tmp_path / "enc.2").chmod(0o600)
    with pytest.raises(ConfigError, match=r"enc\.2"):
        read_copies([str(tmp_path)], allow_readable=False)


def test_an_empty_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no files"):
        read_copies([str(tmp_path)], allow_readable=False)
