"""`rewrap demo --next-key` changes the key of a demonstration, and of nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from kube_rewrap.cli.demo.registry import RESOURCES, configuration_of, make_key
from kube_rewrap.cli.main import main
from kube_rewrap.cli.options import generation_of
from kube_rewrap.config.encryption.configuration import ProviderType
from kube_rewrap.config.encryption.provider import KeyedProvider, Provider

OLD = [make_key(ProviderType.AESGCM, "key2"), make_key(ProviderType.AESCBC, "key1")]


def written(directory: Path, resources: tuple[str, ...]) -> Path:
    path = directory / "encryption.yaml"
    path.touch(mode=0o600)
    path.write_text(configuration_of(OLD, resources))
    return path


def providers_of(path: Path) -> tuple[Provider, ...]:
    [entry] = generation_of(str(path), allow_readable=False).configuration.entries
    return entry.providers


def test_a_new_key_comes_first_and_the_others_stay(tmp_path: Path) -> None:
    path = written(tmp_path, RESOURCES)
    for name in ("key3", "key4"):
        before = providers_of(path)
        assert main(["demo", "--next-key", str(path)]) == 0
        first, *others = providers_of(path)
        assert tuple(others) == before
        assert isinstance(first, KeyedProvider)
        assert [key.name for key in first.keys] == [name]
    assert [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_file_that_may_be_a_clusters_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = written(tmp_path, ("secrets",))
    before = path.read_bytes()
    assert main(["demo", "--next-key", str(path)]) == 2
    assert path.read_bytes() == before
    assert "is not from --seed-only" in capsys.readouterr().err
