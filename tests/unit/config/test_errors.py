from __future__ import annotations

import pickle

import pytest

from kube_rewrap.config.errors import (
    ConfigError,
    DocumentError,
    EncryptionConfigError,
    Fault,
    SettingsError,
    SourceError,
)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (Fault("kind", "it is missing", "write it", 2), "kind (line 2): it is missing; write it"),
        (Fault("kind", "it is missing", "write it"), "kind: it is missing; write it"),
        (Fault("", "it is empty", "fill it", 1), "line 1: it is empty; fill it"),
        (Fault("", "it is empty", "fill it"), "it is empty; fill it"),
    ],
)
def test_a_fault_is_one_line_with_its_path_first(fault: Fault, text: str) -> None:
    assert str(fault) == text


def test_one_fault_stands_on_the_line_of_the_file() -> None:
    assert str(DocumentError("enc.yaml", [Fault("", "it is empty", "fill it")])) == "enc.yaml: it is empty; fill it"


def test_several_faults_are_all_listed() -> None:
    error = EncryptionConfigError("enc.yaml", [Fault("a", "b", "c"), Fault("d", "e", "f", 3)])
    assert str(error) == "enc.yaml: 2 faults\n  a: b; c\n  d (line 3): e; f"


@pytest.mark.parametrize("kind", [SourceError, DocumentError, EncryptionConfigError, SettingsError])
def test_every_error_is_a_config_error_and_survives_pickle(kind: type[ConfigError]) -> None:
    error = pickle.loads(pickle.dumps(kind("enc.yaml", (Fault("a", "b", "c"),))))  # noqa: S301 - our own bytes
    assert isinstance(error, ConfigError)
    assert type(error) is kind
    assert (error.file, error.faults) == ("enc.yaml", (Fault("a", "b", "c"),))
