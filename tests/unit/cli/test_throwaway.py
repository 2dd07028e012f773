"""Where the demonstrations find their servers."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube_rewrap.cli.demo.throwaway import find_etcd, find_redis
from kube_rewrap.config.errors import SettingsError


def test_a_relative_path_is_found_from_any_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    binary = tmp_path / "bin" / "redis-server"
    binary.parent.mkdir()
    binary.write_text("#!/bin/sh\n")
    binary.chmod(0o700)
    monkeypatch.chdir(tmp_path)
    assert find_redis("bin/redis-server") == str(binary)


def test_where_there_is_none_the_way_out_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SettingsError, match=r"no etcd binary was found.*name it with --etcd PATH"):
        find_etcd(None)
    with pytest.raises(SettingsError, match=r"no etcd binary was found"):
        find_etcd(str(tmp_path))  # a directory
