"""A file that vanished after the command began costs itself alone; the others' results are shown."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kube_rewrap.cli.commands import backups
from kube_rewrap.cli.parser import parse
from kube_rewrap.config.errors import SourceError
from tests.integration.apiserver import Key, configure


def test_a_file_that_vanished_is_refused_alone(tmp_path: Path) -> None:
    gone = str(tmp_path / "gone")
    configuration = configure(tmp_path, Key.new("aescbc", "new"))
    args = parse(["backups", "prove", gone, "--encryption-config", str(configuration)])
    assert str(backups._read(args, 0, lambda _: None)).startswith(f"{gone}: it can't be read: No such file")


def test_a_file_of_keys_that_vanished_ends_the_command(tmp_path: Path) -> None:
    args = parse(["backups", "prove", str(tmp_path / "db"), "--encryption-config", str(tmp_path / "gone")])
    with pytest.raises(SourceError, match="gone"):
        backups._read(args, 0, lambda _: None)


def test_the_document_names_a_file_that_vanished(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    configuration = configure(tmp_path, Key.new("aescbc", "new"))
    words = ["backups", "inspect", str(tmp_path / "gone"), "--encryption-config", str(configuration), "-o", "json"]
    args = parse(words)
    assert backups._show(args, [backups._read(args, 0, lambda _: None)]) == 3
    [document] = json.loads(capsys.readouterr().out)["backups"]
    assert (document["file"], document["readable"]) == (str(tmp_path / "gone"), False)
